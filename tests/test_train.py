"""Training: what the loss sees, that it is the loss we mean, and that a killed run ends as an uninterrupted one.

Run as a script (``python tests/test_train.py FOLDER``) it trains and is killed while it writes its second checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from decoupled_esc import models, prompts, train
from decoupled_esc.corpus import Turn, chat_form, read_raw, turns
from decoupled_esc.corpus.split import MANIFEST
from decoupled_esc.prompts import Prompt, render

SHAPE = models.EmbeddedModel(
    kind="embedded", vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=512
)
FULL = train.Training(
    epochs=2, learning_rate=1e-2, batch=4, micro_batch=4, schedule="cosine", warmup_share=0.1, lora=None,
    precision="float32", checkpoint_every=2,
)  # fmt: skip
LORA = FULL.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.3)})

torch.set_num_threads(1)


def last_message(turn: Turn) -> Prompt:
    """A layout with short prompts, to keep these tests quick."""
    return Prompt(turn.id, (("user", turn.context[-1].text),), turn.strategy)


def material() -> tuple:
    """(tokenizer, dialogues, 12 rows of different lengths): 3 steps of 4 an epoch."""
    dialogues, _ = read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")
    tokenizer = models.train_tokenizer((u.text for d in dialogues for u in d.utterances), SHAPE.vocabulary)
    rows, _ = train.encode([t for d in dialogues[:2] for t in turns(d)][:12], last_message, tokenizer, 200)
    return tokenizer, dialogues, rows


@pytest.fixture(scope="module")
def made() -> tuple:
    return material()


@pytest.fixture(scope="module")
def tokenizer(made):
    return made[0]


@pytest.fixture(scope="module")
def dialogues(made):
    return made[1]


@pytest.fixture(scope="module")
def rows(made):
    return made[2]


def fresh(tokenizer):
    return models.create(SHAPE, tokenizer, seed=3)


def cross_entropy(model, rows) -> float:
    """Mean over all target tokens, from the definition: -log softmax(logits)[next token]."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model.eval()(torch.tensor([row["input_ids"]], device=model.device)).logits[0].double()
            for position, label in enumerate(row["labels"]):
                if label != train.IGNORED:
                    total -= torch.log_softmax(logits[position - 1], 0)[label].item()
                    count += 1
    return total / count


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


# What the loss sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", prompts.LAYOUTS)
def test_rows_learn_the_target_and_nothing_else(tokenizer, dialogues, name):
    layout, window = prompts.LAYOUTS[name], 420
    asked = [t for d in dialogues[:3] for t in turns(d)]
    rows, cut = train.encode(asked, layout, tokenizer, window)
    assert [row["id"] for row in rows] == [t.id for t in asked]
    whole = 0
    for row, turn in zip(rows, asked, strict=True):
        assert len(row["input_ids"]) == len(row["labels"]) <= window
        start = row["labels"].count(train.IGNORED)
        assert row["labels"] == [train.IGNORED] * start + row["input_ids"][start:]
        question, answer = tokenizer.decode(row["input_ids"][:start]), tokenizer.decode(row["input_ids"][start:])
        assert answer == layout(turn).target + models.END
        assert question.endswith("<|im_end|>\n<|im_start|>assistant\n")
        full = render(layout(turn), tokenizer)[0]
        whole += question == full
        # Cut or not, instruction and last message are there.
        assert question.startswith(full[: full.index("<|im_end|>")]) and turn.context[-1].text in question
    assert 0 < cut == len(rows) - whole < len(rows)


def test_a_window_too_small_for_one_message(tokenizer, dialogues):
    with pytest.raises(prompts.PromptTooLong, match="miniature/0000/00"):
        train.encode(turns(dialogues[0]), prompts.vanilla, tokenizer, 40)


def test_plain_blocks_are_the_dialogues_one_after_the_other(tokenizer, dialogues):
    blocks = train.encode_plain(dialogues[:3], tokenizer, 50)
    assert {len(b["input_ids"]) for b in blocks[:-1]} == {50} and 1 <= len(blocks[-1]["input_ids"]) <= 50
    assert all(b["labels"] == b["input_ids"] for b in blocks)
    said = [
        f"<|im_start|>{'user' if m.role == 'seeker' else 'assistant'}\n{m.text}<|im_end|>\n"
        for d in dialogues[:3]
        for m in chat_form(d)
    ]
    assert tokenizer.decode([token for b in blocks for token in b["input_ids"]]) == "".join(said)


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer):
    class Rewriting:
        def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=False):
            return f"{len(messages)} messages" + "answer:" * add_generation_prompt

    with pytest.raises(ValueError, match="d/0/01: this chat template changes the prompt"):
        render(Prompt("d/0/01", (("user", "Hi"),), "Question"), Rewriting())


