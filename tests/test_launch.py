"""Training in two processes over gloo is training in one; and they end with their parent."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file

from decoupled_esc import corpus, models, prompts, train
from decoupled_esc.train.config import CONFIGS

BASE = models.Weights(models.EMBEDDED / "esc-nano")
FULL = train.Training(
    epochs=1, learning_rate=1e-3, batch_size=2, per_device_batch_size=1, schedule="cosine", warmup_ratio=0.0,
    lora=None, precision="float32", checkpoint_every=100,
)  # fmt: skip
LORA = FULL.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.0), "learning_rate": 1e-2})
TWO = train.Launch(processes=2, config="cpu")
LITTLE = {"max_length": 450, "count": 8}
"""With which some of the dialogues are read in several passes, so that one process has more of them than the other."""


def turns(count: int = 3):
    dialogues = corpus.load("esconv", download=False).split("train")[:6]
    return [turn for dialogue in dialogues for turn in corpus.turns(dialogue)[:count]]


def job(training=FULL) -> train.Job:
    sequences = train.encode(turns(), prompts.vanilla, models.load_tokenizer(BASE), 1024)
    return train.Job(BASE, sequences, training, 5)


@pytest.mark.parametrize(("loss", "max_length", "count"), [("dpo", 1024, 3), ("sft", *LITTLE.values())])
def test_two_processes_learn_what_one_does(tmp_path, loss, max_length, count):
    found = {}
    for name, launch in (("one", None), ("two", TWO)):
        options = {"folder": tmp_path / name, "seed": 5, "held_out": turns()[:2], "launch": launch}
        options["max_length"] = max_length
        if loss == "sft":
            found[name] = train.train_sft(BASE, turns(count), prompts.vanilla, FULL, **options)
        else:
            pairs = [train.Pair(turn.id, turn, "[Others] whatever") for turn in turns()]
            preference = train.Preference(loss="dpo", beta=0.2)
            found[name] = train.train_preference(BASE, pairs, prompts.vanilla, preference, LORA, **options)
    alone, apart = found["one"], found["two"]
    assert len(apart.steps) == len(alone.steps) == 3 and apart.tokens == alone.tokens
    for one, two in zip(alone.steps, apart.steps, strict=True):
        assert two == pytest.approx(one, rel=2e-3, abs=2e-4), "loss, learning rate, tokens, rewards"
    assert apart.held_out_loss == pytest.approx(alone.held_out_loss, rel=1e-3)
    (name,) = (path.name for path in (tmp_path / "one" / "policy").glob("*.safetensors"))
    one, two = (load_file(tmp_path / folder / "policy" / name) for folder in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=2e-4, rtol=2e-3)
    if loss == "dpo":
        assert alone.steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert not list((tmp_path / "two").glob("*.pickle")) and not (tmp_path / "two" / "launch-job.json").exists()


def test_some_dialogues_take_several_passes():
    asked, tokenizer = turns(LITTLE["count"]), models.load_tokenizer(BASE.source)
    sequences = train.encode(asked, prompts.vanilla, tokenizer, LITTLE["max_length"])
    passes = list(map(len, sequences.passes))
    assert len(passes) == 6 and min(passes) == 1 and max(passes) > 1, passes  # how many is up to the data at hand


def test_a_job_reads_back_from_json():
    work = replace(job(LORA), preference=train.Preference(loss="kto", beta=0.1), reference=[[-1 / 3, -1e-30]])
    stored = TypeAdapter(train.Job).dump_json(work)
    json.loads(stored)
    read = TypeAdapter(train.Job).validate_json(stored)
    assert replace(read, weights=replace(read.weights, source=BASE.source)) == work
    assert str(read.weights.source) == str(BASE.source)


def test_what_cant_be_launched_is_refused(tmp_path, capfd):
    with pytest.raises(train.TrainingError, match="batch_size 2 is not a multiple of .* 1 times 4 processes"):
        train.launched(job(), tmp_path, TWO.model_copy(update={"processes": 4}))
    with pytest.raises(train.LaunchError, match="no configuration ring.yaml; there are cpu, ddp, fsdp, zero2"):
        train.launched(job(), tmp_path, TWO.model_copy(update={"config": "ring"}))
    with pytest.raises(train.LaunchError, match="ended with status"):
        train.launched(replace(job(), weights=models.Weights(tmp_path / "nowhere")), tmp_path, TWO)
    assert "nowhere" in capfd.readouterr().err


def test_the_processes_end_with_their_parent(tmp_path):
    program = (
        "from pathlib import Path; import sys; sys.path.insert(0, sys.argv[1]); import test_launch as t; "
        "t.train.launched(t.job(t.FULL.model_copy(update={'epochs': 10**6})), Path(sys.argv[2]), t.TWO)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(models.EMBEDDED.parent / "tests"), str(tmp_path)])
    deadline, family = time.monotonic() + 90, []
    while len(family) < 3 and time.monotonic() < deadline:
        time.sleep(0.5)
        family = psutil.Process(parent.pid).children(recursive=True)
    assert len(family) >= 3, "torchrun and its two"
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(family, timeout=40)
    assert not alive


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration(path):
    from accelerate.commands.config.config_args import load_config_from_file

    found = load_config_from_file(str(path))
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert str(found.distributed_type).endswith(written["distributed_type"]) and found.num_machines == 1
    assert found.mixed_precision == "no"
