"""LLM judges: what they are shown, how their answers are read, and how they are averaged and compared."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sklearn.metrics import cohen_kappa_score

from decoupled_esc import taxonomy
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate import Estimate, judges
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Means, Reply
from decoupled_esc.experiments import judging
from decoupled_esc.generate.client import Client, Endpoint
from decoupled_esc.generate.record import Record
from tests.misbehaving_server import serving

PAPER = judges.Protocol(turns=100, gold="shown", calls="each", context="last", repeats=1, pairs=True)
FEW = {"replicates": 60, "seed": 1}


def turn(number=0, dialogue=None, asked="I can't sleep."):
    context = (Message("seeker", "Hello there."), Message("supporter", "Welcome in."), Message("seeker", asked))
    return Turn(f"d/{number:02d}", dialogue or f"d{number}", context, "Question", "What keeps you awake?")


def reply(number=0, text="Poor you.", **changes):
    return Reply(f"s/{number:02d}", turn(number, **changes), "Question", text)


def shown(request):
    return "\n".join(content for _, content in request.messages)


def opened(server, path, protocol=PAPER, mode="record"):
    endpoint = Endpoint(model="judge", base_url=server.url, timeout_seconds=20.0)
    return judges.LLMJudge(Client(endpoint, Record(path), mode), protocol)


def test_the_paper_shows_the_last_words_and_the_gold_reply_and_asks_each_dimension():
    asked = [judges.likert(reply(), d, PAPER) for d in judges.DIMENSIONS]
    assert len({r.id for r in asked}) == 4 and {r.temperature for r in asked} == {0.0}
    for request, d in zip(asked, judges.DIMENSIONS, strict=True):
        text = shown(request)
        assert d.name in text and all(level in text for level in d.levels)
        assert "I can't sleep." in text and "What keeps you awake?" in text and "Poor you." in text
        assert "Hello there." not in text
        assert not any(level in text for other in judges.DIMENSIONS if other is not d for level in other.levels)


def test_stricter_protocols_hide_the_gold_reply_and_show_the_conversation():
    hidden = PAPER.model_copy(update={"gold": "hidden", "context": "whole"})
    for request in (judges.likert(reply(), judges.DIMENSIONS[0], hidden), judges.likert_jointly(reply(), hidden)):
        assert "What keeps you awake?" not in shown(request)
        assert "supporter: Welcome in." in shown(request) and "Poor you." in shown(request)
    assert all(level in shown(judges.likert_jointly(reply(), PAPER)) for d in judges.DIMENSIONS for level in d.levels)


def test_every_error_is_defined_and_no_question_tells_which_reply_should_win():
    filtered = judges.filter_pair(reply(), reply(text="Cheer up!"), PAPER)
    asked = shown(judges.error(reply(), PAPER))
    assert all(e.name in asked and e.meaning in asked for e in taxonomy.PSYCHOLOGICAL_ERRORS)
    for e in taxonomy.PSYCHOLOGICAL_ERRORS:
        assert (e.name in shown(filtered)) == (e.name in judges.FILTERED)
    assert "What keeps you awake?" not in shown(judges.error(reply(), PAPER))
    choice = judges.choice(reply(), reply(text="Cheer up!"), judges.DIMENSIONS[2], PAPER)
    for request in (filtered, choice):
        assert not re.search("chosen|rejected|preferred|gold|decoupled|vanilla", shown(request))
        assert shown(request).index("Poor you.") < shown(request).index("Cheer up!")


def test_the_scales_are_told_apart():
    assert [len(d.levels) for d in judges.DIMENSIONS] == [len(judges.SCALE)] * 4
    assert len({level for d in judges.DIMENSIONS for level in d.levels}) == 24
    assert set(judges.FILTERED) < set(LABELS) - {taxonomy.NO_ERROR}


@pytest.mark.parametrize(("chosen", "rejected", "keeps"), [
    ("None", "Lack of Empathy", True), ("None", "Template Response", True),
    ("Strategy Mismatch", "Early Emotion Shift", True), ("None", "None", False), ("None", "Strategy Mismatch", False), ("None", "Emotion Misread", False),
    ("Lack of Empathy", "Template Response", False), (None, "Lack of Empathy", False), ("None", None, False),
])  # fmt: skip
def test_the_filter_of_pairs(chosen, rejected, keeps):
    assert judges.kept(chosen, rejected) is keeps


def test_labels_are_forgiven_their_case_and_nothing_else():
    assert judges.ErrorLabel.model_validate({"error": " lack of EMPATHY "}).error == "Lack of Empathy"
    assert judges.PairLabels.model_validate({"first": "none", "second": "template response"}).first == "None"
    with pytest.raises(ValidationError):  # not a generator's error: it must not hide that the reply has one
        judges.PairLabels.model_validate({"first": "Strategy Mismatch", "second": "None"})
    assert judges.ErrorLabel.model_validate({"error": None}).error == "None", "JSON's null says that nothing is wrong"
    for wrong in ("Rudeness", "", 3):
        with pytest.raises(ValidationError):
            judges.ErrorLabel.model_validate({"error": wrong})


def numbered(body):
    """Answers any question from the words of the reply: ``score`` its last digit, by dimension shifted by one."""
    system, user = (m["content"] for m in body["messages"])
    digit = int(re.findall(r"<reply(?: to score)?>\nreply (\d)", user)[-1])
    if "Say what is wrong with one reply" in system:
        return json.dumps({"error": LABELS[digit]})
    if "four scales" in system:
        return json.dumps({d.name: (digit + k) % 6 for k, d in enumerate(judges.DIMENSIONS)})
    place = next(k for k, d in enumerate(judges.DIMENSIONS) if f"Score the {d.name} " in system)
    return f"I would say {(digit + place) % 6}."  # a bare number, as servers without schemas give


@pytest.mark.parametrize(("calls", "requests"), [("each", 24), ("joint", 6)])
def test_scores_stand_by_their_reply_and_dimension(tmp_path, calls, requests):
    replies = [reply(n, f"reply {n}") for n in range(6)]
    with serving(say=numbered, latency=0.01) as server:
        judge = opened(server, tmp_path / "r.db", PAPER.model_copy(update={"calls": calls}))
        found = judge.scores(replies)
        assert found == [{d.key: (n + k) % 6 for k, d in enumerate(judges.DIMENSIONS)} for n in range(6)]
        assert sum(server.asked.values()) == requests
        assert judge.errors(replies) == list(LABELS) and judge.id == "judge"
        again = judge.scores(replies, repeat=1)
        assert again == found and sum(server.asked.values()) == 2 * requests + 6, "a repeat is asked anew"
    assert opened(server, tmp_path / "r.db", judge.protocol, "replay").scores(replies) == found


def test_an_answer_that_cannot_be_read_is_missing_for_that_score_alone(tmp_path):
    def say(body):
        return "I would rather not." if "the empathy of" in body["messages"][0]["content"] else '{"score": 4}'

    with serving(say=say) as server:
        (found,) = opened(server, tmp_path / "r.db").scores([reply()])
    assert found == {"Flu": 4, "Pro": 4, "Emp": None, "Hel": 4}
    assert np.isnan(judges.as_numbers([found])).tolist() == [[False, False, True, False]]


def test_a_judge_that_takes_the_first_it_sees_has_no_winner(tmp_path):
    pairs = [(reply(n, f"reply {n}"), reply(n, "another")) for n in range(5)]
    with serving(say=lambda body: '{"better": "first"}') as server:
        found = opened(server, tmp_path / "r.db").choices(pairs)
    assert found == [{d.key: (1, -1) for d in judges.DIMENSIONS}] * 5
    outcome = judges.outcomes(found, [one.turn.dialogue for one, _ in pairs], **FEW)["Emp"]
    assert [getattr(outcome, key).value for key in ("win", "tie", "lose", "same_in_both_orders")] == [0, 100, 0, 0]
    assert outcome.first_place.value == 100 and outcome.second_place.value == 0 and outcome.items == 5


def test_a_judge_that_takes_the_longer_finds_it_in_both_orders(tmp_path):
    def longer(body):
        first, second = (
            re.search(f"<{name} reply>\n(.*)\n", body["messages"][1]["content"])[1] for name in ("first", "second")
        )
        return json.dumps(
            {"better": "first" if len(first) > len(second) else "second" if len(second) > len(first) else "neither"}
        )

    texts = [("long answer", "short"), ("short", "long answer"), ("equal", "equal"), ("long answer", "short")]
    pairs = [(reply(n, one), replace(reply(n, other), id=f"t/{n}")) for n, (one, other) in enumerate(texts)]
    with serving(say=longer) as server:
        judge = opened(server, tmp_path / "r.db")
        found = judge.choices(pairs)
    assert [row["Hel"] for row in found] == [(1, 1), (-1, -1), (0, 0), (1, 1)]
    outcome = judges.outcomes(found, list("abcd"), **FEW)["Hel"]
    assert [getattr(outcome, key).value for key in ("win", "tie", "lose")] == [
        50,
        25,
        25,
    ] and outcome.same_in_both_orders.value == 100
    sides = [[{key: both[k] for key, both in row.items()} for row in found] for k in (0, 1)]
    assert judges.agreement(*sides, list("abcd"), (-1, 0, 1), **FEW)["Hel"].kappa.value == pytest.approx(1)


def test_labels_of_pairs_follow_their_order(tmp_path):
    def say(body):
        first = "Cheer" in re.search("<first reply>\n(.*)\n", body["messages"][1]["content"])[1]
        return json.dumps(
            {"first": "Early Emotion Shift" if first else "None", "second": "None" if first else "Early Emotion Shift"}
        )

    with serving(say=say) as server:
        judge = opened(server, tmp_path / "r.db")
        good, poor = reply(text="That is hard."), reply(text="Cheer up!")
        labels = judge.labels_of_pairs([(good, poor), (poor, good)])
    assert labels == [("None", "Early Emotion Shift"), ("Early Emotion Shift", "None")]
    assert [judges.kept(*pair) for pair in labels] == [True, False]


def test_the_place_of_the_chosen_reply_tells_nothing(tmp_path):
    firsts = []

    def say(body):
        firsts.append("reply" in re.search("<first reply>\n(.*)\n", body["messages"][1]["content"])[1])
        return json.dumps(
            {"first": "None", "second": "Template Response"}
            if firsts[-1]
            else {"first": "Template Response", "second": "None"}
        )

    with serving(say=say) as server:
        pairs = [(reply(n, f"reply {n}"), replace(reply(n, f"mine {n}"), id=f"t/{n}")) for n in range(60)]
        labels = opened(server, tmp_path / "r.db", PAPER).labels_of_pairs(pairs)
    assert labels == [("None", "Template Response")] * 60 and 15 < sum(firsts) < 45


def test_replicates_without_a_score_are_no_zeros():
    values = np.array([4.0] + [np.nan] * 7)
    assert Means(list("abcdefgh"), **FEW).of(values) == Estimate(4.0)
    found = Means([f"d{n}" for n in range(40)], **FEW).of([4.0, 5.0] * 8 + [np.nan] * 24)
    assert 4 <= found.low <= found.high <= 5


@pytest.mark.parametrize("wrong", [
    {"turns": 0}, {"turns": True}, {"turns": 10**9}, {"repeats": 0}, {"repeats": 101}, {"pairs": 1},
    {"gold": "blurred"}, {"calls": None}, {"context": ""}, {"temperature": 1},
])  # fmt: skip
def test_a_protocol_out_of_bounds_is_refused(wrong):
    with pytest.raises(ValidationError):
        judges.Protocol(**{**PAPER.model_dump(), **wrong})


def test_the_same_turns_are_sampled_for_everyone():
    turns = [turn(n) for n in range(40)]
    some = judges.sample_turns(turns, PAPER.model_copy(update={"turns": 10}), seed=3)
    assert len(some) == 10 == len(set(some)) and some == sorted(some, key=turns.index)
    assert some == judges.sample_turns(turns, PAPER.model_copy(update={"turns": 10}), seed=3)
    assert some != judges.sample_turns(turns, PAPER.model_copy(update={"turns": 10}), seed=4)
    for everything in (None, 40, 99):
        assert judges.sample_turns(turns, PAPER.model_copy(update={"turns": everything}), seed=3) == turns


scores = st.lists(
    st.tuples(st.sampled_from([0, 1, 3, 5, None]), st.sampled_from([0, 1, 3, 5, None])), min_size=2, max_size=25
)


@settings(max_examples=30, deadline=None)
@given(scores)
def test_agreement_is_scikit_learns_kappa_on_what_both_scored(rows):
    one, other = ([{d.key: row[k] for d in judges.DIMENSIONS} for row in rows] for k in (0, 1))
    found = judges.agreement(one, other, list(range(len(rows))), judges.SCALE, **FEW)["Flu"]
    both = [(a, b) for a, b in rows if a is not None and b is not None]
    assert found.items == len(both)
    if not both:
        assert found.equal is found.kappa is None
        return
    a, b = zip(*both, strict=True)
    assert found.equal == pytest.approx(100 * np.mean(np.array(a) == np.array(b)))
    if len({*a, *b}) == 1:
        assert found.kappa is None
    else:
        assert found.kappa.value == pytest.approx(
            cohen_kappa_score(a, b, labels=list(judges.SCALE), weights="quadratic")
        )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5) | st.just(float("nan")), st.integers(0, 4)), min_size=1, max_size=30))
def test_means_leave_out_what_is_missing(rows):
    values, dialogues = np.array([v for v, _ in rows]), [f"d{g}" for _, g in rows]
    found = Means(dialogues, **FEW).of(values)
    if np.isnan(values).all():
        assert found is None
        return
    assert found.value == pytest.approx(np.nanmean(values))
    if len({name for name, value in zip(dialogues, values, strict=True) if not np.isnan(value)}) == 1:
        assert found.low is None, "one dialogue says nothing about others"
    elif found.low is not None:
        assert np.nanmin(values) - 1e-9 <= found.low <= found.high <= np.nanmax(values) + 1e-9


def test_a_contrast_is_taken_on_items_that_both_have():
    values = {"a": np.array([[5.0], [np.nan], [3.0]]), "b": np.array([[1.0], [2.0], [np.nan]])}
    table = Means(["x", "y", "z"], **FEW).table(values, ["Emp"], [("a", "b")])
    assert table.systems["a"]["Emp"].value == 4 and table.systems["b"]["Emp"].value == 1.5
    assert table.contrasts["a - b"]["Emp"].value == 4
    empty = Means(["x"], **FEW).table({"a": np.array([[np.nan, 1.0]])}, ["Emp", "Hel"])
    assert set(empty.systems["a"]) == {"Hel"}


def test_intervals_of_means_cover_the_truth():
    """Scores of 40 dialogues with a dialogue effect: 95% intervals hold the mean about 95 times in 100."""
    rng, hits = np.random.default_rng(0), 0
    for trial in range(120):
        effect = np.repeat(rng.normal(3, 1, 40), 5)
        found = Means(np.repeat(np.arange(40), 5).astype(str).tolist(), replicates=300, seed=trial).of(
            effect + rng.normal(0, 0.5, 200)
        )
        hits += found.low <= 3 <= found.high
    assert 104 <= hits <= 120


def test_mined_pairs_are_scored_without_the_gold_reply_and_their_scores_say_so(monkeypatch):
    """The chosen reply is the gold one: shown beside itself, it would be scored against its own copy."""
    asked = []

    class Blind:
        def __init__(self, client, protocol):
            self.protocol, self.tokens = protocol, 7

        def scores(self, replies):
            asked.append((self.protocol.gold, [reply.text for reply in replies]))
            return [dict.fromkeys(("Flu", "Pro", "Emp", "Hel"), 3) for _ in replies]

    turns = [turn(k) for k in range(3)]
    mined = [SimpleNamespace(id=f"p{k}", turn=one.id, reply="ok") for k, one in enumerate(turns)]
    monkeypatch.setattr(judging.mining, "read", lambda path: mined)
    monkeypatch.setattr(judging.judges, "LLMJudge", Blind)
    step = SimpleNamespace(pairs="pairs", train=SimpleNamespace(read=lambda: turns), seed=0, resampling=FEW)
    judge = SimpleNamespace(id="a", client=None, protocol=PAPER)
    work = type("Work", (), {"__getitem__": lambda self, step: None, "path": lambda self, step, name: name})()
    quality, tokens = judging.AskJudges._pair_quality(step, work, judge)
    assert {gold for gold, _ in asked} == {"hidden"} and (quality.pairs, quality.judge, tokens) == (3, "a", 7)
    assert quality.protocol == PAPER.model_copy(update={"gold": "hidden"})
    mined.clear()
    assert judging.AskJudges._pair_quality(step, work, judge)[0].protocol.gold == "hidden"
