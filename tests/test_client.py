"""Asking a server that misbehaves: nothing lost, nothing paid twice, nothing beyond the budget."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from decoupled_esc.generate import client as asking
from decoupled_esc.generate.answers import read
from decoupled_esc.generate.client import BudgetExceeded, Client, Endpoint, EndpointError, ReplayMiss, Request
from decoupled_esc.generate.record import Record, RecordError, Stored
from tests.misbehaving_server import OF_THE_WAY, serving

ROOT = Path(__file__).parents[1]
NOBODY = "http://127.0.0.1:9/v1"


class Score(BaseModel):
    score: int = Field(ge=0, le=5)


class Word(BaseModel):
    word: str


class Two(BaseModel):
    score: int
    why: str


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def short_pauses(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)


def requests(n, **changes):
    settings = {"answer": Score, "max_new_tokens": 10} | changes
    return [Request(f"turn/{i:04d}", (("system", "Judge."), ("user", f"reply {i}")), **settings) for i in range(n)]


def open_client(server, path, mode="record", **changes):
    url = server if isinstance(server, str) else server.url
    settings = {"model": "judge", "base_url": url, "timeout_seconds": 20.0, "attempts": 12} | changes
    return Client(Endpoint(**settings), Record(path), mode)


def numbered(body):
    """The score is the reply's number modulo 6, so that a mix-up shows."""
    return json.dumps({"score": int(body["messages"][-1]["content"].split()[-1]) % 6})


def replying(message, choice=None, **more):
    whole = {"model": "judge", "choices": [{"message": message, "finish_reason": "stop"} | (choice or {})]} | more
    return lambda _: (200, whole)


def error(status, message, code=None, **headers):
    return status, {"error": {"message": message, "code": code}}, headers


# Answers ------------------------------------------------------------------------------------------------------------


def test_answers_come_back_in_order_and_are_kept(tmp_path):
    with serving(say=numbered, latency=0.02) as server:
        answers = open_client(server, tmp_path / "r.db").ask(requests(80))
        assert [a.parsed.score for a in answers] == [i % 6 for i in range(80)] and answers[7].id == "turn/0007"
        assert answers[0].model == "judge-resolved" and answers[0].tokens_out == 8
        assert 1 < server.most_open <= 32
        again = open_client(server, tmp_path / "r.db").ask(requests(80))
        assert again == answers and sum(server.asked.values()) == 80
    # The server is gone now.
    assert open_client(server, tmp_path / "r.db", "replay").ask(requests(80)) == answers


def test_under_faults_nothing_is_lost_and_nothing_paid_twice(tmp_path, short_pauses):
    shares = dict.fromkeys(OF_THE_WAY, 0.04) | {"twice": 0.04}
    with serving(say=numbered, latency=0.01, faults=shares, seed=5, hang=4) as server:
        answers = open_client(server, tmp_path / "r.db", timeout_seconds=2.0).ask(requests(150))
        assert [a.parsed.score for a in answers] == [i % 6 for i in range(150)]
        assert set(server.billed.values()) == {1} and len(server.billed) == 150
        assert all(server.met[fault] for fault in shares), "each fault was met"


@pytest.mark.parametrize("fault", ["truncated content", "wrong schema"])
def test_unreadable_answers_are_asked_again_and_then_missing_alone(tmp_path, fault):
    with serving(say=numbered, faults={fault: 0.3}, seed=1) as server:
        answers = open_client(server, tmp_path / "r.db").ask(requests(60))
        missing = [a for a in answers if a.parsed is None]
        assert all(a.parsed.score == i % 6 for i, a in enumerate(answers) if a.parsed) and len(missing) < 10
        assert set(server.billed.values()) == {1}, "a second try has a name of its own"
        assert sum(server.asked.values()) > 60
    with serving(faults={fault: 1.0}) as server:
        for _ in range(2):  # what can't be read isn't paid for again
            (answer,) = open_client(server, tmp_path / "s.db").ask(requests(1))
            assert answer.parsed is None and "no answer in the form asked for" in answer.why
            assert sum(server.asked.values()) == asking.MAX_PARSE_ATTEMPTS == len(Record(tmp_path / "s.db"))


