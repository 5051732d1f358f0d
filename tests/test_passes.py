"""Long dialogues are read in passes of bounded length, and nothing else changes: references, weights, scores."""

import math
from dataclasses import replace

import pytest
import torch
from training_cases import FULL, fresh, talk, weights
from tree_cases import off, shaken

from decoupled_esc import models, taxonomy, train
from decoupled_esc.corpus import turns
from decoupled_esc.generate import Sampling
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.prompts import Prompt

WHOLE = 10**9
"""Tokens of a pass that divides nothing."""
SHAPE = models.Shape(vocabulary=400, hidden=16, layers=2, heads=2, feed_forward=24, context=2048)


# Training, references, held-out losses ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tokenizer, dialogues):
    """Whole dialogues, most turns of which lose messages, for each number of answers."""
    asked = [turn for dialogue in dialogues[:3] for turn in turns(dialogue)]
    others = {turn.id: [s for s in taxonomy.STRATEGIES if s != turn.strategy] for turn in asked}
    twice = [(turn, n) for turn in asked for n in range(1 + len(turn.context) % 2)]
    pairs = [train.Pair(f"{turn.id}#{n}", turn, others[turn.id][n]) for turn, n in twice]
    made = {
        1: train.encode(asked, talk, tokenizer, 120),
        2: train.encode_pairs(pairs, talk, tokenizer, 120),
        3: train.encode_pairs(pairs, talk, tokenizer, 120, mismatched=1),
    }
    for sequences in made.values():
        assert sequences.cut > 10 and max(map(len, sequences.packed)) > 2 * sequences.pass_tokens
    return made


class Watched:
    """Notes how many tokens each of a model's forward passes reads."""

    def __init__(self, model):
        self.reads: list[int] = []
        model.register_forward_pre_hook(
            lambda _, args, kwargs: self.reads.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )


def test_a_budget_of_tokens_comes_from_the_length_and_is_counted(data):
    for sequences in data.values():
        assert sequences.pass_tokens == train.data.PASS * 120
        lengths = [[len(part) for part in passes] for passes in sequences.passes]
        assert max(map(max, lengths)) <= sequences.pass_tokens
        assert sequences.tokens == sum(map(sum, lengths)) > sum(map(len, sequences.packed))
        assert replace(sequences, pass_tokens=WHOLE).tokens == sum(map(len, sequences.packed))
        # Greedy: any two passes in a row hold more than one could.
        assert all(len(row) <= 2 * math.ceil(sum(row) / sequences.pass_tokens) for row in lengths)


@pytest.mark.parametrize("answers", [1, 2, 3])
def test_references_and_held_out_losses_are_those_of_whole_dialogues(tokenizer, data, tmp_path, answers):
    sequences = data[answers]
    whole = replace(sequences, pass_tokens=WHOLE)
    assert train.reference_key("w", sequences) == train.reference_key("w", whole)  # rows stay good
    model, other = fresh(tokenizer), shaken(fresh(tokenizer))
    watched = Watched(model)

    def outcome(one, name: str) -> tuple[list, list[float]]:
        rows = train.reference_logps(model, one, "w", tmp_path / name)
        return rows, [train.held_out_loss(model, one), *train.compared(model, other, one).values()]

    (rows, losses), (whole_rows, whole_losses) = outcome(sequences, "parts"), outcome(whole, "whole")
    assert rows == [pytest.approx(row, rel=1e-5) for row in whole_rows]
    assert losses == pytest.approx(whole_losses, rel=1e-5)
    divided = sum(map(len, sequences.passes))
    assert max(watched.reads[: 3 * divided]) <= sequences.pass_tokens
    assert len(watched.reads) == 3 * divided + 3 * len(whole)


@pytest.mark.parametrize(("name", "micro"), [("sft", 2), ("dpo", 1), ("kto", 2)])
def test_training_in_passes_is_training_whole(tokenizer, data, tmp_path, name, micro):
    preference = None if name == "sft" else train.Preference(loss=name, beta=0.3)
    answers = {"sft": 1, "kto": 3}.get(name, 2)
    lora = None if micro == 1 else train.Lora(rank=4, alpha=8, dropout=0.0)
    training = FULL.model_copy(update={"lora": lora, "batch_size": 2, "per_device_batch_size": micro})
    outcome = []
    for tokens in (data[answers].pass_tokens, WHOLE):
        sequences, model, options = replace(data[answers], pass_tokens=tokens), fresh(tokenizer), {}
        if preference is not None and preference.has_reference:
            options["reference"] = train.reference_logps(model, sequences, "w", tmp_path / f"reference-{tokens}")
        watched = Watched(model)
        log = train.fine_tune(
            model, tokenizer, sequences, training, tmp_path / f"{tokens}", seed=1, preference=preference, **options
        )
        outcome.append((log, weights(model), watched.reads))
    (log, found, reads), (whole_log, expected, whole_reads) = outcome
    assert max(reads) <= micro * data[answers].pass_tokens < max(whole_reads)
    assert log.tokens == 2 * data[answers].tokens and log.steps[-1]["tokens"] <= log.tokens
    before = weights(fresh(tokenizer)) if training.lora is None else {}
    for ours, theirs in zip(log.steps, whole_log.steps, strict=True):
        # Before the first step each reward is 0, and which of two is higher is noise.
        for key in theirs.keys() - ({"tokens", "accuracy"} if ours["step"] == 1 else {"tokens"}):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-3), key
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-3, msg=key)
    assert not before or max((expected[key] - before[key]).abs().max() for key in before) > 1e-2


# Scores and samples -------------------------------------------------------------------------------------------------


def test_scores_and_replies_of_a_divided_dialogue_are_those_of_the_whole(tokenizer):
    model = shaken(models.create(SHAPE, tokenizer, seed=3))
    words = "I am here to listen . what has been on your mind most today ?".split()
    said = [("user", " ".join(words[n % 9 : n % 9 + 6])) for n in range(20)]
    prompts = [Prompt(f"d/0/{n:02}", tuple(said[max(0, n - 4) : n + 1]), "unused") for n in range(20)]  # cut unlike
    found = {}
    for budget in (900, 10**6):
        engine = TransformersEngine(model, tokenizer, batch_tokens=budget)
        watched = Watched(model)
        scored = list(engine.score_choices(prompts, taxonomy.STRATEGIES))
        sampled = list(engine.complete(prompts, Sampling(temperature=0.7, top_p=0.95, max_new_tokens=6), seed=1, purpose="t"))
        assert [id for ids, _ in scored for id in ids] == [prompt.id for prompt in prompts]
        found[budget] = torch.cat([torch.tensor(scores) for _, scores in scored]), sum(sampled, [])
        if budget == 900:
            assert max(watched.reads) <= budget and len(scored) > 2 and len(sampled) > 1
            assert len(scored) < len(prompts)
        else:
            assert max(watched.reads) > 900
    assert off(found[900][0], found[10**6][0]) < 1e-5
    assert found[900][1] == found[10**6][1]
