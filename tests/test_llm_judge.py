"""What an LLM judge is worth: chance agrees with nobody, what can't be read is missing and counted, and the record says it again."""

import json
import random
import re
from types import SimpleNamespace

import pytest

from decoupled_esc.corpus import Message, Turn
from decoupled_esc.corpus.judgements import EXPERTS, SAMPLES, TEXTS, Rating
from decoupled_esc.evaluate import judge_worth, judges
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.evaluate.published_judges import expert_agreement
from decoupled_esc.experiments import agreement, run
from decoupled_esc.experiments.agreement import LLMJudgesWorth, MeasureLLMJudges
from decoupled_esc.experiments.labels import LabelledReplies, LLMJudges
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.run import SERVED, Book
from decoupled_esc.generate.answers import Readable, readable
from decoupled_esc.generate.client import Client, Endpoint
from decoupled_esc.generate.record import Record
from decoupled_esc.pipeline import Missing
from decoupled_esc.pipeline.store import result_type
from decoupled_esc.present import judge_tables
from tests.misbehaving_server import serving

FEW = {"replicates": 100, "seed": 1}
PROTOCOL = judges.Protocol(turns=2, gold="hidden", calls="each", context="last", repeats=1, pairs=False)
SAID = {("EPITOME", f"c{k}"): (f"seeker number {k}", f"supporter number {k}") for k in range(60)}
DIMENSIONS = ("level_emotional_reactions", "level_explorations")


def rated(value) -> list[Rating]:
    """By three experts and their median, who all agree; ``value``: (conversation, dimension) -> 0 to 2."""
    return [
        Rating(sample, id, "", dimension, rater, float(value(id, dimension)))
        for sample, id in SAID for dimension in DIMENSIONS for rater in (*EXPERTS, "experts")
    ]  # fmt: skip


def truth(id: str, dimension: str) -> int:
    return (int(id[1:]) + DIMENSIONS.index(dimension)) % 3


def asked_of(body) -> tuple[str, str]:
    """(conversation, dimension) of a question."""
    text = body["messages"][1]["content"]
    return f"c{re.search(r'number (.+)', text)[1]}", next(one for one in DIMENSIONS if judge_worth.RATED[one] in text)


def right(body) -> str:
    return json.dumps({"score": truth(*asked_of(body))})


def opened(server, path, mode="record") -> judges.LLMJudge:
    return judges.LLMJudge(Client(Endpoint(model="small", base_url=server.url), Record(path), mode), PROTOCOL)


def test_readable_answers_are_counted():
    assert readable([(True, 1), (True, 3), (False, 3)], 1) == Readable(questions=3, first=1, read=2, calls=7, replaced=1)
    assert readable([]) == Readable(0, 0, 0, 0)


def test_every_published_dimension_has_words_and_a_scale_that_the_answer_must_keep():
    assert set(TEXTS) <= judge_worth.SCALES.keys() and set(DIMENSIONS) < judge_worth.RATED.keys()
    for sample, (_, low, high) in SAMPLES.items():
        request = judge_worth.rating_request(sample, "7", ("I failed.", "Oh no.", "Yes."), "empathy")
        text = request.messages[1][1]
        assert "seeker: I failed.\nsupporter: Oh no.\nseeker: Yes." in text and f"{low}: not at all; {high}: very much" in text
        assert text.index("Yes.") < text.index("How far"), "what all dimensions share comes first"
        request.answer.model_validate({"score": high})
        with pytest.raises(ValueError):
            request.answer.model_validate({"score": high + 1})


def test_a_judge_that_sees_what_experts_see_agrees_and_one_that_answers_by_chance_does_not(tmp_path):
    kappas = {}
    chance = lambda body: json.dumps({"score": random.Random(repr(body["messages"])).randint(0, 2)})  # in whatever order it is asked
    for name, say in {"right": right, "chance": chance}.items():
        with serving(say=say) as server:
            made, missing = judge_worth.judge_ratings(opened(server, tmp_path / name), rated(truth), SAID)
        table = expert_agreement([*rated(truth), *made], {}, **FEW)
        (row,) = [row for row in table.medians if row.raters == "small–expert"]
        kappas[name] = row.kappa
        assert missing == 0 and row.items == 120 and {one.rater for one in made} == {"small"}
    assert kappas["right"].value == pytest.approx(1) and abs(kappas["chance"].value) < 0.25


def test_a_rating_that_cannot_be_read_is_missing_and_the_middle_in_a_row_of_its_own(tmp_path):
    def say(body):
        return "I would rather not." if asked_of(body)[0] in ("c0", "c1", "c2") else right(body)

    with serving(say=say) as server:
        judge = opened(server, tmp_path / "r.db")
        made, missing = judge_worth.judge_ratings(judge, rated(truth), SAID)
        counts, calls = judge.readable(), sum(server.asked.values())
    assert missing == 6 and counts == dict.fromkeys(DIMENSIONS, Readable(60, 57, 57, 57 + 3 * 3)) and calls == 2 * 66
    alone, filled = ([one for one in made if one.rater.endswith(end)] for end in ("small", judge_worth.MIDDLE))
    assert len(alone) == 114 and len(filled) == 120 and {one.value for one in filled if one.conversation == "c0"} == {1.0}
    again = judge_worth.judge_ratings(opened(server, tmp_path / "r.db", "replay"), rated(truth), SAID)
    assert again == (made, missing)