def test_several_servers_of_one_model_take_turns_and_stand_in_for_one_that_is_gone(tmp_path, short_pauses):
    with serving(say=numbered, latency=0.01) as one, serving(say=numbered, latency=0.01) as other:
        answers = open_client(one, tmp_path / "r.db", base_url=(one.url, other.url)).ask(requests(40))
        assert [a.parsed.score for a in answers] == [i % 6 for i in range(40)]
        assert (sum(one.asked.values()), sum(other.asked.values())) == (20, 20)
        again = open_client(one, tmp_path / "s.db", base_url=(one.url, NOBODY, other.url)).ask(requests(40))
        assert again == answers, "which server answered is no part of an answer"


def test_equal_requests_are_sent_once_and_samples_apart(tmp_path):
    with serving(say=numbered, latency=0.05) as server:
        open_client(server, tmp_path / "r.db").ask(requests(1) * 10 + requests(1, sample=1))
        assert sum(server.asked.values()) == 2


@pytest.mark.parametrize("forms", [["json_schema", "json_object"], ["json_schema", "json_object", "none"]])
def test_a_server_without_schemas_is_asked_for_less(tmp_path, forms):
    with serving(accepts=forms[-1:]) as server:
        open_client(server, tmp_path / "r.db", max_concurrency=1, attempts=1).ask(requests(3))  # no fault of the way
        asked = [body.get("response_format", {"type": "none"})["type"] for body in server.bodies]
        assert asked == forms + forms[-1:] * 2
        assert len(set(server.asked)) == len(forms) + 2, "each form goes by a name of its own"
        open_client(server, tmp_path / "r.db", "replay").ask(requests(3))


def test_descriptions_are_as_strict_mode_wants_them_and_paid_for_too(tmp_path):
    class Verdict(BaseModel):
        inner: Two
        note: str | None = Field(None, description="word " * 400)

    content = {"content": '{"inner": {"score": 1, "why": ""}, "note": null}'}
    with serving(reply=replying(content, usage={"prompt_tokens": 600, "completion_tokens": 5})) as server:
        with pytest.raises(BudgetExceeded):
            open_client(server, tmp_path / "r.db", max_tokens=6000).ask(requests(20, answer=Verdict))
        assert 0 < 605 * len(server.bodies) <= 6000
        schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["additionalProperties"] is schema["$defs"]["Two"]["additionalProperties"] is False
    assert schema["required"] == ["inner", "note"]


@pytest.mark.parametrize(
    "message, why",
    [
        ({"refusal": "no"}, "refused: no"), ({}, "no answer in the form asked for"),
        ({"content": [{"type": "text", "text": "4"}]}, "no answer in the form asked for"),
    ],
)  # fmt: skip
def test_an_odd_message_is_an_answer_and_not_paid_for_eight_times(tmp_path, message, why):
    with serving(reply=replying(message)) as server:
        (answer,) = open_client(server, tmp_path / "r.db").ask(requests(1))
        assert (answer.parsed, answer.why) == (None, why) and len(server.bodies) == asking.MAX_PARSE_ATTEMPTS


def test_an_answer_with_odd_surroundings_is_delivered_and_kept(tmp_path):
    usage = {"prompt_tokens": 10**30, "completion_tokens": 3}
    reply = replying({"content": '{"score": 4} \ud83d'}, {"finish_reason": ["stop"]}, usage=usage, model={})
    with serving(reply=reply) as server:
        for _ in range(2):
            (answer,) = open_client(server, tmp_path / "r.db").ask(requests(1))
            assert (answer.parsed, answer.text) == (Score(score=4), '{"score": 4} ?')
            assert answer.tokens_out == 3 and 0 < answer.tokens_in < 2000
        assert len(server.bodies) == 1


def test_it_works_inside_a_notebooks_loop(tmp_path):
    async def cell():
        return client.ask(requests(2))

    with serving(say=numbered) as server:
        client = open_client(server, tmp_path / "r.db")
        assert [a.parsed.score for a in asyncio.run(cell())] == [0, 1]


# Faults -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply, said",
    [
        (error(401, "Incorrect API key"), "status 401: Incorrect API key"),
        (error(400, "temperature must be 1"), "status 400: temperature must be 1"),
        (error(429, "pay first", "insufficient_quota"), "pay first (insufficient_quota)"),
        (error(429, "tomorrow", **{"Retry-After": "9000"}), "tomorrow, and to wait 9,000 s"),
    ],
)
def test_what_asking_again_won_t_change_stops_at_once(tmp_path, monkeypatch, reply, said):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    answered = iter([None, None])
    with serving(reply=lambda _: next(answered, reply)) as server:
        with pytest.raises(EndpointError) as caught:
            open_client(server, tmp_path / "r.db", max_concurrency=2).ask(requests(50))
        assert said in str(caught.value) and "are left to ask" in str(caught.value)
        assert sum(server.asked.values()) <= 6 and len(Record(tmp_path / "r.db")) == 2
        assert server.headers[0]["authorization"] == "Bearer sk-secret-0123456789"


