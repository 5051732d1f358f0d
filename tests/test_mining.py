"""Mining: which draws become pairs, which don't and why, and how pairs are written."""

import json
from collections import Counter

import pytest
from datasets import load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from decoupled_esc import mining, taxonomy
from decoupled_esc.corpus import Message, Turn
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judges import FILTERED, kept

A, B, C = taxonomy.STRATEGIES[:3]


def turn(number, strategy=A, reply="That sounds hard."):
    return Turn(f"d/{number // 4}/{number % 4:02d}", f"d/{number // 4}", (Message("seeker", f"words {number}"),), strategy, reply)


TURNS = [turn(n) for n in range(6)]


def by_turn(values, turns=TURNS):
    return dict(zip([t.id for t in turns], values, strict=True))


def test_every_error_has_a_route_and_only_the_three_lead_to_the_generator():
    assert set(mining.ROUTES) == set(LABELS)
    assert {e for e, model in mining.ROUTES.items() if model == "generator"} == set(FILTERED)
    assert [e for e, model in mining.ROUTES.items() if model == "planner"] == ["Strategy Mismatch"]


def test_strategy_pairs_are_all_draws_that_are_not_gold():
    draws = [by_turn([A, B, None, C, B, A]), by_turn([A, B, C, B, None, A])]
    pairs, left = mining.strategy_pairs(TURNS, draws)
    assert [(p.id, p.strategy) for p in pairs] == [
        ("d/0/01#0", B), ("d/0/02#1", C), ("d/0/03#0", C), ("d/0/03#1", B), ("d/1/00#0", B)
    ]  # fmt: skip
    assert left == Counter({"as gold": 4, "no strategy": 2, "drawn before": 1})
    assert {p.rejected for p in pairs} == {B, C} and all(p.reply is None and p.error is None for p in pairs)


def test_response_pairs_have_a_faulty_reply_beside_a_sound_one():
    draws = [by_turn(["", "that  sounds HARD.", "Cheer up!", "I am here.", "Fine.", "Oh."])]
    labels = [by_turn([
        ("None", "Lack of Empathy"), ("None", "Lack of Empathy"), ("None", "Early Emotion Shift"),
        ("Lack of Empathy", "Template Response"), ("None", "Strategy Mismatch"), (None, "Lack of Empathy"),
    ])]  # fmt: skip
    pairs, left = mining.response_pairs(TURNS, draws, labels)
    assert [(p.turn, p.rejected, p.error, p.chosen_error, p.strategy) for p in pairs] == [("d/0/02", "Cheer up!", "Early Emotion Shift", "None", A)]
    assert left == Counter({"empty": 1, "as gold": 1, "gold reply has an error": 1, "nothing wrong for the generator": 1, "not read by the judge": 1})


def test_vanilla_pairs_fall_into_the_quadrants():
    said = [(A, "x"), (B, "y"), (B, "z"), (A, "fine"), (None, "lost"), (B, "w")]
    labels = [by_turn([
        ("None", "Lack of Empathy"), ("None", "None"), ("Strategy Mismatch", "Template Response"),
        ("None", "None"), ("None", "Lack of Empathy"), ("Template Response", "None"),
    ])]  # fmt: skip
    pairs, left = mining.vanilla_pairs(TURNS, [by_turn(said)], labels)
    assert [(p.turn, p.quadrant) for p in pairs] == [("d/0/00", "PsNr"), ("d/0/01", "NsPr"), ("d/0/02", "NsNr")]
    assert pairs[1].rejected == f"[{B}] y"
    assert left == Counter({"nothing wrong": 1, "no strategy": 1, "gold reply has an error": 1})


labels = st.sampled_from([*LABELS, None])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B, None]), st.sampled_from(["", "a", "b", "That sounds hard."]), labels, labels), min_size=12, max_size=12))
def test_every_draw_is_a_pair_or_has_a_reason(rows):
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
                assert (p.strategy == A) == p.quadrant.startswith("Ps") and (p.error in FILTERED) == p.quadrant.endswith("Nr")


def test_pairs_are_read_back_and_load_with_datasets(tmp_path):
    pairs, _ = mining.strategy_pairs(TURNS, [by_turn([B] * 6)])
    mining.write(tmp_path / "strategy.jsonl", pairs, judge=None, temperature=0.7)
    assert mining.read(tmp_path / "strategy.jsonl") == pairs
    found = load_dataset("json", data_files=str(tmp_path / "strategy.jsonl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert found.num_rows == 6 and {"id", "turn", "strategy", "error", "judge", "temperature"} <= set(found.column_names)
    assert "That sounds hard." not in (tmp_path / "strategy.jsonl").read_text(), "what people said is not copied"


def test_with_text_joins_both_sides():
    pairs, _ = mining.vanilla_pairs(TURNS, [by_turn([(B, "x")] * 6)], [by_turn([("None", "None")] * 6)])
    row = mining.with_text(pairs, TURNS)[2]
    assert row == {"id": "d/0/02#0", "strategy": A, "context": [{"role": "seeker", "text": "words 2"}],
                   "chosen": f"[{A}] That sounds hard.", "rejected": f"[{B}] x"}  # fmt: skip
    strategies, _ = mining.strategy_pairs(TURNS, [by_turn([B] * 6)])
    assert mining.with_text(strategies, TURNS)[0]["chosen"] == A


@pytest.mark.parametrize(("line", "says"), [
    ("{", "line 2: not a pair"), ('{"id": "x"}', "line 2: no field 'turn'"), ("[]", "line 2: not a pair"),
])  # fmt: skip
def test_a_file_that_is_no_pairs_is_named_with_its_line(tmp_path, line, says):
    pairs, _ = mining.strategy_pairs(TURNS, [by_turn([B] * 6)])
    mining.write(tmp_path / "response.jsonl", pairs[:1])
    with open(tmp_path / "response.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(mining.PairsError, match=f"response.jsonl, {says}"):
        mining.read(tmp_path / "response.jsonl")


def test_a_row_is_one_line_of_json(tmp_path):
    pairs, _ = mining.response_pairs(TURNS[:1], [by_turn(["two\u2028parts"], TURNS[:1])], [by_turn([("None", "Lack of Empathy")], TURNS[:1])])
    mining.write(tmp_path / "response.jsonl", pairs)
    assert json.loads((tmp_path / "response.jsonl").read_text(encoding="utf-8"))["reply"] == "two\u2028parts"
    assert mining.read(tmp_path / "response.jsonl") == pairs
