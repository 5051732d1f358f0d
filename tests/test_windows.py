"""The strategy test set: windows of dialogues, every strategy as often as any other."""

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import Dialogue, Utterance, windows

SOME = taxonomy.STRATEGIES[:3]


@st.composite
def talks(draw) -> list[Dialogue]:
    """Talks in which anyone may speak several times in a row."""
    found = []
    for number in range(draw(st.integers(1, 6))):
        said = draw(st.lists(st.tuples(st.booleans(), st.sampled_from(SOME)), max_size=40))
        name = f"talk/{number}"
        found.append(Dialogue(name, tuple(
            Utterance(f"{name}/{k:02d}", "supporter" if speaks else "seeker", f"line {k}", strategy if speaks else None)
            for k, (speaks, strategy) in enumerate(said)
        )))  # fmt: skip
    return found


def could_be_drawn(dialogues) -> Counter:
    return Counter(
        said.strategy for dialogue in dialogues
        for before, said in zip(dialogue.utterances[4:], dialogue.utterances[5:], strict=False)
        if said.role == "supporter" and before.role == "seeker"
    )  # fmt: skip


@given(talks(), st.integers(0, 3))
@settings(deadline=None, max_examples=150)
def test_windows_are_of_talks_and_every_strategy_is_as_often(dialogues, seed):
    found, possible = windows.strategy_test(dialogues, seed), could_be_drawn(dialogues)
    assert Counter(turn.strategy for turn in found) == dict.fromkeys(possible, min(possible.values(), default=0))
    assert [turn.id for turn in found] == sorted({turn.id for turn in found})
    whole = {turn.id: turn for dialogue in dialogues for turn in corpus.turns(dialogue)}
    places = {said.id: (dialogue, k) for dialogue in dialogues for k, said in enumerate(dialogue.utterances)}
    for turn in found:
        assert replace(turn, context=()) == replace(whole[turn.id], context=())
        dialogue, end = places[turn.id]
        lines = [line for message in turn.context for line in re.findall(r"line \d+", message.text)]
        assert 5 <= len(lines) <= 15, "utterances, however the chat form joins them"
        assert lines == [said.text for said in dialogue.utterances[end - len(lines) : end]]


def test_the_same_windows_are_drawn_whoever_asks():
    dialogues = corpus.load("esconv", download=False).split("test")
    found = windows.strategy_test(dialogues)
    assert found == windows.strategy_test(dialogues) and found != windows.strategy_test(dialogues, seed=1)
    assert all(turn.context[-1].role == "seeker" and turn.context[-1].text != corpus.BLANK for turn in found)
    assert windows.strategy_test([]) == []


def test_of_esconv_there_are_73_of_each():
    found = corpus.load("esconv", download=False)
    if found.name == "miniature":
        pytest.skip("needs ESConv")
    drawn = windows.strategy_test(found.split("test"))
    assert Counter(turn.strategy for turn in drawn) == dict.fromkeys(taxonomy.STRATEGIES, 73)