@pytest.mark.parametrize("status", [401, 429])
@pytest.mark.parametrize("echo", ["sk-secret-0123456789", "sk-secret-01...", "(23456789)"])
def test_a_key_or_a_part_of_it_that_the_server_repeats_is_hidden(tmp_path, monkeypatch, short_pauses, status, echo):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789\r")  # as a file from Windows leaves it
    answered = iter([(200, replying({"content": '{"score": 1} sk-secret-0123456789'})(None)[1])])
    with serving(reply=lambda _: next(answered, error(status, f"what is {echo}?"))) as server:
        with pytest.raises(EndpointError, match=r"what is \(?\*\*\*") as caught:
            address = server.url.replace("//", "//me:password@")
            client = open_client(server, tmp_path / "r.db", base_url=address, attempts=2, max_concurrency=1)
            client.ask(requests(2))
    assert not any(part in str(caught.value) for part in ("password", "secret", "456789"))
    assert len(client.record) == 1, "an answer that repeats the key is kept without it"
    assert b"sk-secret" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_key_that_can_t_be_one_is_named_and_not_shown(tmp_path, monkeypatch):
    with pytest.raises(EndpointError, match="set OPENAI_API_KEY to your key"):
        Client(Endpoint(model="judge"), Record(tmp_path / "r.db")).ask(requests(1))
    monkeypatch.setenv("OTHER_KEY", "sk-Schlüssel")
    with pytest.raises(EndpointError, match="judge: OTHER_KEY holds what no key can hold"):
        open_client(NOBODY, tmp_path / "r.db", api_key_env="OTHER_KEY").ask(requests(1))


def test_a_refused_request_is_missing_and_not_asked_again(tmp_path):
    with serving(reply=lambda _: error(400, "flagged", "content_filter")) as server:
        for _ in range(2):
            (answer,) = open_client(server, tmp_path / "r.db").ask(requests(1))
            assert answer.parsed is None and "flagged" in answer.why
        assert sum(server.asked.values()) == 1


def test_requests_that_fail_for_good_don_t_stop_the_others(tmp_path, short_pauses):
    bad = ["reply 3"]
    with serving(reply=lambda body: error(500, "no") if body["messages"][-1]["content"] in bad else None) as server:
        said = "1 of 20 requests were not answered, the first because status 500: no; run again"
        with pytest.raises(EndpointError, match=said):
            open_client(server, tmp_path / "r.db", attempts=3).ask(requests(20))
        assert len(Record(tmp_path / "r.db")) == 19
        bad.clear()
        open_client(server, tmp_path / "r.db").ask(requests(20))
        assert sum(server.asked.values()) == 19 + 3 + 1


def test_a_server_that_asks_for_patience_gets_it_and_a_fatal_error_does_not_wait_for_it(tmp_path):
    turns = iter([error(429, "slow", **{"Retry-After": "0.4"})])
    with serving(reply=lambda _: next(turns, None)) as server:
        open_client(server, tmp_path / "r.db").ask(requests(1))
        assert server.times[1] - server.times[0] >= 0.4
    turns = iter([error(429, "slow", **{"Retry-After": "30"})] * 3)
    with serving(reply=lambda _: next(turns, error(401, "no"))) as server:
        started = time.monotonic()
        with pytest.raises(EndpointError, match=r"status 401: no \(5 of 5 requests are left to ask\)"):
            open_client(server, tmp_path / "s.db", max_concurrency=4).ask(requests(5))
        assert time.monotonic() - started < 10


def test_a_pause_may_be_asked_for_as_a_date():
    now = time.time()
    assert 2 < asking._wanted_pause(formatdate(now + 4, usegmt=True)) <= 4
    odd = ("", "soon", "-3", "nan", "2.5", formatdate(now - 60))
    assert [asking._wanted_pause(header) for header in odd] == [0, 0, 0, 0, 2.5, 0]


