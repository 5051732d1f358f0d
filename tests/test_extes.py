"""CSO's data sets in their published forms, on small files that are written here."""

import json

import pytest

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import CorpusError
from decoupled_esc.corpus.extes import read_esc_pro, read_extes, strategies_by_stage
from decoupled_esc.present.paper import load_tables

EXTES = [
    {"scene": "work", "description": "Too much to do.", "content": [
        {"User": "I can't  go on."}, {"AI Strategy": "Offer Hope", "AI": "It can get better."},
        {"User": "How?"}, {"AI": "Shall we make a plan?", "AI Strategy": "suggest options"}]},
    {"scene": "love", "description": "", "content": [{"User": "Hi."}, {"AI": "Ha!", "AI Strategy": "Joking"}]},
]  # fmt: skip
PRO = [
    {"description": "d", "scene": "s", "iter": 3, "messages": [
        {"role": "user", "content": "I failed."},
        {"role": "assistant", "content": "That hurts.", "strategy": "Empathetic Statements",
         "negative": [{"strategy": "Share Information", "content": "Many fail."}, {"strategy": "Affirmation", "content": "You are great."}]},
        {"role": "user", "content": "Yes."},
        {"role": "assistant", "content": "What next?", "strategy": "Collaborative Planning", "negative": []}]},
]  # fmt: skip


def written(tmp_path, data, name="file.json"):
    path = tmp_path / name
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_the_map_is_the_papers_table_8():
    table = load_tables()["cso/table-8"]
    assert {row.key: row.values["cso"] for row in table.rows} == taxonomy.EXTES_TO_CSO
    assert {s.name for s in taxonomy.CSO} == set(taxonomy.EXTES_TO_CSO.values()) and len(taxonomy.CSO) == 8


def test_extes_becomes_dialogues_with_merged_strategies(tmp_path):
    dialogues, flaws = read_extes(written(tmp_path, EXTES))
    assert [d.id for d in dialogues] == ["extes/0000"] and dialogues[0].situation == "Too much to do."
    turns = corpus.turns(dialogues[0])
    assert [(turn.strategy, turn.reply) for turn in turns] == [
        ("Affirmation", "It can get better."), ("Collaborative Planning", "Shall we make a plan?")]  # fmt: skip
    assert turns[0].context[0].text == "I can't go on."
    assert [(flaw.dialogue, flaw.what) for flaw in flaws] == [("extes/0001", "unknown strategy 'Joking'")]


def test_esc_pro_keeps_what_was_rejected_for_each_turn(tmp_path):
    (first,) = read_esc_pro(written(tmp_path, PRO))
    assert [len(one.rejected) for one in first] == [2, 0]
    assert first[0].rejected[0] == ("Share Information", "Many fail.")
    assert [m.text for m in first[1].turn.context] == ["I failed.", "That hurts.", "Yes."]
    counts = strategies_by_stage([first])
    assert sum(map(sum, counts)) == 2 and counts[0][3] == 1 and counts[5][2] == 1


@pytest.mark.parametrize(
    ("reader", "change", "words"),
    [
        (read_extes, lambda d: d[0].pop("content"), ["extes/0000, content", "expected a list"]),
        (read_extes, lambda d: d[0]["content"].__setitem__(0, "hello"), ["extes/0000, content 0"]),
        (read_extes, lambda d: d[0]["content"][1].pop("AI"), ["extes/0000, ai"]),
        (read_esc_pro, lambda d: d[0]["messages"][1].update(strategy="Joking"), ["esc-pro/0000, strategy", "'Joking'"]),
        (read_esc_pro, lambda d: d[0]["messages"][1]["negative"][0].pop("content"), ["esc-pro/0000, content"]),
        (read_esc_pro, lambda d: d[0]["messages"][0].update(role="system"), ["messages 0"]),
    ],
)
def test_another_form_is_an_error_that_names_the_place(tmp_path, reader, change, words):
    data = json.loads(json.dumps(EXTES if reader is read_extes else PRO))
    change(data)
    with pytest.raises(CorpusError) as error:
        reader(written(tmp_path, data))
    assert all(word in str(error.value) for word in ["file.json", *words])


@pytest.mark.parametrize("reader", [read_extes, read_esc_pro])
def test_a_file_that_is_no_list_of_dialogues(tmp_path, reader):
    path = tmp_path / "x.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(CorpusError, match="x.json"):
        reader(path)
    with pytest.raises(CorpusError, match="list of dialogues"):
        reader(written(tmp_path, {"a": 1}))
