"""Training: what the loss sees, that it is the loss we mean, and a whole training from beginning to end."""

# ruff: noqa: F811

import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file
from training_cases import (  # noqa: F401
    DPO,
    FULL,
    LORA,
    MAX_LENGTH,
    SHAPE,
    fine_tuned,
    fresh,
    opening,
    pairs,
    sequences,
    talk,
    weights,
)  # fmt: skip
from turn_trees import Packed

from decoupled_esc import models, prompts, train
from decoupled_esc.corpus import Turn, turns
from decoupled_esc.prompts import ids, render
from decoupled_esc.train import trainer


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
        mine = [n for n, other in enumerate(packed.completion_index) if other == owner]
        answer = [packed.targets[n] for n in mine]
        question = followed(packed, packed.predict_positions[mine[0]])
        # Each token is predicted below the ones before it, and below nothing else.
        for k, n in enumerate(mine):
            assert followed(packed, packed.predict_positions[n]) == question + answer[:k]
        found.append((question, answer))
    return found


# What the loss sees ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["dialogue", "turn"])
@pytest.mark.parametrize("name", prompts.LAYOUTS)
def test_sequences_learn_the_target_and_nothing_else(tokenizer, dialogues, name, unit):
    layout, max_length = prompts.LAYOUTS[name], 420
    asked = [t for d in dialogues[:3] for t in turns(d)]
    sequences = train.encode(asked, layout, tokenizer, max_length, unit)
    assert [id for names in sequences.ids for id in names] == [t.id for t in asked]
    assert len(sequences) == (3 if unit == "dialogue" else len(asked))
    assert sequences.answers_each == 1
    found = [row for packed in sequences.packed for row in unpacked(packed)]
    whole = 0
    for (before, after), turn in zip(found, asked, strict=True):
        assert len(before) + len(after) <= max_length
        question, answer = tokenizer.decode(before), tokenizer.decode(after)
        assert answer == layout(turn).target + models.END
        assert question.endswith("<|im_end|>\n<|im_start|>assistant\n")
        full = render(layout(turn), tokenizer)[0]
        whole += question == full
        # Cut or not, instruction and last message are there.
        assert question.startswith(full[: full.index("<|im_end|>")]) and turn.context[-1].text in question
    assert 0 < sequences.cut == len(found) - whole < len(found)
    assert sequences.target_tokens == sum(len(after) for _, after in found)
    assert sequences.unpacked_tokens == sum(len(before) + len(after) - 1 for before, after in found)
    assert sequences.tokens == sum(len(packed.tokens) for passes in sequences.passes for packed in passes)
    assert replace(sequences, pass_tokens=10**6).tokens == sum(len(packed.tokens) for packed in sequences.packed)
    assert (sequences.tokens < sequences.unpacked_tokens) == (unit == "dialogue")


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
    max_length = sum(len(ids(text, tokenizer)) for text in render(talk(turn), tokenizer))  # its own answer just fits
    for rejected, cut in (("No.", 0), (turn.strategy + " or not.", 1)):
        sequences = train.encode_pairs([train.Pair("p", turn, rejected)], talk, tokenizer, max_length)
        assert sequences.cut == cut
        assert max(len(question) + len(answer) for question, answer in unpacked(sequences.packed[0])) <= max_length


def test_a_window_too_small_for_one_message(tokenizer, dialogues):
    with pytest.raises(prompts.PromptTooLong, match="miniature/0000/00"):
        train.encode(turns(dialogues[0]), prompts.vanilla, tokenizer, 40)


# The loss -------------------------------------------------------------------------------------------------------


def test_held_out_loss_is_the_mean_over_target_tokens(tokenizer, dialogues, sequences):
    model = fresh(tokenizer)
    expected = cross_entropy(model, tokenizer, opening(dialogues, 12))
    assert train.held_out_loss(model, sequences) == pytest.approx(expected, rel=1e-5)
    lengths = {len(packed.targets) for packed in sequences.packed}
    assert len(lengths) > 1  # or a mean of sequence means would pass, too