def test_replay_never_asks_and_names_what_is_missing(tmp_path):
    client = open_client(NOBODY, tmp_path / "r.db", "replay")
    with pytest.raises(ReplayMiss, match="2 of 2 answers are not in .*turn/0000 first; use mode record"):
        client.ask(requests(2))
    client.record.put(requests(1)[0].body("judge"), 0, 0, said("hm"))  # a run was stopped between two readings
    with pytest.raises(ReplayMiss, match="turn/0000: its answer is not in"):
        client.ask(requests(1))


def test_a_record_that_can_t_be_written_stops_the_run_with_its_name(tmp_path):
    with serving() as server:
        client = open_client(server, tmp_path / "r.db")
        client.record._database.execute("PRAGMA max_page_count=3")  # as good as a full disk
        with pytest.raises(RecordError, match="r.db: database or disk is full; make it writable, with room"):
            client.ask(requests(60))


# Budget -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 8])
def test_the_budget_is_never_exceeded_and_a_second_run_does_not_start_it_anew(tmp_path, at_once):
    prices = {"dollars_per_million_in": 1.0, "dollars_per_million_out": 4.0, "max_concurrency": at_once}
    with serving(latency=0.01) as server:
        for _ in range(2):
            with pytest.raises(BudgetExceeded, match="raise max_tokens and run again"):
                open_client(server, tmp_path / "r.db", max_tokens=1500, max_concurrency=at_once).ask(requests(200))
            assert 900 < server.tokens <= 1500, "stopped within one call of the worst kind"
        with pytest.raises(BudgetExceeded, match=r"\(\$0.00 spent\); raise max_dollars"):
            client = open_client(server, tmp_path / "s.db", max_tokens=10**6, max_dollars=0.0005, **prices)
            client.ask(requests(200))
        assert len(open_client(server, tmp_path / "r.db", max_tokens=10**6).ask(requests(60))) == 60
    with pytest.raises(EndpointError, match="max_dollars needs"):
        Client(Endpoint(model="judge", max_dollars=1.0), Record(tmp_path / "t.db"))


def test_the_cost_is_said_before_the_first_call(tmp_path, capsys):
    prices = {"dollars_per_million_in": 1000.0, "dollars_per_million_out": 1000.0}
    with serving() as server:
        open_client(server, tmp_path / "r.db", **prices).ask(requests(4))
        line = "judge: 4 calls, about 13 tokens in, at most 40 out, about $0.05 at most"
        assert line in capsys.readouterr().err
        open_client(server, tmp_path / "r.db", **prices).ask(requests(4))
        assert "calls" not in capsys.readouterr().err


def test_what_never_came_counts_with_the_most_it_could_have_cost(tmp_path):
    faults = {"hang": 0.15, "cut": 0.1, "drip": 0.05, "not json": 0.05, "no choices": 0.05}
    with serving(faults=faults, hang=0.5, seed=3) as server:
        client = open_client(server, tmp_path / "r.db", max_tokens=9000, timeout_seconds=0.2, max_concurrency=4)
        with pytest.raises(BudgetExceeded):
            client.ask(requests(400))
        assert server.tokens < server.worked <= 9000
        asked = sum(server.asked.values())
        with pytest.raises(BudgetExceeded):
            client.ask(requests(400))
        assert sum(server.asked.values()) == asked, "nor does the next question to this client forget it"


def test_a_server_that_is_not_there_costs_nothing(tmp_path, short_pauses):
    with pytest.raises(EndpointError, match="no connection"):
        open_client(NOBODY, tmp_path / "r.db", attempts=5, max_tokens=700).ask(requests(3))


@pytest.mark.parametrize("usage", [{}, {"usage": [1]}, {"usage": {"prompt_tokens": 10**30}}])
def test_an_answer_without_usage_counts_with_the_most_it_could_have_cost(tmp_path, usage):
    spent = r"\d+ tokens spent\); raise max_tokens and run again \(9[0-9] of 100 requests are left"
    with serving(reply=replying({"content": '{"score": 1}'}, **usage)) as server:
        for _ in range(2):
            with pytest.raises(BudgetExceeded, match=spent):
                open_client(server, tmp_path / "r.db", max_tokens=3000).ask(requests(100))
        assert len(server.bodies) < 8


# Runs that end ------------------------------------------------------------------------------------------------------

