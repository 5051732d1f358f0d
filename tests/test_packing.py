"""Every layout packed: a model says of a dialogue's turns together what it says of each alone; turn_trees tests the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tree_cases import BOUND, attending, check, off, shaken
from turn_trees import Example, answer_logps, attention, join, pack

from decoupled_esc import models, prompts
from decoupled_esc.corpus import Dialogue, Turn, Utterance, turns
from decoupled_esc.prompts import ids, render

SHAPE = models.Shape(vocabulary=400, hidden=32, layers=2, heads=2, feed_forward=48, context=2048)


@pytest.fixture(scope="module")
def model(tokenizer):
    return shaken(models.create(SHAPE, tokenizer, seed=3))


@pytest.fixture(scope="module")
def plain(model):
    """The model as transformers makes it."""
    return attending(model, "sdpa")


def encoded(asked: Sequence[Turn], layout: prompts.Layout, tokenizer, others: Sequence[str] = ()) -> list[Example]:
    """An example a turn: its own target, and ``others``."""
    made = []
    for turn in asked:
        prompt = layout(turn)
        question, answer = render(prompt, tokenizer)
        answers = [answer, *(render(replace(prompt, target=other), tokenizer)[1] for other in others)]
        made.append(Example(turn.id, ids(question, tokenizer), [ids(text, tokenizer) for text in answers]))
    return made


# Blank seeker messages, one after the other; the supporter speaks first; the seeker last.
ODD = Dialogue("odd/0", tuple(
    Utterance(f"odd/0/{n:02}", "supporter" if strategy else "seeker", text, strategy)
    for n, (text, strategy) in enumerate([
        ("Hi", "Others"), ("How are you?", "Question"), ("I am here.", "Affirmation and Reassurance"), ("Hi", None),
        ("Hi", None), ("How are you?", "Question"), ("How are you?", "Question"), ("Bye", None),
    ])
))  # fmt: skip


@pytest.mark.parametrize("chunk", [None, 37])
@pytest.mark.parametrize("others", [[], ["Question", "I see."]], ids=["own", "three answers"])
@pytest.mark.parametrize("layout", prompts.LAYOUTS)
def test_a_packed_dialogue_is_its_turns_one_by_one(model, plain, tokenizer, dialogues, layout, others, chunk):
    examples = encoded(turns(dialogues[0])[:4], prompts.LAYOUTS[layout], tokenizer, others)
    packed = pack(examples)
    assert len(packed) > attention.CHUNK  # the default takes several chunks, too
    assert len(packed) < sum(len(e.prompt) + len(a) - 1 for e in examples for a in e.answers)
    check(model, plain, [examples], chunk)


@pytest.mark.parametrize("layout", prompts.LAYOUTS)
def test_several_dialogues_side_by_side_are_each_alone(model, plain, tokenizer, dialogues, layout):
    batch = [encoded(turns(d)[:2], prompts.LAYOUTS[layout], tokenizer, ["Hi"]) for d in (*dialogues[:2], ODD)]
    check(model, plain, [*batch, batch[0]], 100)
    trees = [pack(examples) for examples in batch]
    with torch.no_grad():
        apart = torch.cat([answer_logps(model, tree) for tree in trees])
        assert off(answer_logps(model, join(trees)), apart) <= BOUND
