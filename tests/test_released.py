"""The authors' labelled replies find their turns, and their labels are counted right."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import CorpusError, Dialogue, Utterance, fetch, released
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.evaluate import Estimate, errors

LABEL = {
    "Strategy Mismatch": "Mismatched Strategy",
    "Lack of Empathy": "Lack of Empathetic Content",
    "Early Emotion Shift": "Premature Emotional Transition",
    "Template Response": "Repetitive or Template-like Response",
    "Emotion Misread": "Emotional Misunderstanding",
}


def dialogue(id, *said):
    """A dialogue in which seeker and supporter alternate."""
    return Dialogue(id, tuple(
        Utterance(f"{id}/{n:02d}", "supporter" if n % 2 else "seeker", text, "Question" if n % 2 else None)
        for n, text in enumerate(said)
    ))  # fmt: skip


TEST = [
    dialogue("esconv/0001", "I am sad.", "Why?", "yes", "Go on.", "It hurts.", "I see."),
    dialogue("esconv/0002", "Bad week.", "Tell me.", "yes", "And then?", "Nothing.", "Oh."),
]
FAILED = [dialogue("failed_esconv/0000", "Hi", "hello", "Help", "How?", "So", "hello")]


def row(seeker="", reply="r", said="Yes", kind="Mismatched Strategy", strategy="Question"):
    labels = {"Contains Empathy Error": said, "Error Type": kind}
    return {"user_input": seeker, "strategy": strategy, "response": reply} | labels


def rows_of(dialogues, **changes):
    return [row(turn.context[-1].text.upper(), turn.reply, **changes) for d in dialogues for turn in corpus.turns(d)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "failed", rows_of(FAILED))
    write(tmp_path, "qwen-sft", rows_of(TEST))
    write(tmp_path, "llama-sft", rows_of(TEST))
    return tmp_path


def write(folder, source, rows):
    (folder / released.FILES[source]).write_text(json.dumps(rows), encoding="utf-8")


def read(folder):
    return released.read(folder, TEST, FAILED)


@pytest.mark.parametrize("order", [1, -1])
def test_each_row_finds_its_turn_and_shared_words_are_dealt_in_order(folder, order):
    write(folder, "qwen-sft", rows_of(TEST[::order]))
    found = [row for row in read(folder) if row.source == "qwen-sft"]
    assert [row.reply for row in found] == [row.turn.reply for row in found]
    assert [row.turn.context[-1].text for row in found if not row.unique] == ["yes", "yes"], (
        "neighbours stay neighbours"
    )


def test_people_are_found_by_their_own_words_even_with_a_slip_of_the_pen(folder):
    rows = rows_of(FAILED)
    rows[1]["response"] = "How ?"
    rows[0]["user_input"] = "something else"
    write(folder, "failed", rows)
    with pytest.raises(CorpusError, match="no turn has the words of this row"):
        read(folder)  # four characters are too few for one of them to be a slip
    longer = [dialogue("failed_esconv/0000", "Hi", "hello", "Help", "How did you come to this point?")]
    write(folder, "failed", [row(reply="How did you come to this piont?")])
    (found,) = [row for row in released.read(folder, TEST, longer) if row.source == "failed"]
    assert found.turn.reply == "How did you come to this point?"


@pytest.mark.parametrize("name, label", LABEL.items())
def test_labels_get_the_papers_names_in_whichever_field_they_stand(folder, name, label):
    for said, kind in (("Yes", label), (label, label), (label, ""), ("Yes", f"Self-disclosure / {label}")):
        write(folder, "qwen-sft", rows_of(TEST, said=said, kind=kind))
        assert {row.error for row in read(folder) if row.source == "qwen-sft"} == {name}


@pytest.mark.parametrize("kind", ["", "None", "N/A", "Other", "Others", "No error"])
def test_no_is_no_error_and_yes_without_a_type_is_no_label(folder, kind):
    write(folder, "qwen-sft", rows_of(TEST, said="No", kind=kind))
    write(folder, "llama-sft", rows_of(TEST, said="Yes", kind=kind))
    found = {row.source: row.error for row in read(folder)}
    assert found["qwen-sft"] == taxonomy.NO_ERROR and found["llama-sft"] is None


def test_a_tag_is_taken_off_the_reply_and_an_unknown_strategy_is_none(folder):
    write(folder, "qwen-sft", [row("I am sad.", "[Question]  Why \n so?"), row("Bad week.", "Oh", strategy="Hug")])
    first, second = [row for row in read(folder) if row.source == "qwen-sft"]
    assert first.reply == "Why so?" and first.strategy == "Question" and second.strategy is None


@pytest.mark.parametrize(
    "rows, message",
    [
        ([row("never said")], "no turn has the words of this row"),
        ([row("I am sad.")] * 2, "2 rows have the words of 1 turns"),
    ],
)
def test_rows_of_another_form_are_named(folder, rows, message):
    write(folder, "qwen-sft", rows)
    with pytest.raises(CorpusError) as caught:
        read(folder)
    assert message in str(caught.value) and "Statistic_SFT_Qwen2.5.json" in str(caught.value)


# Shares and repeats ------------------------------------------------------------------------------------------------

labelled = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 3), st.sampled_from([*errors.LABELS, None]),
              st.sampled_from("xy")),
    min_size=1, max_size=40,
)  # fmt: skip


def replies(rows):
    turns = [next(iter(corpus.turns(dialogue(f"d/{n:04d}", "Hi", "Yes?")))) for n in range(4)]
    return [LabelledReply(source, turns[n], "Question", reply, error, True) for source, n, error, reply in rows]


@given(labelled)
def test_shares_add_up_and_lie_in_their_intervals(rows):
    for source, found in errors.shares(replies(rows), replicates=50, seed=1).items():
        mine = [error for name, _, error, _ in rows if name == source]
        assert found.replies == len(mine) and found.unplaced == mine.count(None)
        values = {label: share.value for label, share in found.shares.items()}
        placed = len(mine) - mine.count(None)
        assert values == pytest.approx(
            {label: 100 * mine.count(label) / placed if placed else 0 for label in errors.LABELS}
        )
        assert all(0 <= share.low <= share.high <= 100 for share in found.shares.values())


FEW = {"replicates": 50, "seed": 1}


@given(labelled)
def test_repeats_do_not_depend_on_which_label_stands_first(rows):
    pair = replies([("a", 0, error, "x") for _, _, error, _ in rows if error][:2])
    assert errors.repeats(pair, **FEW) == errors.repeats(pair[::-1], **FEW)


def test_repeats_are_pairs_read_both_ways():
    found = errors.repeats(replies([
        ("a", 0, "None", "x"), ("b", 0, "Lack of Empathy", "x"), ("a", 0, "None", "y"), ("b", 0, "None", "y"),
        ("a", 1, "None", "z"),
        ("a", 2, None, "x"),
    ]), **FEW)  # fmt: skip
    # All dialogues open alike: the words decide, and "z" occurs once.
    first, second = ["None", "Lack of Empathy", "None", "None"], ["Lack of Empathy", "None", "None", "None"]
    assert found.pairs == found.openings == 2 and found.after_blank == 0
    assert found.equal == Estimate(50, 0, 100)
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))


def test_without_pairs_or_with_one_label_there_is_no_kappa():
    assert errors.repeats([], **FEW) == errors.RepeatedLabels(0, 0, 0, None, None)
    same = errors.repeats(replies([("a", 0, "None", "x"), ("b", 0, "None", "x")]), **FEW)
    assert same.equal.value == 100 and same.kappa is None


def test_dealing_at_random_exchanges_turns_after_the_same_words_only(folder):
    rows = [row for row in read(folder) if row.source != "failed"]
    dealt = [released.dealt_at_random(rows, seed) for seed in range(8)]
    for some in dealt:
        key = {(row.source, row.reply, row.turn.context[-1].text) for row in some}
        assert key == {(row.source, row.reply, row.turn.context[-1].text) for row in rows}
        assert sorted((row.source, row.turn.id) for row in some) == sorted((row.source, row.turn.id) for row in rows)
    moved = {row.reply for some in dealt for row in some if row.reply != row.turn.reply}
    assert moved == {"Go on.", "And then?"} and dealt[0] == released.dealt_at_random(rows, 0)


# The files themselves ----------------------------------------------------------------------------------------------


@pytest.mark.skipif("DECOUPLED_ESC_DATA" not in os.environ, reason="needs the released outputs of DecoupledESC")
def test_the_released_rows_cover_the_test_turns_once():
    folder = fetch.here("decoupledesc_release").paths[0].parent
    test = corpus.load("esconv").split("test")
    found = released.read(folder, test, corpus.load("failed_esconv").dialogues)
    turns = sorted(turn.id for one in test for turn in corpus.turns(one))
    for source in ("qwen-sft", "llama-sft"):
        assert sorted(row.turn.id for row in found if row.source == source) == turns
    people = [row for row in found if row.source == "failed"]
    assert len(people) == 2317 and sum(row.strategy != row.turn.strategy for row in people) < 0.02 * 2317
    assert sum(row.error is None for row in found) == 18


def test_files_that_are_not_here_are_none(monkeypatch, tmp_path):
    monkeypatch.delenv(fetch.FOLDER, raising=False)
    monkeypatch.setenv(fetch.CACHE, str(tmp_path))
    assert fetch.here("decoupledesc_release") is None
    assert len(fetch.identity("decoupledesc_release")) == 64 and Path(fetch.REGISTRY).exists()
