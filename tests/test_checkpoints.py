"""A resumed run ends as an uninterrupted one, whatever was damaged; and what training learns and saves."""

# ruff: noqa: F811

import errno
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from training_cases import DPO, FULL, LORA, SHAPE, fine_tuned, fresh, pairs, sequences, weights  # noqa: F401
from transformers import Trainer

from decoupled_esc import models, train


@dataclass(frozen=True)
class Run:
    """A training, as it is begun: before an interruption, and after."""

    start: Callable
    sequences: train.Sequences
    training: train.Training
    options: dict = field(default_factory=dict)

    def fine_tune(self, tokenizer, folder: Path, **update):
        """(log, model)"""
        model = self.start()
        training = self.training.model_copy(update=update)
        return train.fine_tune(
            model, tokenizer, self.sequences, training, folder, **{"seed": 11, **self.options}
        ), model


@pytest.fixture(scope="module")
def runs(tokenizer, sequences, pairs, fine_tuned) -> dict[str, Run]:
    def adapted():
        return models.load(models.Weights(fine_tuned / "base", adapter=fine_tuned / "policy"), for_training=True)

    reference = train.reference_logps(adapted(), pairs, "fine-tuned", fine_tuned)
    return {
        "full": Run(lambda: fresh(tokenizer), sequences, FULL),
        "lora": Run(lambda: fresh(tokenizer), sequences, LORA),
        "dpo": Run(adapted, pairs, LORA, {"preference": DPO, "reference": reference}),
    }


class Killed(Exception):
    pass


def interrupted(run: Run, tokenizer, folder: Path, after: int, **update) -> None:
    """Trains until ``after`` steps are made, and there falls over."""
    step = Trainer.training_step

    def step_or_fall(self, *args, **kwargs):
        if self.state.global_step == after:
            raise Killed
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", step_or_fall)
        with pytest.raises(Killed):
            run.fine_tune(tokenizer, folder, **update)
    assert not (folder / "policy").exists()


@pytest.fixture
def steps(monkeypatch) -> list[int]:
    """The steps that are really made from here on (a batch is one micro batch)."""
    made, step = [], Trainer.training_step

    def noted(self, *args, **kwargs):
        made.append(self.state.global_step + 1)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", noted)
    return made


@pytest.fixture(scope="module")
def uninterrupted(runs, tokenizer, tmp_path_factory) -> dict:
    """name -> (folder, log, model, model's weights at the start) of a training left in peace."""
    done = {}
    for name, run in runs.items():
        folder, model = tmp_path_factory.mktemp(name), run.start()
        before = weights(model)
        torch.manual_seed(len(name))  # of no influence
        done[name] = folder, *replace(run, start=lambda model=model: model).fine_tune(tokenizer, folder), before
    return done


# Step 2 of 3 in the first epoch; step 1 of 3 in the second; the end of the first.
@pytest.mark.parametrize(
    ("name", "every", "after"),
    [("full", 2, 2), ("lora", 2, 4), ("dpo", 2, 4), ("dpo", 3, 3)],
)
def test_a_resumed_run_ends_with_the_same_weights(uninterrupted, runs, tokenizer, tmp_path, steps, name, every, after):
    folder, log, _, _ = uninterrupted[name]
    interrupted(runs[name], tokenizer, tmp_path, after, checkpoint_every=every)
    torch.manual_seed(99)  # a new process starts from another state of the global generator
    resumed, _ = runs[name].fine_tune(tokenizer, tmp_path, checkpoint_every=every)
    assert steps == [1, 2, 3, 4, 5, 6]  # none twice
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(folder / "policy")
    assert resumed == log  # losses, rewards and tokens seen, too


def zeroed(file: Path) -> None:
    """Its second half is nought."""
    written = file.read_bytes()
    half = len(written) // 2
    file.write_bytes(written[:half] + bytes(len(written) - half))


def test_a_broken_checkpoint_is_named_and_the_one_before_is_used(
    stopped, uninterrupted, runs, tokenizer, tmp_path, steps, capsys
):
    """Every kind of damage that is seen stands in test_faults."""
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    zeroed(tmp_path / "checkpoints" / "checkpoint-4" / "optimizer.pt")
    log, _ = runs["full"].fine_tune(tokenizer, tmp_path)
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "checkpoint-4" in line]
    assert "damaged (optimizer.pt)" in said
    assert steps == [3, 4, 5, 6]
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(uninterrupted["full"][0] / "policy")
    assert log == uninterrupted["full"][1]