@pytest.mark.parametrize("micro", [6, 2])
def test_the_trainers_first_loss_is_the_cross_entropy_of_the_targets(tokenizer, dialogues, tmp_path, micro):
    training = FULL.model_copy(
        update={"epochs": 1, "batch_size": 6, "per_device_batch_size": micro, "schedule": "constant"}
    )
    asked = opening(dialogues, 6)
    six = train.encode(asked, talk, tokenizer, MAX_LENGTH)
    model = fresh(tokenizer)
    expected = cross_entropy(model, tokenizer, asked)  # one batch holds all six, so the shuffle can't matter
    log = train.fine_tune(model, tokenizer, six, training, tmp_path, seed=1)
    assert len(log.steps) == 1
    assert log.steps[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert log.steps[0]["tokens"] == log.tokens == sum(map(len, six.packed))
    assert log.tokens < log.unpacked_tokens == six.unpacked_tokens
    assert log.target_tokens == sum(len(packed.targets) for packed in six.packed)


def test_batch_is_a_multiple_of_micro_batch(tokenizer, sequences, tmp_path):
    training = FULL.model_copy(update={"batch_size": 4, "per_device_batch_size": 3})
    with pytest.raises(ValueError, match="batch_size 4 is not a multiple of per_device_batch_size 3"):
        train.fine_tune(fresh(tokenizer), tokenizer, sequences, training, tmp_path, seed=1)


@pytest.mark.parametrize(
    ("loss", "has", "takes"),
    [(None, 2, 1), ("dpo", 1, 2), ("ipo", 3, 2), ("simpo", 1, 2), ("orpo", 3, 2), ("kto", 2, 3)],
)
def test_a_loss_takes_its_own_number_of_answers(tokenizer, dialogues, tmp_path, loss, has, takes):
    asked = opening(dialogues, 2)
    pairs = [train.Pair(t.id, t, "Others") for t in asked]
    sequences = {
        1: train.encode(asked, talk, tokenizer, MAX_LENGTH),
        2: train.encode_pairs(pairs, talk, tokenizer, MAX_LENGTH),
        3: train.encode_pairs(pairs, talk, tokenizer, MAX_LENGTH, mismatched=1),
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


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("name", ["widened", "filled"])
def test_what_saves_time_changes_no_weight(tokenizer, sequences, tmp_path, monkeypatch, dtype, name):
    """Adapters' inputs as they come, and memory as it was found: without either the weights end the same, bit by bit."""
    training = LORA.model_copy(update={"lora": train.Lora(rank=4, alpha=8, dropout=0.0), "precision": "bfloat16"})

    def trained(folder: str) -> dict[str, torch.Tensor]:
        models.be_repeatable()
        torch.utils.deterministic.fill_uninitialized_memory = folder == "filled"
        model = fresh(tokenizer).to(getattr(torch, dtype))
        train.fine_tune(model, tokenizer, sequences, training, tmp_path / folder, seed=5)
        return load_file(tmp_path / folder / "policy" / "adapter_model.safetensors")

    quick = trained("quick")
    if name == "widened":
        monkeypatch.setattr(trainer, "_as_it_comes", lambda *_: nullcontext())
    slow = trained(name)
    assert quick.keys() == slow.keys() and all(torch.equal(quick[key], slow[key]) for key in quick)
    assert any(tensor.abs().max() > 0 for key, tensor in quick.items() if "lora_B" in key), "something was learned"


# How far a policy has moved ------------------------------------------------------------------------------------------


def test_the_divergence_is_the_kl_at_every_answer_token_and_0_at_home(tokenizer, sequences):
    policy, reference = fresh(tokenizer), models.create(SHAPE, tokenizer, seed=4)
    at_home = train.compared(policy, fresh(tokenizer), sequences)
    assert at_home["divergence"] == pytest.approx(0, abs=1e-9) and at_home["held_out_loss"] == at_home["held_out_loss_before"]
    total, count = 0.0, 0
    with torch.no_grad():
        for packed in sequences.packed:
            for question, answer in unpacked(packed):
                ours, theirs = (
                    torch.log_softmax(m.eval()(torch.tensor([question + answer])).logits[0].double(), -1)
                    for m in (policy, reference)
                )
                rows = slice(len(question) - 1, len(question) + len(answer) - 1)
                total += torch.nn.functional.kl_div(theirs[rows], ours[rows], log_target=True, reduction="sum").item()
                count += len(answer)
    assert train.compared(policy, reference, sequences)["divergence"] == pytest.approx(total / count, rel=1e-4)


# From beginning to end ----------------------------------------------------------------------------------------------


def some_pairs(dialogues, count: int) -> list[train.Pair]:
    return [train.Pair(t.id, t, "Others" if t.strategy != "Others" else "Question") for t in opening(dialogues, count)]


@pytest.mark.parametrize("loss", ["dpo", "kto", "orpo"])
@pytest.mark.parametrize("kind", ["base", "adapter"])
def test_train_preference_is_its_parts_one_after_the_other(tokenizer, dialogues, fine_tuned, tmp_path, loss, kind):
    adapter = fine_tuned / "policy" if kind == "adapter" else None
    policy = models.Weights(fine_tuned / "base", adapter=adapter)
    preference, training = train.Preference(loss=loss, beta=0.1), LORA.model_copy(update={"epochs": 1})
    pairs, unseen = some_pairs(dialogues, 8), opening(dialogues[12:], 3)
    found = train.train_preference(
        policy, pairs, talk, preference, training, folder=tmp_path / "a", seed=3, max_length=MAX_LENGTH, held_out=unseen
    )
    mismatched = 3 if loss == "kto" else None
    sequences = train.encode_pairs(pairs, talk, tokenizer, MAX_LENGTH, mismatched=mismatched)
    model, reference = models.load(policy, for_training=True), None
    if preference.has_reference:
        reference = train.reference_logps(model, sequences, "start", tmp_path)
    log = train.fine_tune(
        model, tokenizer, sequences, training, tmp_path / "b", seed=3, preference=preference, reference=reference
    )
    held_out, before = train.encode(unseen, talk, tokenizer, MAX_LENGTH), models.load(policy)
    assert {name: getattr(found, name) for name in vars(log)} == vars(log)
    left = {models.weights_digest(tmp_path / name / "policy") for name in "ab"}
    assert left == {found.weights} and (found.loss, found.cut) == (preference, sequences.cut)
    assert (found.pairs, found.sequences) == (len(pairs), len(sequences))
    assert found.held_out_loss == train.held_out_loss(model, held_out)
    assert found.held_out_loss_before == train.held_out_loss(before, held_out) != found.held_out_loss
    assert found.divergence == train.compared(model, before, held_out)["divergence"] > 0
    stored = TypeAdapter(train.Preferred).dump_json(found)
    assert TypeAdapter(train.Preferred).validate_json(stored) == found
    assert json.loads(stored)["loss"]["loss"] == loss and "unpacked_tokens" in json.loads(stored)


@pytest.mark.parametrize("kind", ["base", "adapter"])
@pytest.mark.parametrize(("loss", "count", "least"), [("dpo", 0, 1), ("kto", 1, 1), ("dpo", 1, 2)])
def test_with_nothing_to_learn_the_policy_stays(dialogues, fine_tuned, tmp_path, kind, loss, count, least):
    policy = models.Weights(fine_tuned / "base", adapter=fine_tuned / "policy" if kind == "adapter" else None)
    preference, unseen = train.Preference(loss=loss, beta=0.1), opening(dialogues[12:], 2)
    options = {"folder": tmp_path, "seed": 1, "max_length": MAX_LENGTH, "held_out": unseen, "min_turns": least}
    found = train.train_preference(policy, some_pairs(dialogues, 1)[:count], talk, preference, LORA, **options)
    assert (found.pairs, found.sequences, found.tokens, found.steps, found.divergence) == (0, 0, 0, (), 0.0)
    assert found.weights == models.weights_digest(tmp_path / "policy") == policy.identity
    assert found.held_out_loss == found.held_out_loss_before
    left = models.load(models.weights_of(replace(policy, adapter=None), tmp_path / "policy"))
    assert all(torch.equal(w, weights(models.load(policy))[name]) for name, w in weights(left).items())


def test_train_sft_trains_and_measures(tokenizer, dialogues, fine_tuned, tmp_path):
    base, asked, unseen = models.Weights(fine_tuned / "base"), opening(dialogues, 6), opening(dialogues[12:], 3)
    options = {"seed": 11, "max_length": MAX_LENGTH, "held_out": unseen}
    found = train.train_sft(base, asked, talk, FULL, folder=tmp_path / "a", **options)
    assert (found.dialogues, found.turns, found.unit, found.held_out_turns) == (6, 18, "dialogue", 9)
    assert found.held_out_loss_before is None and found.divergence is None
    held_out = train.encode(unseen, talk, tokenizer, MAX_LENGTH)
    assert found.held_out_loss == train.held_out_loss(models.load(tmp_path / "a" / "policy"), held_out)
    assert found.held_out_tokens == held_out.target_tokens
    compared = train.train_sft(base, asked, talk, FULL, folder=tmp_path / "b", compare=True, unit="turn", **options)
    assert compared.sequences == 18 and compared.divergence > 0
    assert compared.held_out_loss_before == train.held_out_loss(models.load(base), held_out)
    none = train.train_sft(base, asked[:1], talk, FULL, folder=tmp_path / "c", compare=True, min_turns=2, **options)
    assert none.weights == base.identity and (none.tokens, none.divergence) == (0, 0.0)
