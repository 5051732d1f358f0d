"""Asking a real server, ``transformers serve`` with the embedded model behind it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from decoupled_esc import models
from decoupled_esc.corpus import read_raw, turns
from decoupled_esc.corpus.split import MANIFEST
from decoupled_esc.generate import Sampling
from decoupled_esc.generate import client as asking
from decoupled_esc.generate.client import Client, Endpoint, EndpointError, Request
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.generate.record import Record
from decoupled_esc.prompts import Prompt, generator_trunk

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"transformers serve needs {package}: pip install -e '.[test]'")


class Reply(BaseModel):
    reply: str


class Verdict(BaseModel):
    score: int
    why: str


@dataclass
class Server:
    """``transformers serve``, running as ``process``."""

    process: subprocess.Popen
    log: Path
    model: str
    url: str = ""

    def wait(self, seconds: float) -> None:
        """Until it is well; its address is then known."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if found := re.search(r"running on (http://\S+)", self.log.read_text()):
                self.url = f"{found[1]}/v1"
                with suppress(OSError), urllib.request.urlopen(f"{found[1]}/health", timeout=5):
                    return
            time.sleep(0.1)
        ended = self.process.poll()
        why = f"not well after {seconds:g} s" if ended is None else f"gone with status {ended}"
        pytest.fail(f"transformers serve is {why}; the end of its log:\n{self.log.read_text()[-2000:]}")

    def calls(self) -> int:
        """How many questions it has answered, or refused."""
        return self.log.read_text().count("POST /v1/chat/completions")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def serving(folder, log):
    """A server of the model in ``folder``, under the folder's name, at a port that the system picks."""
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder.name]
    options = ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    settings = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *options], cwd=folder.parent, env=settings, stdout=out, stderr=out, start_new_session=True
        )
    server = Server(process, log, folder.name)
    try:
        server.wait(120)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The embedded model, allowed to sample: otherwise this server takes the likeliest token at every temperature."""
    folder = shutil.copytree(models.EMBEDDED / "esc-nano", tmp_path_factory.mktemp("served") / "esc-nano")
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_sample": True}))
    return folder


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    with serving(folder, tmp_path_factory.mktemp("server") / "log") as server:
        yield server


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)


def open_client(server, path, mode="record", **changes):
    settings = {"model": server.model, "base_url": server.url, "max_concurrency": 4, "attempts": 3} | changes
    return Client(Endpoint(**settings), Record(path), mode)


def requests(n, **changes):
    return [
        Request(
            f"turn/{i:04d}", (("user", f"I lost {i} friends."),), **{"answer": Reply, "max_new_tokens": 20} | changes
        )
        for i in range(n)
    ]


def test_it_answers_what_the_model_itself_would(server, tmp_path):
    dialogues, _ = read_raw(MANIFEST.parent / "miniature" / "ESConv.json", "miniature")
    found = [turn for dialogue in dialogues[:2] for turn in turns(dialogue)]
    prompts = [
        *map(generator_trunk, found),
        *(Prompt(f"last/{t.id}", (("user", t.context[-1].text),), "") for t in found),
    ]
    before = server.calls()
    answers = open_client(server, tmp_path / "r.db").ask([Request(p.id, p.messages, Reply, 40) for p in prompts])

    folder = models.EMBEDDED / "esc-nano"
    engine = TransformersEngine(models.load(folder), models.load_tokenizer(folder), batch_tokens=4000)
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=40)
    own = [completion for batch in engine.complete(prompts, greedy, seed=0, purpose="test") for completion in batch]
    # The tokens in say that the chat template is applied alike. White space at the ends is not the server's to give.
    assert [(a.id, a.text, a.tokens_in, a.tokens_out) for a in answers] == [
        (p.id, c.text.strip(), engine.count(p), c.tokens) for p, c in zip(prompts, own, strict=True)
    ]
    assert len({a.text for a in answers}) > 4, "a mix-up would show"
    assert {a.model for a in answers} == {"esc-nano@main"}, "the model as the server names it"
    # One free field takes bare text; what the limit cut is no answer, however often it is asked for.
    assert [a.parsed is None for a in answers] == [not c.finished for c in own] and any(c.finished for c in own)
    assert {a.why for a in answers} == {None, "no answer in the form asked for, cut at the token limit"}
    tries = {p.messages: 1 if c.finished else asking.MAX_PARSE_ATTEMPTS for p, c in zip(prompts, own, strict=True)}
    assert server.calls() - before == sum(tries.values())


def test_a_model_that_it_does_not_serve_is_said_in_one_line(server, tmp_path):
    before = server.calls()
    with pytest.raises(EndpointError) as caught:
        open_client(server, tmp_path / "r.db", model="another", max_concurrency=1).ask(requests(5))
    said = "status 400: Server is pinned to 'esc-nano'; requested 'another'. (5 of 5 requests are left to ask)"
    assert str(caught.value) == f"another at {server.url}: {said}"
    assert server.calls() - before == 1 and not len(Record(tmp_path / "r.db"))


def test_when_it_dies_what_came_is_kept_and_another_server_gives_the_rest(server, folder, tmp_path):
    with serving(folder, tmp_path / "log") as dying:
        client = open_client(dying, tmp_path / "r.db")
        put = client.record.put

        def put_and_kill(*answer):
            put(*answer)
            if len(client.record) == 3:
                dying.stop()

        client.record.put = put_and_kill
        with pytest.raises(EndpointError) as caught:
            client.ask(requests(20))
    kept = len(Record(tmp_path / "r.db"))
    assert 3 <= kept < 3 + 4, "those on their way may still have come"
    said = r"the first because no connection \(.+\); run again to ask only these"
    assert re.fullmatch(rf"{20 - kept} of 20 requests were not answered, {said}", str(caught.value))
    before = server.calls()
    answers = open_client(server, tmp_path / "r.db").ask(requests(20))
    assert server.calls() - before == 20 - kept
    for mode in ("record", "replay"):  # where all is known, nobody need be there
        assert open_client(dying, tmp_path / "r.db", mode).ask(requests(20)) == answers
