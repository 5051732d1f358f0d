"""Mining: which samples become pairs, which don't and why, and how pairs are written and read back."""

from collections import Counter
from types import SimpleNamespace

import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupled_esc import mining, taxonomy
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.errors import KnownError
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judges import FILTERED, kept

A, B, C = taxonomy.STRATEGIES[:3]
LE, TR, ES, SM = "Lack of Empathy", "Template Response", "Early Emotion Shift", "Strategy Mismatch"


def turn(number, strategy=A, reply="That sounds hard."):
    context = (Message("seeker", f"words {number}"),)
    return Turn(f"d/{number // 4}/{number % 4:02d}", f"d/{number // 4}", context, strategy, reply)


TURNS = [turn(n) for n in range(6)]


def by_turn(values, turns=TURNS):
    return dict(zip([t.id for t in turns], values, strict=True))


def strategies():
    return mining.strategy_pairs(TURNS, [by_turn([B] * 6)])[0]


def test_every_error_has_a_route_and_only_the_three_lead_to_the_generator():
    assert set(mining.ROUTES) == set(LABELS)
    assert {e for e, model in mining.ROUTES.items() if model == "generator"} == set(FILTERED)
    assert [e for e, model in mining.ROUTES.items() if model == "planner"] == [SM]


def test_strategy_pairs_are_all_samples_that_are_not_gold():
    samples = [by_turn([A, B, None, C, B, A]), by_turn([A, B, C, B, None, A])]
    pairs, left = mining.strategy_pairs(TURNS, samples)
    expected = [("d/0/01#0", B), ("d/0/02#1", C), ("d/0/03#0", C), ("d/0/03#1", B), ("d/1/00#0", B)]
    assert [(p.id, p.strategy) for p in pairs] == expected
    assert left == Counter({"as gold": 4, "no strategy": 2, "sampled before": 1})
    assert {p.rejected for p in pairs} == {B, C} and all(p.reply is None and p.error is None for p in pairs)


def test_response_pairs_have_a_faulty_reply_beside_a_sound_one():
    samples = [by_turn(["", "that  sounds HARD.", "Cheer up!", "I am here.", "Fine.", "Oh."])]
    labels = [by_turn([("None", LE), ("None", LE), ("None", ES), (LE, TR), ("None", SM), (None, LE)])]
    pairs, left = mining.response_pairs(TURNS, samples, labels)
    assert [(p.turn, p.rejected, p.error, p.chosen_error, p.strategy) for p in pairs] == [
        ("d/0/02", "Cheer up!", ES, "None", A)
    ]
    once = ("empty", "as gold", "gold reply has an error", "nothing wrong for the generator", "not read by the judge")
    assert left == Counter(once)


def test_vanilla_pairs_fall_into_the_quadrants():
    said = [(A, "x"), (B, "y"), (B, "z"), (A, "fine"), (None, "lost"), (B, "w")]
    labels = [by_turn([("None", LE), ("None", "None"), (SM, TR), ("None", "None"), ("None", LE), (TR, "None")])]
    pairs, left = mining.vanilla_pairs(TURNS, [by_turn(said)], labels)
    assert [(p.turn, p.quadrant) for p in pairs] == [("d/0/00", "PsNr"), ("d/0/01", "NsPr"), ("d/0/02", "NsNr")]
    assert pairs[1].rejected == f"[{B}] y"
    assert left == Counter({"nothing wrong": 1, "no strategy": 1, "gold reply has an error": 1})


def test_filters_differ_in_which_wrong_strategies_with_sound_replies_pass():
    said = [(A, "x"), (B, "y"), (B, "z"), (B, "fine"), (B, "lost"), (A, "w")]
    seen = [by_turn([("None", LE), ("None", "None"), (SM, TR), ("None", SM), ("None", "Emotion Misread"), ("None", SM)])]
    pairs, left = mining.vanilla_pairs(TURNS, [by_turn(said)], seen)
    assert left == Counter({"nothing wrong": 1}), "the gold strategy, whatever the judge calls a mismatch"
    found = mining.by_filter(pairs, judge_names_mismatch=True)
    sound = {SM: 1, "Emotion Misread": 1, "None": 1}
    assert list(found) == list(mining.FILTERS)
    assert list(found.values()) == [
        {"PsNr": {LE: 1}, "NsPr": sound, "NsNr": {TR: 1}},
        {"PsNr": {LE: 1}, "NsPr": {SM: 1}, "NsNr": {TR: 1}},
        {"PsNr": {LE: 1}, "NsPr": {}, "NsNr": {TR: 1}},
    ]
    assert sum(sum(labels.values()) for labels in found["this book"].values()) == len(pairs)
    unasked = mining.by_filter(pairs, judge_names_mismatch=False)
    assert list(unasked) == [name for name in mining.FILTERS if "section 4.1" not in name]