# The loss -------------------------------------------------------------------------------------------------------


def test_held_out_loss_is_the_mean_over_target_tokens(tokenizer, rows):
    model = fresh(tokenizer)
    assert train.held_out_loss(model, rows) == pytest.approx(cross_entropy(model, rows), rel=1e-5)
    lengths = {sum(label != train.IGNORED for label in row["labels"]) for row in rows}
    assert len(lengths) > 1  # or a mean of row means would pass, too


@pytest.mark.parametrize("micro", [6, 2])
def test_the_trainers_first_loss_is_the_cross_entropy_of_the_targets(tokenizer, rows, tmp_path, micro):
    how = FULL.model_copy(update={"epochs": 1, "batch": 6, "micro_batch": micro, "schedule": "constant"})
    six = rows[:6]
    model = fresh(tokenizer)
    expected = cross_entropy(model, six)  # one batch holds all rows, so the shuffle can't matter
    log = train.fine_tune(model, tokenizer, six, how, tmp_path, seed=1)
    assert len(log.steps) == 1
    assert log.steps[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert log.steps[0]["tokens"] == log.tokens == sum(len(row["input_ids"]) for row in six)
    assert log.target_tokens == sum(label != train.IGNORED for row in six for label in row["labels"])


def test_gradient_accumulation_changes_nothing(tokenizer, rows, tmp_path):
    trained = []
    for micro in (4, 2):
        how = FULL.model_copy(update={"micro_batch": micro, "epochs": 1, "learning_rate": 1e-3})
        model = fresh(tokenizer)
        train.fine_tune(model, tokenizer, rows[:10], how, tmp_path / str(micro), seed=1)  # 4 + 4 + 2
        trained.append(weights(model))
    for name in trained[0]:
        # A key's bias shifts all attention scores alike: its gradient is rounding noise, which Adam scales up.
        if "k_proj.bias" not in name:
            assert (trained[0][name] - trained[1][name]).abs().max() < 1e-5, name


def test_batch_is_a_multiple_of_micro_batch(tokenizer, rows, tmp_path):
    how = FULL.model_copy(update={"batch": 4, "micro_batch": 3})
    with pytest.raises(ValueError, match="batch 4 is not a multiple of micro_batch 3"):
        train.fine_tune(fresh(tokenizer), tokenizer, rows, how, tmp_path, seed=1)


# Interrupted and resumed ----------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def interrupted(how, tokenizer, rows, folder: Path, after: int) -> None:
    """Trains until checkpoint number ``after`` is written, and there falls over."""
    written, save = [], Trainer._save_checkpoint

    def save_and_fall(self, *args, **kwargs):
        save(self, *args, **kwargs)
        written.append(self.state.global_step)
        if len(written) == after:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_save_checkpoint", save_and_fall)
        with pytest.raises(Killed):
            train.fine_tune(fresh(tokenizer), tokenizer, rows, how, folder, seed=11)
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
def uninterrupted(tokenizer, rows, tmp_path_factory) -> dict:
    """how -> (folder, log, model, model's weights at the start) of a training left in peace."""
    done = {}
    for name, how in (("full", FULL), ("lora", LORA)):
        folder, model = tmp_path_factory.mktemp(name), fresh(tokenizer)
        before = weights(model)
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        torch.manual_seed(len(name))  # of no influence
        done[name] = folder, train.fine_tune(model, tokenizer, rows, how, folder, seed=11), model, before
    return done


@pytest.mark.parametrize(("name", "how"), [("full", FULL), ("lora", LORA)])
@pytest.mark.parametrize("after", [1, 2])  # step 2 of 3 in the first epoch; step 1 of 3 in the second
def test_a_resumed_run_ends_with_the_same_weights(uninterrupted, tokenizer, rows, tmp_path, steps, name, how, after):
    folder, log, _, _ = uninterrupted[name]
    interrupted(how, tokenizer, rows, tmp_path, after)
    assert steps == [1, 2, 3, 4][: 2 * after]
    torch.manual_seed(99)  # a new process starts from another state of the global generator
    model = fresh(tokenizer)
    resumed = train.fine_tune(model, tokenizer, rows, how, tmp_path, seed=11)
    assert steps == [1, 2, 3, 4, 5, 6]  # none twice
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(folder / "policy")
    assert resumed == log  # losses and tokens seen, too


def test_a_run_killed_while_writing_a_checkpoint(uninterrupted, tokenizer, rows, tmp_path, steps):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if torch.cuda.is_available():
        pytest.skip("the other runs of this file were made on the GPU")
    run = subprocess.run([sys.executable, __file__, tmp_path], env=environment, capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL, run.stderr
    left = {folder.name for folder in (tmp_path / "checkpoints").glob("checkpoint-*")}
    assert left == {"checkpoint-2", "checkpoint-4"}
    assert not (tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").exists()
    (tmp_path / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 1')  # cut short, even
    folder, log, _, _ = uninterrupted["full"]
    assert train.fine_tune(fresh(tokenizer), tokenizer, rows, FULL, tmp_path, seed=11) == log
    assert steps == [3, 4, 5, 6]
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(folder / "policy")


def test_another_seed_is_another_run(uninterrupted, tokenizer, rows, tmp_path):
    how = FULL.model_copy(update={"epochs": 1})
    for seed in (11, 12):
        train.fine_tune(fresh(tokenizer), tokenizer, rows, how, tmp_path / str(seed), seed=seed)
    assert models.weights_digest(tmp_path / "11" / "policy") != models.weights_digest(tmp_path / "12" / "policy")


# What is learned and saved --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["full", "lora"])
def test_training_lowers_the_loss(uninterrupted, tokenizer, rows, name):
    folder, log, model, _ = uninterrupted[name]
    before = train.held_out_loss(fresh(tokenizer), rows)
    after = train.held_out_loss(model, rows)
    assert after < before - 0.01
    assert [step["step"] for step in log.steps] == [1, 2, 3, 4, 5, 6]
    assert log.steps[-1]["learning_rate"] < max(step["learning_rate"] for step in log.steps) == FULL.learning_rate
    seen = [step["tokens"] for step in log.steps]
    assert seen == sorted(seen) and seen[-1] == log.tokens == 2 * sum(len(row["input_ids"]) for row in rows)


def test_full_training_saves_all_weights(uninterrupted):
    folder, log, model, _ = uninterrupted["full"]
    assert log.trainable == log.parameters == sum(p.numel() for p in model.parameters())
    loaded = weights(models.load(folder / "policy"))
    assert loaded.keys() == weights(model).keys()
    assert all(torch.equal(loaded[name], w) for name, w in weights(model).items())
    assert models.load_tokenizer(folder / "policy").eos_token == models.END


def test_lora_trains_and_saves_the_adapter_only(uninterrupted, rows):
    folder, log, model, before = uninterrupted["lora"]
    files = {path.name for path in (folder / "policy").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    adapted = models.load(folder / "base", adapter=folder / "policy")
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 7 * SHAPE.layers  # A and B on q, k, v, o, gate, up, down; not on the tied output
    # r x (in + out) for each of them
    h, f, r = SHAPE.hidden, SHAPE.feed_forward, LORA.lora.rank
    assert log.trainable == SHAPE.layers * r * (4 * (h + h) + 3 * (h + f))
    assert log.parameters == log.trainable + sum(w.numel() for w in before.values())
    base = weights(models.load(folder / "base"))
    assert all(torch.equal(base[name], w) for name, w in before.items())
    # The model in memory: frozen weights untouched, adapters moved off zero.
    for name, parameter in model.named_parameters():
        assert "lora_" in name or torch.equal(parameter.detach().cpu(), before[name.replace(".base_layer", "")]), name
        assert "lora_B" not in name or parameter.abs().max() > 0
    assert train.held_out_loss(adapted, rows) < train.held_out_loss(models.load(folder / "base"), rows)


def killed_while_writing(folder: Path) -> None:
    """Train as ``uninterrupted`` does; SIGKILL in the middle of the second checkpoint."""
    tokenizer, _, rows = material()
    save = Trainer._save_rng_state

    def save_or_die(self, output_dir):
        if self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, output_dir)

    Trainer._save_rng_state = save_or_die
    train.fine_tune(fresh(tokenizer), tokenizer, rows, FULL, folder, seed=11)


if __name__ == "__main__":
    killed_while_writing(Path(sys.argv[1]))