SCRIPT = """
import asyncio, signal, sys
from tests.test_client import *
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what it runs beside itself with interrupts ignored
client = open_client(sys.argv[1], Path(sys.argv[2]), timeout_seconds=5, max_concurrency=int(sys.argv[4]))
async def cell():
    client.ask(requests(300))
try:
    asyncio.new_event_loop().run_until_complete(cell()) if sys.argv[3] == "notebook" else client.ask(requests(300))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def started(server, path, where, at_once):
    command = [sys.executable, "-c", SCRIPT, server.url, path, where, str(at_once)]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while len(server.billed) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    return run


@pytest.mark.parametrize("where", ["notebook", "script"])
def test_an_interrupt_stops_the_spending_and_keeps_what_came(tmp_path, where):
    with serving(say=numbered, latency=0.2) as server:
        run = started(server, tmp_path / "r.db", where, 2)
        time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=10)
        assert out == "interrupted\n" and len(server.bodies) <= 12
        assert 4 <= len(Record(tmp_path / "r.db")) <= len(server.billed)


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_killed_run_keeps_every_answer_it_had_and_asks_none_of_them_again(tmp_path, after):
    with serving(say=numbered, latency=0.05) as server:
        run = started(server, tmp_path / "r.db", "script", 32)
        time.sleep(after)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        time.sleep(0.2)
        kept, delivered = len(Record(tmp_path / "r.db")), len(server.billed)
        assert delivered - 32 <= kept <= delivered, "at most what was on its way is unknown"
        answers = open_client(server, tmp_path / "r.db", timeout_seconds=5).ask(requests(300))
        assert [a.parsed.score for a in answers] == [i % 6 for i in range(300)]
        assert sum(count > 1 for count in server.asked.values()) <= 32
        assert len(server.asked) == 300


# Reading ------------------------------------------------------------------------------------------------------------


def said(text, **choice):
    return Stored(200, {"choices": [{"message": {"content": text}, **choice}]}, 0, 0, "judge")


@pytest.mark.parametrize(
    "text, score",
    [
        ('{"score": 4}', 4), ('```json\n{"score": 4}\n```', 4), ('Here it is: {"score": 4}. Done.', 4), ("4", 4), (" 4. ", 4), ("Score: 4", 4),
        ('{"note": 1} {"score": 2}', 2), ("{", None), ("", None), ("4 or 5", None), ('{"score": 9}', None), ("9", None), ("four", None),
        ('{"score": "4"}', 4), ("-1", None), ('{"score": 4', None), ("{" * 500, None), ("4.5", None),
        ('{"score": 4} again: {"score": 4}', 4), ('such as {"score": 1}; mine is {"score": 4}', None),
        ('{"why": {"score": 3}, "score": 9}', None), ('{"draft": {"score": 3}, "score', None), ("a {brace} and {\"score\": 4}", 4),
        ('{"a":' * 5000, None), ('{"a":' + "[" * 5000, None), ("{ " * 50_000, None),
    ],
)  # fmt: skip
def test_answers_are_read_with_care(text, score):
    parsed, why, _ = read(said(text), Score)
    assert (parsed.score if parsed else None) == score and (why is None) == (score is not None)


def test_what_stood_in_the_way_is_said():
    assert read(said("I", finish_reason="length"), Score)[1].endswith("cut at the token limit")
    assert read(said("1", finish_reason="length"), Score)[1].endswith("cut at the token limit"), "it may have been 10"
    assert read(said('{"score": 1} because', finish_reason="length"), Score)[0] == Score(score=1)
    assert read(said("I am", finish_reason="content_filter"), Score)[1].endswith(
        "stopped by the server's content filter"
    )
    assert read(said('{"score": 1} or {"score": 2}'), Score)[1] == "several answers that differ"
    assert read(Stored(200, {"choices": []}, 0, 0, "j"), Score)[1] == "not a chat completion"
    assert read(said("4"), Two)[0] is None, "a bare value answers only a single question"
    assert read(said("Reason 4."), Word)[0] == Word(word="Reason 4")


@given(st.integers(0, 5), st.text(st.characters(exclude_characters="{}"), max_size=40), st.text(max_size=40))
def test_an_object_is_found_whatever_stands_around_it(score, before, after):
    assert read(said(f'{before}{{"score": {score}}}{after}'), Score)[0] == Score(score=score)


@given(st.text())
def test_no_text_is_an_error(text):
    parsed, why, kept = read(said(text), Score)
    assert (parsed is None) == (why is not None) and kept == text
