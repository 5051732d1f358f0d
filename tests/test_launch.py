"""Training in two processes over gloo is training in one: the same losses, rewards and weights."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from decoupled_esc import corpus, models, prompts, train
from decoupled_esc.train.launch import CONFIGS

BASE = models.EMBEDDED / "esc-nano"
HOW = train.Training(
    epochs=2, learning_rate=1e-3, batch=2, micro_batch=1, schedule="cosine", warmup_share=0.0, lora=None, precision="float32", checkpoint_every=100,
)  # fmt: skip
LORA = HOW.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.0), "learning_rate": 1e-2})
TWO = train.Launch(processes=2, config="cpu")
WEIGHTS = (BASE, None, "float32", None)


def turns():
    dialogues = corpus.load("esconv", download=False).split("train")[:6]
    return [turn for dialogue in dialogues for turn in corpus.turns(dialogue)[:3]]


@pytest.mark.parametrize("loss", ["sft", "dpo"])
def test_two_processes_learn_what_one_does(tmp_path, loss):
    torch.set_num_threads(1)
    model, tokenizer = models.load(BASE, for_training=True), models.load_tokenizer(BASE)
    how, more = (HOW, {}) if loss == "sft" else (LORA, {"preference": train.Preference(loss="dpo", beta=0.2)})
    if loss == "sft":
        sequences = train.encode(turns(), prompts.vanilla, tokenizer, 1024)
    else:
        pairs = [train.Pair(turn.id, turn, "[Others] whatever") for turn in turns()]
        sequences = train.encode_pairs(pairs, prompts.vanilla, tokenizer, 1024)
        more["reference"] = train.reference_logps(model, sequences, "base", tmp_path)
    (tmp_path / "two").mkdir()
    apart = train.launched(WEIGHTS, sequences, how, tmp_path / "two", TWO, seed=5, **more)
    alone = train.fine_tune(model, tokenizer, sequences, how, tmp_path / "one", seed=5, **more)
    assert len(apart.steps) == len(alone.steps) == 6 and apart.tokens == alone.tokens
    for one, two in zip(alone.steps, apart.steps, strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=2e-4), "loss, learning rate, tokens, rewards"
    (name,) = (path.name for path in (tmp_path / "one" / "policy").glob("*.safetensors"))
    one, two = (load_file(tmp_path / folder / "policy" / name) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=2e-4, rtol=2e-3)
    if loss == "dpo":
        assert alone.steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)


def test_a_batch_that_cant_be_shared_is_refused(tmp_path):
    sequences = train.encode(turns(), prompts.vanilla, models.load_tokenizer(BASE), 1024)
    with pytest.raises(ValueError, match="batch 2 can't be shared by 4 processes"):
        train.launched(WEIGHTS, sequences, HOW, tmp_path, TWO.model_copy(update={"processes": 4}), seed=1)
    with pytest.raises(train.LaunchError, match="no configuration ring.yaml; there are cpu, ddp, fsdp, zero2"):
        train.launched(WEIGHTS, sequences, HOW, tmp_path, TWO.model_copy(update={"config": "ring"}), seed=1)


def test_a_process_that_fails_is_told(tmp_path, capfd):
    sequences = train.encode(turns(), prompts.vanilla, models.load_tokenizer(BASE), 1024)
    with pytest.raises(train.LaunchError, match="ended with status"):
        train.launched((tmp_path / "nowhere", None, "float32", None), sequences, HOW, tmp_path, TWO, seed=1)
    assert "nowhere" in capfd.readouterr().err


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert str(found.distributed_type).endswith(written["distributed_type"]) and found.num_machines == 1
    assert found.mixed_precision == "no"


def test_a_profile_trains_in_several_processes(tmp_path, monkeypatch):
    from decoupled_esc.workflow.profiles import load_profile
    from decoupled_esc.workflow.session import Session

    monkeypatch.delenv("DECOUPLED_ESC_DATA", raising=False)
    monkeypatch.setenv("DECOUPLED_ESC_CACHE", str(tmp_path / "cache"))
    smoke = load_profile("smoke")
    quick = smoke.sft.planner.model_copy(update={"batch": 2})
    profile = smoke.model_copy(update={"data": smoke.data.model_copy(update={"train_dialogues": 4}), "sft": smoke.sft.model_copy(update={"planner": quick})})
    found = {}
    for name, several in (("one", None), ("two", TWO)):
        session = Session(profile.model_copy(update={"several_gpus": several}), runs_only=True, runs=tmp_path / name, published=tmp_path / "published")
        found[name] = session.run("sft-planner").payload
    assert found["one"]["held_out_loss"] == pytest.approx(found["two"]["held_out_loss"], rel=1e-3)
