"""Training: what the loss sees, that it is the loss we mean, and that a killed run ends as an uninterrupted one.

Run as a script (``python tests/test_train.py FOLDER``) it trains and is killed while it writes its second checkpoint.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from decoupled_esc import models, prompts, taxonomy, train
from decoupled_esc.corpus import Turn, chat_form, read_raw, turns
from decoupled_esc.corpus.split import MANIFEST
from decoupled_esc.packing import Packed
from decoupled_esc.prompts import Prompt, ids, render
from decoupled_esc.train.divergence import divergence

SHAPE = models.Shape(
    vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=512
)
FULL = train.Training(
    epochs=2, learning_rate=1e-2, batch=4, micro_batch=4, schedule="cosine", warmup_share=0.1, lora=None,
    precision="float32", checkpoint_every=2,
)  # fmt: skip
LORA = FULL.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.3)})
DPO = train.Preference(loss="dpo", beta=0.1)
WINDOW = 400

torch.set_num_threads(1)


def talk(turn: Turn) -> Prompt:
    """A layout with short prompts, to keep these tests quick; its turns share the dialogue so far."""
    said = tuple(("user" if m.role == "seeker" else "assistant", m.text) for m in turn.context)
    return Prompt(turn.id, said, turn.strategy)


def opening(dialogues, count: int) -> list[Turn]:
    """The first three turns of ``count`` dialogues."""
    return [t for d in dialogues[:count] for t in turns(d)[:3]]


def read() -> list:
    return read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")[0]


@pytest.fixture(scope="module")
def dialogues() -> list:
    return read()


@pytest.fixture(scope="module")
def sequences(tokenizer, dialogues) -> train.Sequences:
    """12 dialogues of different lengths: 3 steps of 4 an epoch."""
    return train.encode(opening(dialogues, 12), talk, tokenizer, WINDOW)


def fresh(tokenizer):
    return models.create(SHAPE, tokenizer, seed=3)


def cross_entropy(model, tokenizer, asked: list[Turn]) -> float:
    """Mean over all target tokens of ``talk``, from the definition: -log softmax(logits)[next token]."""
    total, count = 0.0, 0
    for turn in asked:
        question, answer = (ids(text, tokenizer) for text in render(talk(turn), tokenizer))
        with torch.no_grad():
            logits = model.eval()(torch.tensor([question + answer], device=model.device)).logits[0].double()
        for position, token in enumerate(answer, start=len(question)):
            total -= torch.log_softmax(logits[position - 1], 0)[token].item()
            count += 1
    return total / count


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def followed(packed: Packed, index: int) -> list[int]:
    """The tokens above the one at ``index``, and itself: what the model has read when it predicts from there."""
    read, depth = [], packed.depths[index]
    for token, above in zip(packed.tokens[index::-1], packed.depths[index::-1], strict=True):
        if above == depth:
            read.append(token)
            depth -= 1
    return read[::-1]


def unpacked(packed: Packed) -> list[tuple[list[int], list[int]]]:
    """(question, answer) of every answer in ``packed``, read off the tree."""
    found = []
    for owner in range(packed.answers):
        mine = [n for n, other in enumerate(packed.owners) if other == owner]
        answer = [packed.targets[n] for n in mine]
        question = followed(packed, packed.predictors[mine[0]])
        # Each token is predicted below the ones before it, and below nothing else.
        for k, n in enumerate(mine):
            assert followed(packed, packed.predictors[n]) == question + answer[:k]
        found.append((question, answer))
    return found


# What the loss sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["dialogue", "turn"])
@pytest.mark.parametrize("name", prompts.LAYOUTS)
def test_sequences_learn_the_target_and_nothing_else(tokenizer, dialogues, name, unit):
    layout, window = prompts.LAYOUTS[name], 420
    asked = [t for d in dialogues[:3] for t in turns(d)]
    sequences = train.encode(asked, layout, tokenizer, window, unit)
    assert [id for names in sequences.ids for id in names] == [t.id for t in asked]
    assert len(sequences) == (3 if unit == "dialogue" else len(asked))
    assert sequences.answers_each == 1
    found = [row for packed in sequences.packed for row in unpacked(packed)]
    whole = 0
    for (before, after), turn in zip(found, asked, strict=True):
        assert len(before) + len(after) <= window
        question, answer = tokenizer.decode(before), tokenizer.decode(after)
        assert answer == layout(turn).target + models.END
        assert question.endswith("<|im_end|>\n<|im_start|>assistant\n")
        full = render(layout(turn), tokenizer)[0]
        whole += question == full
        # Cut or not, instruction and last message are there.
        assert question.startswith(full[: full.index("<|im_end|>")]) and turn.context[-1].text in question
    assert 0 < sequences.cut == len(found) - whole < len(found)
    assert sequences.target_tokens == sum(len(after) for _, after in found)
    assert sequences.tokens_apart == sum(len(before) + len(after) - 1 for before, after in found)
    assert sequences.tokens == sum(len(packed.tokens) for packed in sequences.packed)
    assert (sequences.tokens < sequences.tokens_apart) == (unit == "dialogue")


@pytest.mark.parametrize("mismatched", [None, 5])
@pytest.mark.parametrize("name", ["planner", "vanilla"])
def test_pairs_have_the_answers_and_the_prompt_they_share(tokenizer, dialogues, name, mismatched):
    layout, asked = prompts.LAYOUTS[name], opening(dialogues, 2)
    pairs = [train.Pair(f"{t.id}#{n}", t, text) for t in asked for n, text in enumerate(["Others", "[Question] Why?"])]
    sequences = train.encode_pairs(pairs, layout, tokenizer, 1000, mismatched=mismatched)
    assert sequences.answers_each == (2 if mismatched is None else 3)
    assert [id for names in sequences.ids for id in names] == [pair.id for pair in pairs]
    found = [row for packed in sequences.packed for row in unpacked(packed)]
    for n, pair in enumerate(pairs):
        (question, chosen), (same, rejected), *third = found[n * sequences.answers_each :][: sequences.answers_each]
        assert tokenizer.decode(question) == render(layout(pair.turn), tokenizer)[0]
        assert same == question and all(before == question for before, _ in third)
        assert tokenizer.decode(chosen) == layout(pair.turn).target + models.END
        assert tokenizer.decode(rejected) == pair.rejected + models.END


def test_the_longest_answer_of_a_pair_fits_in_the_window(tokenizer, dialogues):
    turn = turns(dialogues[0])[2]
    window = sum(len(ids(text, tokenizer)) for text in render(talk(turn), tokenizer))  # its own answer just fits
    for rejected, cut in (("No.", 0), (turn.strategy + " or not.", 1)):
        sequences = train.encode_pairs([train.Pair("p", turn, rejected)], talk, tokenizer, window)
        assert sequences.cut == cut
        assert max(len(question) + len(answer) for question, answer in unpacked(sequences.packed[0])) <= window


def test_a_window_too_small_for_one_message(tokenizer, dialogues):
    with pytest.raises(prompts.PromptTooLong, match="miniature/0000/00"):
        train.encode(turns(dialogues[0]), prompts.vanilla, tokenizer, 40)


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer):
    class Rewriting:
        def apply_chat_template(self, messages, add_generation_prompt=False, tokenize=False):
            return f"{len(messages)} messages" + "answer:" * add_generation_prompt

    with pytest.raises(ValueError, match="d/0/01: this chat template changes the prompt"):
        render(Prompt("d/0/01", (("user", "Hi"),), "Question"), Rewriting())


# The loss -------------------------------------------------------------------------------------------------------


def test_held_out_loss_is_the_mean_over_target_tokens(tokenizer, dialogues, sequences):
    model = fresh(tokenizer)
    expected = cross_entropy(model, tokenizer, opening(dialogues, 12))
    assert train.held_out_loss(model, sequences) == pytest.approx(expected, rel=1e-5)
    lengths = {len(packed.targets) for packed in sequences.packed}
    assert len(lengths) > 1  # or a mean of sequence means would pass, too


@pytest.mark.parametrize("micro", [6, 2])
def test_the_trainers_first_loss_is_the_cross_entropy_of_the_targets(tokenizer, dialogues, tmp_path, micro):
    how = FULL.model_copy(update={"epochs": 1, "batch": 6, "micro_batch": micro, "schedule": "constant"})
    asked = opening(dialogues, 6)
    six = train.encode(asked, talk, tokenizer, WINDOW)
    model = fresh(tokenizer)
    expected = cross_entropy(model, tokenizer, asked)  # one batch holds all six, so the shuffle can't matter
    log = train.fine_tune(model, tokenizer, six, how, tmp_path, seed=1)
    assert len(log.steps) == 1
    assert log.steps[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert log.steps[0]["tokens"] == log.tokens == sum(map(len, six.packed))
    assert log.tokens < log.tokens_apart == six.tokens_apart
    assert log.target_tokens == sum(len(packed.targets) for packed in six.packed)


def test_gradient_accumulation_changes_nothing(tokenizer, dialogues, tmp_path):
    ten = train.encode(opening(dialogues, 10), talk, tokenizer, WINDOW)  # 4 + 4 + 2
    trained, losses = [], []
    for micro in (4, 2):
        how = FULL.model_copy(update={"micro_batch": micro, "epochs": 1, "learning_rate": 1e-3})
        model = fresh(tokenizer)
        log = train.fine_tune(model, tokenizer, ten, how, tmp_path / str(micro), seed=1)
        trained.append(weights(model))
        losses.append([step["loss"] for step in log.steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name in trained[0]:
        # A key's bias shifts all attention scores nearly alike: its gradient is rounding noise, which Adam scales up.
        if "k_proj.bias" not in name:
            assert (trained[0][name] - trained[1][name]).abs().max() < 1e-5, name


def test_batch_is_a_multiple_of_micro_batch(tokenizer, sequences, tmp_path):
    how = FULL.model_copy(update={"batch": 4, "micro_batch": 3})
    with pytest.raises(ValueError, match="batch 4 is not a multiple of micro_batch 3"):
        train.fine_tune(fresh(tokenizer), tokenizer, sequences, how, tmp_path, seed=1)


# Interrupted and resumed ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A training, as it is begun: before an interruption, and after."""

    start: Callable
    sequences: train.Sequences
    how: train.Training
    options: dict = field(default_factory=dict)

    def fine_tune(self, tokenizer, folder: Path, **update):
        """(log, model)"""
        model = self.start()
        how = self.how.model_copy(update=update)
        return train.fine_tune(model, tokenizer, self.sequences, how, folder, seed=11, **self.options), model