def test_without_a_whole_checkpoint_training_starts_again(stopped, uninterrupted, runs, tokenizer, tmp_path, steps):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        zeroed(checkpoint / "model.safetensors")
    assert runs["full"].fine_tune(tokenizer, tmp_path)[0] == uninterrupted["full"][1]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("other", [{"learning_rate": 2e-2}, {"seed": 12}, {"start": "other weights"}])
def test_a_checkpoint_of_another_training_is_not_used(stopped, runs, tokenizer, tmp_path, steps, capsys, other):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    options = {name: value for name, value in other.items() if name != "learning_rate"}
    run = replace(runs["full"], options=options)
    run.fine_tune(tokenizer, tmp_path, **{name: value for name, value in other.items() if name == "learning_rate"})
    assert steps == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("is of another training") == 2


@pytest.fixture(scope="module")
def stopped(runs, tokenizer, tmp_path_factory) -> Path:
    """The folder of "full" that fell over after its second checkpoint."""
    folder = tmp_path_factory.mktemp("stopped")
    interrupted(runs["full"], tokenizer, folder, 4)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    return folder


@pytest.mark.parametrize(
    "error", [SafetensorError("I/O error: No space left on device (os error 28)"), OSError(errno.ENOSPC, "No space")]
)
def test_a_full_disk_is_said_to_be_one(runs, tokenizer, tmp_path, monkeypatch, error):
    def full(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Trainer, "save_model", full)
    with pytest.raises(OSError) as caught:
        runs["full"].fine_tune(tokenizer, tmp_path)
    assert caught.value.errno == errno.ENOSPC


def test_each_epoch_has_its_own_order(uninterrupted, sequences):
    seen = [0, *(step["tokens"] for step in uninterrupted["full"][1].steps)]
    read = [after - before for before, after in zip(seen, seen[1:], strict=False)]
    assert sum(read[:3]) == sum(read[3:]) == sequences.tokens
    assert read[:3] != read[3:]  # so a run resumed in the second epoch had to find the second order


def test_another_seed_is_another_run(uninterrupted, tokenizer, sequences, tmp_path):
    train.fine_tune(fresh(tokenizer), tokenizer, sequences, FULL, tmp_path, seed=12)
    assert models.weights_digest(tmp_path / "policy") != models.weights_digest(uninterrupted["full"][0] / "policy")


# What is learned and saved --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["full", "lora"])
def test_training_lowers_the_loss(uninterrupted, tokenizer, sequences, name):
    folder, log, model, _ = uninterrupted[name]
    before = train.held_out_loss(fresh(tokenizer), sequences)
    after = train.held_out_loss(model, sequences)
    assert after < before - 0.01
    assert [step["step"] for step in log.steps] == [1, 2, 3, 4, 5, 6]
    assert log.steps[-1]["learning_rate"] < max(step["learning_rate"] for step in log.steps) == FULL.learning_rate
    seen = [step["tokens"] for step in log.steps]
    assert seen == sorted(seen) and seen[-1] == log.tokens == 2 * sequences.tokens
    assert log.unpacked_tokens == 2 * sequences.unpacked_tokens and log.target_tokens == 2 * sequences.target_tokens


def test_full_training_saves_all_weights(uninterrupted):
    folder, log, model, _ = uninterrupted["full"]
    assert log.trainable == log.parameters == sum(p.numel() for p in model.parameters())
    loaded = weights(models.load(folder / "policy"))
    assert loaded.keys() == weights(model).keys()
    assert all(torch.equal(loaded[name], w) for name, w in weights(model).items())
    assert models.load_tokenizer(folder / "policy").eos_token == models.END


def adapter_size(rank: int) -> int:
    """r x (in + out) for each of q, k, v, o, gate, up, down."""
    h, f = SHAPE.hidden, SHAPE.feed_forward
    return SHAPE.layers * rank * (4 * (h + h) + 3 * (h + f))


