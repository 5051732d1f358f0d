"""Long trees are read in passes of bounded length, and nothing else changes: losses, gradients, scores, weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_packing import attending, cut_examples, off, one_by_one, shaken
from training_cases import FULL, dialogues, fresh, talk, weights  # noqa: F401 (a fixture)

from decoupled_esc import models, packing, taxonomy, train
from decoupled_esc.corpus import turns
from decoupled_esc.generate import Sampling
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.packing import Example, answer_logps, groups, join, logps_in_passes, pack, split
from decoupled_esc.prompts import Prompt
from decoupled_esc.train.trainer import _Loss

WHOLE = 10**9
"""Tokens of a pass that divides nothing."""
SHAPE = models.Shape(vocabulary=400, hidden=16, layers=2, heads=2, feed_forward=24, context=2048)
LOSSES = {
    "sft": None,
    **{name: train.Preference(loss=name, beta=0.3, gamma=0.2) for name in ("dpo", "ipo", "simpo", "kto", "orpo")},
}
"""KTO's reference point is a mean over all pairs of a step, so they can't be summed pass by pass."""


# Trees --------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(cut_examples(answers=4, least=4), min_size=1, max_size=3), st.integers(0, 4), st.integers(1, 60))
def test_each_part_is_the_tree_of_some_examples_and_fits(batch, each, budget):
    trees = [[replace(example, answers=example.answers[:each]) for example in tree] for tree in batch]
    forest = join(map(pack, trees))
    numbered = [(number, example) for number, tree in enumerate(trees) for example in tree]

    def packed(part: Sequence[tuple[int, Example]]):
        return join(pack([example for tree, example in part if tree == number]) for number in range(len(trees)))

    parts, at = split(forest, budget), 0
    for part in parts:
        count = len(part.prompt_ends)
        assert part == packed(numbered[at : at + count])
        assert len(part) <= budget or count == 1
        at += count
        if at < len(numbered):  # no room was left
            assert len(packed(numbered[at - count : at + 1])) > budget
    assert at == len(numbered)
    assert split(forest, len(forest)) == [forest]


@settings(deadline=None)
@given(cut_examples(answers=0), st.integers(1, 60), st.integers(0, 9))
def test_groups_leave_room_for_each_example(examples, budget, each):
    found, at = list(groups(pack(examples), budget, each)), 0
    for members, tree in found:
        assert members.start == at and len(tree) == len(pack([examples[n] for n in members]))
        assert len(tree) + each * len(members) <= budget or len(members) == 1
        at = members.stop
    assert at == len(examples)
    assert sum(len(tree) for _, tree in found) >= len(pack(examples))


def test_by_hand():
    """A trunk of four and three answers below it, two tokens each, one of which is read."""
    tree = pack([Example(f"d/{n}", [1, 2, 3, 4][: n + 2], [[7, n]]) for n in range(3)])
    assert tree.tokens == [1, 2, 3, 4, 7, 7, 7] and tree.depths == [0, 1, 2, 3, 4, 3, 2]
    first, second = split(tree, 6)
    assert (first.tokens, first.targets) == ([1, 2, 3, 7, 7], [7, 0, 7, 1])
    assert (second.tokens, second.depths, second.prompt_ends) == ([1, 2, 3, 4, 7], [0, 1, 2, 3, 4], [3])
    assert (second.predict_positions, second.targets, second.completion_index) == ([3, 4], [7, 2], [0, 0])
    assert list(map(len, split(tree, 1))) == [3, 4, 5]  # a turn is never divided


def test_prompts_with_unlike_numbers_of_answers_are_refused():
    with pytest.raises(packing.PackingError, match="3 answers to 2 prompts"):
        split(pack([Example("a", [1], [[2]]), Example("b", [1, 3], [[2], [4]])]), 1)


# Losses and gradients -----------------------------------------------------------------------------------------------


@contextmanager
def exact():
    """float64 all the way, where the library and the model round to float32."""
    to = torch.Tensor.to

    def never_32(tensor, *what, **options):
        return to(tensor, *(torch.float64 if one is torch.float32 else one for one in what), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch.Tensor, "to", never_32)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def model(tokenizer):
    return shaken(models.create(SHAPE, tokenizer, seed=3)).double()


@st.composite
def long_dialogues(draw, answers: int) -> list[Example]:
    """Turns that see a window of the messages before them, cut at a message: the early ones share, the late do not."""
    token, window = st.integers(0, 399), draw(st.integers(12, 40))
    instruction = draw(st.lists(token, min_size=1, max_size=4))
    said, made = [], []
    for turn in range(draw(st.integers(2, 14))):
        said.append(draw(st.lists(token, min_size=1, max_size=8)))
        first = 0
        while first < turn and sum(map(len, said[first:])) > window:
            first += 1
        asked = st.lists(st.lists(token, min_size=1, max_size=4), min_size=answers, max_size=answers)
        made.append(Example(f"d/{turn}", instruction + sum(said[first:], []), draw(asked)))
    return made


def learned(model, loss: _Loss, logps: torch.Tensor, forest, reference) -> tuple[torch.Tensor, dict, torch.Tensor]:
    """(loss, metrics, gradient of all weights)."""
    total, metrics = loss(logps, forest, reference)
    gradient = torch.autograd.grad(total, list(model.parameters()))
    return total.detach(), metrics, torch.cat([part.flatten() for part in gradient])


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), budget=st.integers(1, 120), random=st.randoms(use_true_random=False))
def test_losses_and_gradients_are_those_of_one_turn_at_a_time(model, name, data, budget, random):
    answers = {"sft": 1, "kto": 3}.get(name, 2)
    examples = data.draw(long_dialogues(answers))
    order = random.sample(range(len(examples)), len(examples))
    shuffled, plain = [examples[n] for n in order], attending(model, "sdpa")
    forest, other, loss = pack(examples), pack(shuffled), _Loss(LOSSES[name], answers)
    with exact():
        reference = torch.tensor([[random.uniform(-20, -5) for _ in range(answers)] for _ in examples])
        passes = split(forest, budget)
        total, metrics, gradient = learned(model, loss, logps_in_passes(model, passes), forest, reference)
        # From the definition, and in another order: each answer in a plain sequence of its own.
        expected = learned(plain, loss, one_by_one(plain, shuffled), other, reference[order])
        assert total.item() == pytest.approx(expected[0].item(), rel=1e-9, abs=1e-9)
        assert (gradient - expected[2]).norm() <= 1e-9 * max(1, expected[2].norm())
        for key, values in metrics.items():
            torch.testing.assert_close(values[order], expected[1][key])
        with torch.no_grad():
            assert off(logps_in_passes(model, passes), answer_logps(model, forest)) < 1e-9


def test_one_pass_at_a_time_is_held_for_the_gradient(tokenizer):
    """What a forward pass leaves for the backward one is dropped and made again, with the same dropout."""
    model = shaken(models.create(SHAPE, tokenizer, seed=3))
    said = list(range(3, 303))
    passes = split(pack([Example(f"d/{n}", said[10 * n : 10 * n + 100], [[n + 5, 2]]) for n in range(20)]), 210)
    assert len(passes) == 10
    model.train()
    for layer in model.model.layers:  # a layer that drops out, as an adapter's
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.3))

    def outcome(logps) -> tuple[torch.Tensor, int]:
        held = 0

        def keep(tensor):
            nonlocal held
            held += tensor.numel()
            return tensor

        torch.manual_seed(4)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = logps()
        return torch.cat([g.flatten() for g in torch.autograd.grad(made.sum(), list(model.parameters()))]), held

    whole, all_of_them = outcome(lambda: torch.cat([answer_logps(model, packed) for packed in passes]))
    found, few = outcome(lambda: logps_in_passes(model, passes))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    assert few < all_of_them / 100


# Training, references, held-out losses ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tokenizer, dialogues):  # noqa: F811
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
        return rows, [train.held_out_loss(model, one), train.divergence(model, other, one)]

    (rows, losses), (whole_rows, whole_losses) = outcome(sequences, "parts"), outcome(whole, "whole")
    assert rows == [pytest.approx(row, rel=1e-5) for row in whole_rows]
    assert losses == pytest.approx(whole_losses, rel=1e-5)
    divided = sum(map(len, sequences.passes))
    assert max(watched.reads[: 3 * divided]) <= sequences.pass_tokens
    assert len(watched.reads) == 3 * divided + 3 * len(whole)


@pytest.mark.parametrize(("name", "micro"), [*((name, 1) for name in LOSSES), ("sft", 2), ("kto", 2)])
def test_training_in_passes_is_training_whole(tokenizer, data, tmp_path, name, micro):
    preference = LOSSES[name]
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
        sampled = list(engine.complete(prompts, Sampling(temperature=0.7, top_p=0.95, max_new_tokens=6), seed=1, purpose="test"))
        assert [id for ids, _ in scored for id in ids] == [prompt.id for prompt in prompts]
        found[budget] = (
            torch.cat([torch.tensor(scores) for _, scores in scored]),
            [answer for batch in sampled for answer in batch],
        )
        if budget == 900:
            assert max(watched.reads) <= budget and len(scored) > 2 and len(sampled) > 1
            assert len(scored) < len(prompts)
        else:
            assert max(watched.reads) > 900
    assert off(found[900][0], found[10**6][0]) < 1e-5
    assert found[900][1] == found[10**6][1]
