"""Published systems: readers on small invented files of the same form, what is scored against what, a reader's own file."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

from decoupled_esc import cli
from decoupled_esc.corpus import CorpusError, Message, Turn, fetch, load, published_replies, turns
from decoupled_esc.corpus.published_replies import PublishedReply, read
from decoupled_esc.evaluate import Estimate, EvaluatedTurn, decoding
from decoupled_esc.evaluate.judged import Means, Reply
from decoupled_esc.experiments import judged_scoreboard as by_judges
from decoupled_esc.experiments import scoreboard as board
from decoupled_esc.experiments.run import Book
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import scoreboard as tables
from decoupled_esc.taxonomy import STRATEGIES

FEW = {"replicates": 50, "seed": 1}


def turn(number: int, reply: str, last: str = "I am sad", strategy: str = "Question", dialogue: str = "esconv/0001") -> Turn:
    return Turn(f"{dialogue}/{number:02}", dialogue, (Message("seeker", last),), strategy, reply)


ASKED = [
    turn(1, "What happened?"),
    turn(3, "I see.", last="My dog died"),
    turn(5, "I see.", last="I can't sleep", strategy="Others"),
    turn(1, "I sympathize with you, truly I do.", dialogue="esconv/0002", strategy="Self-disclosure"),
]


def kang(folder, **changes):
    rows = [
        {"context": "seeker\n- Utterance: I am sad", "strg_gold": "Question", "res_gold": "What happened? ",
         "strg_pred": "Reflection of Feelings", "res_pred": "That hurts."},
        {"context": "seeker\n- Utterance: well\nseeker\n- Utterance: I can't sleep ", "strg_gold": "Others", "res_gold": "I see.",
         "strg_pred": "Question", "res_pred": "Since when?"},
    ]  # fmt: skip
    rows[1] |= changes
    path = folder / "results.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return [path]


def cauesc(folder, **changes):
    likely = " ".join(["0.0", "0.9", *["0.0"] * 5, "0.1"])
    row = {"post": "i am sad", "response": "i thize with you, truly i do.", "generation": "me too.", "cls_strategy_id": 3,
           "pred_strategy_id": 1, "pred_strategy_id_dist": likely}  # fmt: skip
    path = folder / "gen.json"
    path.write_text(json.dumps([row | changes]), encoding="utf-8")
    return [path]


def transesc(folder, logits: str = "0\t1\t2\t3\t4\t9\t6\t7", said: str = "[Self-disclosure]", contexts: str = "hello\tmy dog died\tme too."):
    paths = []
    for name in ("generated", "mitigation"):
        (folder / name).mkdir()
        record = [{"ref strategy": "[Question]", "hyp strategy": said}]
        files = {
            "hyp_strategy.json": json.dumps(["me too."]), "ref_strategy.json": json.dumps(["i see."]), "strategy_logits.txt": logits,
            "strategy_record.json": json.dumps(record), "summary.txt": contexts,
        }  # fmt: skip
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
            paths.append(folder / name / file)
    return paths


def test_a_row_is_matched_by_its_reference_and_the_last_message(tmp_path):
    first, second = read("kang2024_replies", kang(tmp_path), ASKED)["Kang et al. 2024"]
    assert (first.turn.id, first.unique, first.strategy, first.reply) == ("esconv/0001/01", True, "Reflection of feelings", "That hurts.")
    assert second.turn.id == "esconv/0001/05"  # not 03, which has the same words after another message


def test_slips_in_a_reference_are_forgiven_and_ids_follow_the_order_of_the_taxonomy(tmp_path):
    (row,) = read("cauesc_replies", cauesc(tmp_path), ASKED)["CauESC"]
    assert row.turn.id == "esconv/0002/01" and row.gold_reply == "i thize with you, truly i do."
    assert (row.gold_strategy, row.strategy) == ("Self-disclosure", "Restatement or Paraphrasing")
    assert row.scores[1] == math.log(0.9) and row.scores[0] == -math.inf


def test_logits_are_put_in_the_order_of_the_taxonomy(tmp_path):
    found = read("transesc_replies", transesc(tmp_path), ASKED)
    assert list(found) == ["TransESC", "TransESC + Muffin"]
    (row,) = found["TransESC"]
    assert row.turn.id == "esconv/0001/03" and row.scores == (0, 3, 1, 9, 6, 7, 2, 4)
    assert STRATEGIES[row.scores.index(max(row.scores))] == row.strategy == "Self-disclosure"


@pytest.mark.parametrize(("written", "change", "says"), [
    (kang, {"res_gold": "Nobody said this in any dialogue."}, r"results\.json, field row 1: no turn of ESConv has the words"),
    (kang, {"strg_pred": "Hug"}, r"row 1: 'Hug' is none of the eight"),
    (kang, {"res_pred": None}, r"row 1, res_pred: missing or not text"),
    (cauesc, {"pred_strategy_id": 8}, "gen.json, field row 0: expected strategy ids 0 to 7"),
    (cauesc, {"pred_strategy_id": 7}, "row 0: Others has not the highest score"),
    (cauesc, {"pred_strategy_id_dist": "a b c d e f g h"}, "row 0: expected eight numbers"),
    (transesc, {"said": "[Question]"}, "Question has not the highest score"),
    (transesc, {"contexts": "a\nb"}, "the files of one system differ in length"),
])  # fmt: skip
def test_rows_that_are_not_as_published_are_named(tmp_path, written, change, says):
    name = next(name for name in published_replies.READERS if name.startswith(written.__name__))
    with pytest.raises(CorpusError, match=f"{says}.*fetch {name}"):
        read(name, written(tmp_path, **change), ASKED)


def rows_of(*replies: str) -> list[PublishedReply]:
    return [PublishedReply(n, t, True, t.strategy, t.reply, "Question", text) for n, (t, text) in enumerate(zip(ASKED, replies))]


def test_a_turn_that_was_asked_twice_counts_once_against_esconv():
    first, again = rows_of("one", "two")
    twice = [first, again, PublishedReply(2, first.turn, True, "Question", "x", "Others", "three")]
    assert {row.id: row.reply for row in board._of_esconv(twice)} == {"esconv/0001/01": "one", "esconv/0001/03": "two"}
    assert len(board._as_scored(twice)) == 3


def test_systems_are_compared_on_the_turns_that_both_answered():
    def of(*numbers):
        return [board._turn(ASKED[n], "Question", "a reply") for n in numbers]

    common = board._on_common({"a": of(0, 1, 3), "b": of(3, 0)})
    assert {name: {row.id for row in rows} for name, rows in common.items()} == dict.fromkeys("ab", {ASKED[0].id, ASKED[3].id})


def system_file(folder, rows) -> board.Path:
    path = folder / "mine.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def row(number: int, **changes) -> dict:
    return {"id": ASKED[number].id, "strategy": None, "reply": "Tell me more."} | changes


ALL = [row(n) for n in range(4)]


def test_a_system_equal_to_another_stands_beside_it_without_any_difference(tmp_path):
    path = system_file(tmp_path, [*ALL[:3], row(3, strategy="Others")])
    other = [EvaluatedTurn(**vars(turn)) for turn in board.read_file(path, ASKED)]
    found = board.score_file(path, ASKED, {"same": other}, **FEW)
    gaps = found.contrasts["mine.jsonl - same"]["paper"].values()
    assert all((gap.value, gap.low, gap.high) == (0, 0, 0) for gap in gaps)
    said = tables.standing(found, "mine.jsonl")
    assert said.startswith("mine.jsonl: 4 turns, 75.0% without a valid strategy") and "mine.jsonl minus each" in said


@pytest.mark.parametrize(("rows", "says"), [
    ([*ALL, row(0)], "mine.jsonl, field line 5, id: is there twice"),
    ([row(0, id="esconv/9999/01")], "line 1, id: 'esconv/9999/01' is no test turn"),
    (ALL[1:], "id: 1 of 4 test turns have no line, the first esconv/0001/01"),
    ([row(0, strategy="Hug")], 'line 1, strategy: "Hug" is neither null nor one of'),
    ([row(0, reply=3)], "line 1, reply: missing or not text"),
    (["{"], "line 1: not valid JSON"),
    (["[]"], "line 1, id: missing or not text"),
])  # fmt: skip
def test_a_file_of_another_form_is_named_with_the_line_and_the_remedy(tmp_path, rows, says):
    with pytest.raises(CorpusError, match=f"{says}.*one JSON object per line"):
        board.read_file(system_file(tmp_path, rows), ASKED)


def test_the_turns_to_answer_are_printed_with_their_context_and_without_their_reply(capsys):
    assert cli.main(["score", "--turns", "--profile", "smoke"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = {turn.id: turn for turn in Book("smoke").steps["scoreboard"].turns.read()}
    assert [set(line) for line in printed] == [{"id", "context"}] * len(asked)
    for line in printed:
        context = asked[line["id"]].context
        assert [message["text"] for message in line["context"]] == [message.text for message in context]


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert cli.main(["score", str(tmp_path / "none.jsonl"), "--profile", "smoke"]) == 1
    assert "none.jsonl" in capsys.readouterr().err


def test_orders_that_differ_and_intervals_that_overlap_are_counted():
    def system(paper, standard, half):
        return {
            variant: {"F1": Estimate(value, value - half, value + half), "D-1": Estimate(0), "D-2": Estimate(0)}
            for variant, value in {"paper": paper, "standard": standard}.items()
        }

    class Scores:
        systems = {"a": system(10, 20, 1), "b": system(20, 10, 1), "c": system(10.5, 20.5, 1), board.HUMAN: system(99, 99, 0)}

    class Board:
        scores = {"set": Scores}

    assert tables.swapped(Board, "F1") == (3, 2, 1)  # a and c can't be told apart


REAL = bool(os.environ.get(fetch.FOLDER)) and all(fetch.here(name) for name in published_replies.READERS)


@pytest.mark.skipif(not REAL, reason="the published replies are not on this machine")
def test_the_published_files_are_those_whose_printed_numbers_they_give():
    every = [turn for dialogue in load("esconv").dialogues for turn in turns(dialogue)]
    found = {name: read(name, fetch.here(name).paths, every) for name in published_replies.READERS}
    rows = {system: rows for systems in found.values() for system, rows in systems.items()}
    assert {system: len(own) for system, own in rows.items()} == {
        "Kang et al. 2024": 1611, "CauESC": 1728, "TransESC": 1763, "TransESC + Muffin": 1763,
    }  # fmt: skip
    assert round(board._accuracy(board._as_scored(rows["CauESC"])) / 100, 4) == 0.3333  # printed: 0.3333
    assert all(row.turn.strategy == row.gold_strategy for row in rows["CauESC"])  # ids and turns are the right ones
    assert sum(row.turn.strategy == row.gold_strategy for row in rows["TransESC"]) >= 1752
    scores, gold, _ = board.scored_rows(rows["CauESC"])
    assert abs(decoding.calibration(scores, gold).accuracy - 100 / 3) < 1e-9


def said(system: str, *places: int) -> list[Reply]:
    return [Reply(f"{system}/{place}", ASKED[place], "Question", f"{system} {place}") for place in places]


def test_offline_judges_compare_systems_at_the_turns_that_all_answered_and_with_people():
    both = by_judges._comparable({"ours": said("ours", 3, 0, 1), "theirs": said("theirs", 0, 3)})
    assert [[reply.turn.id for reply in written] for written in both.values()] == [[ASKED[0].id, ASKED[3].id]] * 3
    assert [reply.text for reply in both[board.HUMAN]] == [ASKED[0].reply, ASKED[3].reply]
    twice = by_judges._comparable({"alone": said("alone", 1, 1, 0)})
    assert [reply.turn.id for reply in twice["alone"]] == [ASKED[1].id, ASKED[1].id, ASKED[0].id]
    assert len(twice[board.HUMAN]) == 3


def test_the_table_of_offline_judges_has_a_row_per_system_and_no_difference_of_people_from_themselves():
    values = {"ours": [[2.0, 20.0, 9.0], [3.0, 40.0, 11.0]], board.HUMAN: [[1.0, 10.0, 9.0], [3.0, 40.0, 15.0]]}
    arrays = {name: np.array(rows) for name, rows in values.items()}
    table = Means(["a", "b"], **FEW).table(arrays, by_judges.COLUMNS, [("ours", board.HUMAN)])
    board_of = by_judges.JudgedScoreboard({"set": table}, "labels", {}, 4)
    shown = tables.judged(board_of)
    assert shown.loc["ours", "minus human: words"].startswith("-2.0") and shown.loc["ours", "empathy, 0 to 6"].startswith("2.50")
    assert shown.loc[board.HUMAN, "minus human: words"] == "–"
    assert tables.judged(Missing("no data")) == Missing("no data") and tables.judged_gaps(Missing("no data")) == []
    (gap,) = tables.judged_gaps(board_of)
    assert gap.value == pytest.approx(5)


def test_without_the_real_corpus_scoring_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("decoupled_esc.experiments.inputs.Turns.read", lambda _: [])  # none of the turns that were answered
    assert cli.main(["score", "own.jsonl", "--profile", "laptop"]) != 0
    assert "scoring needs the real esconv" in capsys.readouterr().err.splitlines()[-1]
