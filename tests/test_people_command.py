"""From stored replies to forms, and from filled forms to a report: what ``decoupled-esc people`` calls."""

import csv
from types import SimpleNamespace

import pytest

from decoupled_esc import corpus
from decoupled_esc.evaluate.people import PeopleError
from decoupled_esc.workflow import people
from decoupled_esc.workflow.cli import main

PAIR = ("decoupled-sft", "vanilla-sft")


@pytest.fixture
def session(monkeypatch, tmp_path):
    """The miniature with every dialogue in the test split; the vanilla model shouts."""
    monkeypatch.delenv("DECOUPLED_ESC_DATA", raising=False)
    monkeypatch.setenv("DECOUPLED_ESC_CACHE", str(tmp_path))
    dialogues = corpus.load("esconv", download=False).dialogues
    turns = [turn for dialogue in dialogues for turn in corpus.turns(dialogue)]
    replies = {
        "decoupled-sft": [{"id": turn.id, "reply": turn.reply} for turn in turns],
        "vanilla-sft": [{"id": turn.id, "reply": f"{turn.reply.upper()} SO THERE, MY FRIEND"} for turn in turns],
        "vanilla-base": [{"id": turn.id, "reply": turn.reply} for turn in turns],
    }
    return SimpleNamespace(
        profile=SimpleNamespace(name="laptop", seed=3),
        corpora={"esconv": SimpleNamespace(name="esconv", split=lambda name: dialogues)},
        result=lambda name: SimpleNamespace(rows_left_out=False, rows=tuple(replies[name.removeprefix("replies-")])),
    )


def fill(folder, choose):
    """Answer every sheet as ``choose(reply 1, reply 2)`` says."""
    for sheet in (folder / "forms").glob("*.csv"):
        with open(sheet, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            answer = choose(row["reply 1"], row["reply 2"])
            row.update(dict.fromkeys(("fluency", "professionalism", "empathy", "helpfulness"), answer))
        with open(folder / "answers" / sheet.name, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


def quiet(one, two):
    return "tie" if one == two else "2" if one.isupper() else "1"


def test_raters_who_dislike_shouting_are_reported_to_prefer_the_quiet_system(session, tmp_path, capsys):
    folder = tmp_path / "study"
    people.export(session, folder, PAIR, samples=8, raters=3, scores=False)
    fill(folder, quiet)
    said = people.report(folder, exclude=[], replicates=100, seed=0).splitlines()
    assert said[3] == "decoupled-sft against vanilla-sft: 8 items of 8 dialogues, 3 raters"
    assert said[4].startswith("fluency: win 100 [100, 100]%, tie 0 [0, 0]%, lose 0")
    assert main(["people", "report", str(folder), "--exclude", "rater-2"]) == 0
    assert "rater-2: 10 of 10 items, left out" in capsys.readouterr().out
    assert '"excluded": ["rater-2"]' in (folder / "outcome.json").read_text()


def test_no_turn_is_asked_about_after_silence_or_where_nobody_differs(session, tmp_path):
    with pytest.raises(PeopleError, match="0 dialogues have a turn to judge"):
        people.export(session, tmp_path / "study", ("decoupled-sft", "vanilla-base"), samples=2, raters=1, scores=False)
    people.export(session, tmp_path / "study", PAIR, samples=8, raters=1, scores=False)
    with open(tmp_path / "study" / "forms" / "rater-1.csv", encoding="utf-8-sig", newline="") as file:
        assert all(row["context"].rpartition("Seeker:")[2].strip() for row in csv.DictReader(file))


def test_replies_to_the_real_data_need_the_real_data(session, tmp_path):
    session.corpora["esconv"].name = "miniature"
    session.result = lambda name: SimpleNamespace(rows_left_out=False, rows=({"id": "esconv/0000/01", "reply": "so"},))
    with pytest.raises(PeopleError, match="the real ESConv, which is not here; get it with: decoupled-esc data fetch"):
        people.export(session, tmp_path / "study", PAIR, samples=2, raters=1, scores=False)


def test_replies_published_as_numbers_come_from_this_machines_run(session, tmp_path):
    replies, published = session.result, SimpleNamespace(rows_left_out=True, rows=())
    session.result, session.runs, word = lambda name: published, SimpleNamespace(read=replies), "missing"
    session.state = lambda name, store: SimpleNamespace(word=word)
    with pytest.raises(PeopleError, match="decoupled-sft are not among .*: decoupled-esc run --profile laptop replies-decoupled-sft"):
        people.export(session, tmp_path / "study", PAIR, samples=2, raters=1, scores=False)
    word = "fresh"
    assert people.export(session, tmp_path / "study", PAIR, samples=2, raters=1, scores=False)


def test_single_replies_are_scored(session, tmp_path):
    folder = tmp_path / "study"
    people.export(session, folder, PAIR, samples=4, raters=2, scores=True)
    text = (folder / "forms" / "rater-1.csv").read_text(encoding="utf-8-sig")
    assert "reply 2" not in text and "vanilla" not in text


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["export", "x", "--systems", "vanila-sft"], "no system 'vanila-sft' (did you mean 'vanilla-sft'?)"),
        (["report", "nowhere"], "key.json"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["people", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