def test_labels_by_chance_agree_as_chance_would_and_as_many_of_each_are_asked_for():
    rng = random.Random(5)
    labels = [rng.choice([*LABELS, *["None"] * 6]) for _ in range(900)]
    places = judge_worth.balanced(labels, 1)
    kept = [labels[place] for place in places]
    assert places == sorted(set(places)) and {kept.count(label) for label in LABELS} == {judge_worth.PER_LABEL}
    dialogues = [f"d{k % 30}" for k in places]
    given = [None if k % 10 == 0 else rng.choice(LABELS) for k in range(len(kept))]
    by_chance = judge_worth.error_agreement(given, kept, dialogues, **FEW)
    assert by_chance.replies == 240 and by_chance.unread == 24 and sum(by_chance.given.values()) == 216
    assert by_chance.kappa.low < 0 < by_chance.kappa.high and abs(by_chance.kappa.value) < 0.12
    assert judge_worth.error_agreement(kept, kept, dialogues, **FEW).kappa.value == pytest.approx(1)
    silent = judge_worth.error_agreement([None] * 3, kept[:3], dialogues[:3], **FEW)
    assert (silent.unread, silent.equal, silent.kappa) == (3, None, None)


def test_the_step_asks_once_and_says_the_same_from_the_record(tmp_path, monkeypatch):
    def say(body):
        errs = "Say what is wrong" in body["messages"][0]["content"]
        return json.dumps({"error": LABELS[int(re.search(r"reply (\d)", body["messages"][1]["content"])[1])]}) if errs else right(body)

    turn = Turn("t", "d0", (Message("seeker", "Hello."),), "Question", "Hi.")
    replies = [Reply(f"r{k}", turn, "Question", f"reply {k % 6}") for k in range(12)]
    labels = LabelledReplies(replies, [LABELS[k % 6] for k in range(12)], ["llama-sft"] * 6 + ["failed"] * 6, [True] * 12)
    monkeypatch.setattr(agreement, "read_conversations", lambda paths: SAID)
    monkeypatch.setattr(agreement, "read_empathic", lambda path: SimpleNamespace(rows=(*rated(truth), Rating("EPITOME", "c0", "", DIMENSIONS[0], "crowd", 1.0))))
    files, work = SimpleNamespace(paths=lambda: ("x",)), SimpleNamespace(shared=tmp_path, tokens=None)

    def measured(server, mode):
        judge = LLMJudges(("small",), PROTOCOL, endpoints=(Endpoint(model="small", base_url=server.url),), mode=mode)
        return MeasureLLMJudges(judge, files, SimpleNamespace(read=lambda: labels), "x", **FEW).run(work)

    with serving(say=say) as server:
        found = measured(server, "record")
        asked = sum(server.asked.values())
        assert asked == 120 + 6 and measured(server, "record") == found and sum(server.asked.values()) == asked
    worth = found.judges["small"]
    assert measured(server, "replay") == found and work.tokens > 0 and found.conversations == 60
    assert worth.errors.replies == 6 and worth.errors.equal == 100, "of the models' replies alone"
    assert worth.answers["error"] == Readable(6, 6, 6, 6) and [row.raters for row in worth.ratings.medians] == ["expert–expert", "small–expert"]
    kind = result_type(MeasureLLMJudges)
    assert kind.validate_json(kind.dump_json(found)) == found
    table = judge_tables.llm_judges(found)
    assert table.loc["small–expert", "ratings"] == "120" and table.loc["small, errors", "equal to GPT's, %"] == "100"
    shown = judge_tables.readable_answers(worth.answers)
    assert shown.loc["error", "read at the first try, %"] == "100.0" and shown.loc[DIMENSIONS[0], "calls"] == "60"
    none = MeasureLLMJudges(None, files, None, "x", **FEW).run(work)
    assert none == Missing("profile x has no LLM judge") == judge_tables.llm_judges(none) == judge_tables.readable_answers(none)
    assert isinstance(judge_tables.readable_answers({}), Missing)


def test_the_chapters_read_what_is_published_of_it_and_say_what_is_missing(tmp_path):
    def book(name="laptop") -> Book:
        return Book(name, runs=tmp_path / "runs", published=tmp_path / "results")

    missing = book().served("llm-judges")
    assert isinstance(missing, Missing) and SERVED in missing.reason and book().served_stored("search") is None
    served, found = book(SERVED), LLMJudgesWorth(0, {})
    served.published.write(served.published_steps["llm-judges"], found, {"name": "llm-judges"})
    assert book().served("llm-judges") == found == book(SERVED).served("llm-judges")
    assert book().served_stored("llm-judges").provenance == {"name": "llm-judges"}
    assert isinstance(book().served("search"), Missing) and book(SERVED).served_book is None
    assert load_profile(SERVED).judge and run.BACKBONES == ("laptop", "smollm2-135m"), "it is no backbone of its own"