@pytest.fixture(scope="module")
def pairs(tokenizer, dialogues) -> train.Sequences:
    """Of the same 12 dialogues, but of every second turn two pairs."""
    made = []
    for turn in opening(dialogues, 12):
        others = [name for name in taxonomy.STRATEGIES if name != turn.strategy]
        made += [train.Pair(f"{turn.id}#{n}", turn, others[n]) for n in range(1 + len(turn.context) // 2 % 2)]
    return train.encode_pairs(made, talk, tokenizer, WINDOW)


@pytest.fixture(scope="module")
def fine_tuned(tokenizer, sequences, tmp_path_factory) -> Path:
    """A folder with a base model (``base``) and an adapter that was fine-tuned on it (``policy``)."""
    folder, model = tmp_path_factory.mktemp("fine-tuned"), fresh(tokenizer)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    train.fine_tune(model, tokenizer, sequences, LORA.model_copy(update={"epochs": 1}), folder, seed=5)
    return folder


@pytest.fixture(scope="module")
def runs(tokenizer, sequences, pairs, fine_tuned) -> dict[str, Run]:
    def adapted():
        return models.load(fine_tuned / "base", adapter=fine_tuned / "policy", for_training=True)

    reference = train.reference_logps(adapted(), pairs, "fine-tuned", fine_tuned)
    return {
        "full": Run(lambda: fresh(tokenizer), sequences, FULL),
        "lora": Run(lambda: fresh(tokenizer), sequences, LORA),
        "dpo": Run(adapted, pairs, LORA, {"preference": DPO, "reference": reference}),
    }


class Killed(Exception):
    pass


def interrupted(run: Run, tokenizer, folder: Path, after: int, **update) -> None:
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
    [(name, 2, after) for name in ("full", "lora", "dpo") for after in (1, 2)] + [("full", 3, 1), ("dpo", 3, 1)],
)
def test_a_resumed_run_ends_with_the_same_weights(uninterrupted, runs, tokenizer, tmp_path, steps, name, every, after):
    folder, log, _, _ = uninterrupted[name]
    interrupted(runs[name], tokenizer, tmp_path, after, checkpoint_every=every)
    assert steps == [1, 2, 3, 4][: every * after]
    torch.manual_seed(99)  # a new process starts from another state of the global generator
    resumed, _ = runs[name].fine_tune(tokenizer, tmp_path, checkpoint_every=every)
    assert steps == [1, 2, 3, 4, 5, 6]  # none twice
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(folder / "policy")
    assert resumed == log  # losses, rewards and tokens seen, too


def test_each_epoch_has_its_own_order(uninterrupted, sequences):
    seen = [0, *(step["tokens"] for step in uninterrupted["full"][1].steps)]
    read = [after - before for before, after in zip(seen, seen[1:], strict=False)]
    assert sum(read[:3]) == sum(read[3:]) == sequences.tokens
    assert read[:3] != read[3:]  # so a run resumed in the second epoch had to find the second order


def test_a_run_killed_while_writing_a_checkpoint(uninterrupted, runs, tokenizer, tmp_path, steps):
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
    assert runs["full"].fine_tune(tokenizer, tmp_path)[0] == log
    assert steps == [3, 4, 5, 6]
    assert models.weights_digest(tmp_path / "policy") == models.weights_digest(folder / "policy")


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
    assert log.tokens_apart == 2 * sequences.tokens_apart and log.target_tokens == 2 * sequences.target_tokens


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
    adapted = models.load(fine_tuned / "base", adapter=folder / "policy")
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
    loaded = weights(models.load(fine_tuned / "base", adapter=folder / "policy"))
    for name, parameter in weights(model).items():
        assert torch.equal(loaded[name], parameter), name
        assert torch.equal(parameter, before[name]) == ("lora_" not in name), name


def test_a_model_with_an_adapter_is_given_no_second_one(runs, tokenizer, sequences, tmp_path):
    how = LORA.model_copy(update={"epochs": 1, "lora": train.Lora(rank=8, alpha=8, dropout=0.0)})
    log = train.fine_tune(runs["dpo"].start(), tokenizer, sequences, how, tmp_path, seed=1)
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


def test_preferences_with_a_new_adapter_start_from_the_base(tokenizer, pairs, fine_tuned, tmp_path):
    base = models.load(fine_tuned / "base")
    reference = train.reference_logps(base, pairs, "base", tmp_path)
    how = LORA.model_copy(update={"epochs": 1})
    log = train.fine_tune(base, tokenizer, pairs, how, tmp_path, seed=1, preference=DPO, reference=reference)
    assert log.trainable == adapter_size(LORA.lora.rank)
    assert log.steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "has", "takes"),
    [(None, 2, 1), ("dpo", 1, 2), ("ipo", 3, 2), ("simpo", 1, 2), ("orpo", 3, 2), ("kto", 2, 3)],
)
def test_a_loss_takes_its_own_number_of_answers(tokenizer, dialogues, tmp_path, loss, has, takes):
    asked = opening(dialogues, 2)
    pairs = [train.Pair(t.id, t, "Others") for t in asked]
    sequences = {
        1: train.encode(asked, talk, tokenizer, WINDOW),
        2: train.encode_pairs(pairs, talk, tokenizer, WINDOW),
        3: train.encode_pairs(pairs, talk, tokenizer, WINDOW, mismatched=1),
    }[has]
    preference = loss and train.Preference(loss=loss, beta=0.1)
    message = f"^{loss or 'sft'} takes {takes} answers a prompt, and these sequences have {has}$"
    with pytest.raises(ValueError, match=message):
        train.fine_tune(fresh(tokenizer), tokenizer, sequences, FULL, tmp_path, seed=1, preference=preference)


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_a_loss_with_a_reference_needs_it(tokenizer, pairs, tmp_path, loss):
    preference = train.Preference(loss=loss, beta=0.1)
    with pytest.raises(ValueError, match=f"{loss} needs reference log-probabilities"):
        train.fine_tune(fresh(tokenizer), tokenizer, pairs, FULL, tmp_path, seed=1, preference=preference)


