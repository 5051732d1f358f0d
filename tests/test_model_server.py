"""Asking a real server, ``transformers serve`` with the embedded model behind it."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress

import pytest
from pydantic import BaseModel

from decoupled_esc import models
from decoupled_esc.corpus import turns
from decoupled_esc.generate import Sampling
from decoupled_esc.generate import client as asking
from decoupled_esc.generate.client import Client, Endpoint, Request
from decoupled_esc.generate.local import TransformersEngine
from decoupled_esc.generate.record import Record
from decoupled_esc.prompts import Prompt, generator_trunk

for package in ("fastapi", "uvicorn"):
    pytest.importorskip(package, reason=f"transformers serve needs {package}: pip install -e '.[test]'")

FOLDER = models.EMBEDDED / "esc-nano"


class Reply(BaseModel):
    reply: str


@pytest.fixture
def server(tmp_path):
    """(address, log) of a server of the model, at a port that the system picks."""
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", FOLDER.name]
    command += ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    settings, log = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}, tmp_path / "log"
    with log.open("w") as out:
        options = {"cwd": FOLDER.parent, "env": settings, "stdout": out, "stderr": out, "start_new_session": True}
        process = subprocess.Popen(command, **options)
    try:
        deadline, well = time.monotonic() + 120, False
        while not well and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            if found := re.search(r"running on (http://\S+)", log.read_text()):
                with suppress(OSError), urllib.request.urlopen(f"{found[1]}/health", timeout=5):
                    well = True
        assert well, log.read_text()[-2000:]
        yield f"{found[1]}/v1", log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_it_answers_what_the_model_itself_would(server, dialogues, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    address, log = server
    found = [turn for dialogue in dialogues[:2] for turn in turns(dialogue)]
    prompts = [
        *map(generator_trunk, found),
        *(Prompt(f"last/{t.id}", (("user", t.context[-1].text),), "") for t in found),
    ]
    client = Client(Endpoint(model=FOLDER.name, base_url=address, max_concurrency=4), Record(tmp_path / "r.db"))
    answers = client.ask([Request(p.id, p.messages, Reply, 40) for p in prompts])

    engine = TransformersEngine(models.load(FOLDER), models.load_tokenizer(FOLDER), batch_tokens=4000)
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=40)
    own = [completion for batch in engine.complete(prompts, greedy, seed=0, purpose="t") for completion in batch]
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
    assert log.read_text().count("POST /v1/chat/completions") == sum(tries.values())