labels = st.sampled_from([*LABELS, None])
replies = st.sampled_from(["", "a", "b", "That sounds hard."])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B, None]), replies, labels, labels), min_size=12, max_size=12))
def test_every_sample_is_a_pair_or_has_a_reason(rows):
    halves = [rows[:6], rows[6:]]
    seen = [by_turn([(gold, said) for _, _, gold, said in half]) for half in halves]
    for pairs, left in (
        mining.strategy_pairs(TURNS, [by_turn([r[0] for r in half]) for half in halves]),
        mining.response_pairs(TURNS, [by_turn([r[1] for r in half]) for half in halves], seen),
        mining.vanilla_pairs(TURNS, [by_turn([r[:2] for r in half]) for half in halves], seen),
    ):
        assert len(pairs) + sum(left.values()) == 12
        assert len({p.id for p in pairs}) == len(pairs) == len({(p.turn, p.rejected) for p in pairs})
        assert [p.turn for p in pairs] == sorted((p.turn for p in pairs), key=[t.id for t in TURNS].index)
        for p in pairs:
            if p.kind == "response":
                assert kept(p.chosen_error, p.error)
            if p.kind == "vanilla":
                assert p.chosen_error not in FILTERED
                assert (p.strategy == A) == p.quadrant.startswith("Ps")
                assert (p.error in FILTERED) == p.quadrant.endswith("Nr")
        for name in mining.QUADRANTS:
            own = mining.of_quadrant(pairs, name, 3)
            assert own == mining.of_quadrant(pairs, name, 3) and {p.quadrant for p in own} <= {name}
            assert len(own) <= min(Counter(p.quadrant for p in pairs).values(), default=0)


def test_examples_are_the_shortest_telling_pairs():
    long = "one two three four five six seven eight"
    turns = [Turn(f"d/{n}", "d", (Message("seeker", f"{long} nine"),), A, f"{long}{' more' * n}") for n in range(3)]
    found = {"response": [], "vanilla": []}
    for one, strategy in zip(turns, (A, B, B), strict=True):
        found["response"].append(mining.Mined(f"{one.id}#0", one.id, "response", A, f"{long} ten", LE, "None", None))
        found["vanilla"].append(mining.Mined(f"{one.id}#0", one.id, "vanilla", strategy, long, SM, "None", "NsPr"))
    found["response"].append(mining.Mined("d/0#1", "d/0", "response", A, "too short", LE, "None", None))
    told = [(one.id, one.error, one.rejected) for one in mining.examples(found, {t.id: t for t in turns})]
    assert told == [("d/1#0", SM, long), ("d/0#0", LE, f"{long} ten")]


# --- Files ---


def test_pairs_are_read_back_and_load_with_datasets(tmp_path):
    path = tmp_path / "strategy.jsonl"
    mining.write(path, strategies(), judge=None, temperature=0.7)
    assert mining.read(path) == strategies()
    found = load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    assert found.num_rows == 6
    assert {"id", "turn", "strategy", "error", "judge", "temperature"} <= set(found.column_names)
    assert "That sounds hard." not in path.read_text(), "what people said is not copied"


def test_with_text_joins_both_sides():
    pairs, _ = mining.vanilla_pairs(TURNS, [by_turn([(B, "x")] * 6)], [by_turn([("None", "None")] * 6)])
    context = [{"role": "seeker", "text": "words 2"}]
    sides = {"chosen": f"[{A}] That sounds hard.", "rejected": f"[{B}] x"}
    assert mining.with_text(pairs, TURNS)[2] == {"id": "d/0/02#0", "strategy": A, "context": context, **sides}
    assert mining.with_text(strategies(), TURNS)[0]["chosen"] == A


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('"turn": "d/0/00"', '"no": 1', "turn"), (', "quadrant": null', "", "quadrant"), (f'"strategy": "{B}"', '"strategy": 3', "strategy"),
        ('"kind": "strategy"', '"kind": "plan"', "kind"),
    ],
)  # fmt: skip
def test_a_row_of_another_form_is_named_with_its_field(tmp_path, old, new, field):
    path = tmp_path / "strategy.jsonl"
    mining.write(path, strategies())
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(KnownError, match=f"{path}, line 1, field {field}"):
        mining.read(path)


def test_the_data_card_says_what_the_pairs_are():
    plan, reply = SimpleNamespace(temperature=1.0, top_p=0.9), SimpleNamespace(temperature=0.7, top_p=0.8)
    told = {"profile": "tiny", "backbone": "small", "seed": 3, "judge": "a judge", "counts": {"strategy": 1234}}
    card = mining.data_card(plan=plan, reply=reply, **told)
    said = ("tiny", "small", "T = 1.0", "T = 0.7", "a judge", "`strategy.jsonl`: 1,234 pairs")
    assert all(text in card for text in said)