def test_a_reference_of_another_policy_is_refused(runs, tokenizer, pairs, fine_tuned, tmp_path):
    of_the_base = train.reference_logps(models.load(fine_tuned / "base"), pairs, "base", tmp_path)
    wrong = replace(runs["dpo"], options={"preference": DPO, "reference": of_the_base})
    with pytest.raises(train.ReferenceMismatch, match=r"^miniature/0000/00#0: .*for an adapter on a fine-tuned"):
        wrong.fine_tune(tokenizer, tmp_path)
    short = replace(runs["dpo"], options={"preference": DPO, "reference": runs["dpo"].options["reference"][:-1]})
    with pytest.raises(train.ReferenceMismatch, match="11 reference sequences for 12"):
        short.fine_tune(tokenizer, tmp_path)
    assert not (tmp_path / "checkpoints").exists() and not (tmp_path / "policy").exists()


def killed_while_writing(folder: Path) -> None:
    """Train as the uninterrupted "full" does; SIGKILL in the middle of the second checkpoint."""
    dialogues = read()
    tokenizer = models.train_tokenizer((u.text for d in dialogues for u in d.utterances), SHAPE.vocabulary)
    save = Trainer._save_rng_state

    def save_or_die(self, output_dir):
        if self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        save(self, output_dir)

    Trainer._save_rng_state = save_or_die
    sequences = train.encode(opening(dialogues, 12), talk, tokenizer, WINDOW)
    train.fine_tune(fresh(tokenizer), tokenizer, sequences, FULL, folder, seed=11)


if __name__ == "__main__":
    killed_while_writing(Path(sys.argv[1]))


# How far a policy has moved ------------------------------------------------------------------------------------------


def test_the_divergence_is_the_kl_at_every_answer_token_and_0_at_home(tokenizer, sequences):
    policy, reference = fresh(tokenizer), models.create(SHAPE, tokenizer, seed=4)
    assert divergence(policy, fresh(tokenizer), sequences) == pytest.approx(0, abs=1e-9)
    total, count = 0.0, 0
    with torch.no_grad():
        for packed in sequences.packed:
            for question, answer in unpacked(packed):
                ours, theirs = (torch.log_softmax(m.eval()(torch.tensor([question + answer])).logits[0].double(), -1) for m in (policy, reference))
                rows = slice(len(question) - 1, len(question) + len(answer) - 1)
                total += torch.nn.functional.kl_div(theirs[rows], ours[rows], log_target=True, reduction="sum").item()
                count += len(answer)
    assert divergence(policy, reference, sequences) == pytest.approx(total / count, rel=1e-4)