def test_lora_trains_and_saves_the_adapter_only(uninterrupted, fine_tuned, sequences):
    folder, log, model, before = uninterrupted["lora"]
    files = {path.name for path in (folder / "policy").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    adapted = models.load(models.Weights(fine_tuned / "base", adapter=folder / "policy"))
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 7 * SHAPE.layers  # A and B on q, k, v, o, gate, up, down; not on the tied output
    assert log.trainable == adapter_size(LORA.lora.rank)
    assert log.parameters == log.trainable + sum(w.numel() for w in before.values())
    base = weights(models.load(fine_tuned / "base"))
    assert all(torch.equal(base[name], w) for name, w in before.items())
    # The model in memory: frozen weights untouched, adapters moved off zero.
    for name, parameter in model.named_parameters():
        assert "lora_" in name or torch.equal(parameter.detach().cpu(), before[name.replace(".base_layer", "")]), name
        assert "lora_B" not in name or parameter.abs().max() > 0
    assert train.held_out_loss(adapted, sequences) < train.held_out_loss(models.load(fine_tuned / "base"), sequences)


def test_a_continued_adapter_stays_one_adapter_on_the_same_base(uninterrupted, fine_tuned):
    folder, log, model, before = uninterrupted["dpo"]
    assert log.trainable == adapter_size(LORA.lora.rank)
    assert log.parameters == sum(w.numel() for w in before.values())
    saved = {path.name for path in (folder / "policy").iterdir()}
    assert saved == {path.name for path in (fine_tuned / "policy").iterdir()}
    loaded = weights(models.load(models.Weights(fine_tuned / "base", adapter=folder / "policy")))
    for name, parameter in weights(model).items():
        assert torch.equal(loaded[name], parameter), name
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_a_model_with_an_adapter_is_given_no_second_one(runs, tokenizer, sequences, tmp_path):
    training = LORA.model_copy(update={"epochs": 1, "lora": train.Lora(rank=8, alpha=8, dropout=0.0)})
    log = train.fine_tune(runs["dpo"].start(), tokenizer, sequences, training, tmp_path, seed=1)
    assert log.trainable == adapter_size(LORA.lora.rank)


# Preferences ----------------------------------------------------------------------------------------------------


def test_preferences_start_at_no_reward_and_are_learned(uninterrupted, runs):
    """The adapter was fine-tuned with dropout; were it on, the first reward would not be 0."""
    _, log, model, _ = uninterrupted["dpo"]
    assert log.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert log.steps[0]["reward_chosen"] == pytest.approx(0, abs=1e-6)
    assert log.steps[0]["reward_rejected"] == pytest.approx(0, abs=1e-6)
    last = log.steps[-1]
    assert last["loss"] < math.log(2) - 0.02
    assert last["reward_chosen"] > last["reward_rejected"] and last["accuracy"] > 0.5
    assert not any(module.p for module in model.modules() if isinstance(module, torch.nn.Dropout))


def test_preferences_in_bfloat16_start_at_no_reward(runs, tokenizer, pairs, tmp_path):
    reference = train.reference_logps(runs["dpo"].start(), pairs, "fine-tuned", tmp_path, "bfloat16")
    run = replace(runs["dpo"], options={"preference": DPO, "reference": reference})
    log, _ = run.fine_tune(tokenizer, tmp_path, precision="bfloat16", epochs=1)
    assert log.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)


def test_a_reference_of_another_policy_is_refused(runs, tokenizer, pairs, fine_tuned, tmp_path):
    of_the_base = train.reference_logps(models.load(fine_tuned / "base"), pairs, "base", tmp_path)
    wrong = replace(runs["dpo"], options={"preference": DPO, "reference": of_the_base})
    with pytest.raises(train.ReferenceMismatch, match=r"^miniature/0000/00#0: .*for an adapter on a fine-tuned"):
        wrong.fine_tune(tokenizer, tmp_path)
    short = replace(runs["dpo"], options={"preference": DPO, "reference": runs["dpo"].options["reference"][:-1]})
    with pytest.raises(train.ReferenceMismatch, match="11 reference sequences for 12"):
        short.fine_tune(tokenizer, tmp_path)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "policy").exists()
