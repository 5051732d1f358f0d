"""vLLM: the same answers as the transformers engine's, from a real server on the CPU where vLLM is installed.

``DECOUPLED_ESC_VLLM=/path/to/vllm pytest tests/test_vllm.py`` takes about a minute; without vLLM the server's tests are left out.
"""

import json
import os
import shutil
import socket
import stat
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from decoupled_esc import corpus, models, prompts, taxonomy
from decoupled_esc.generate import vllm
from decoupled_esc.generate.local import Sampling, TransformersEngine
from decoupled_esc.generate.vllm import Server, ServerError, Serving, VLLMEngine

FOUND = os.environ.get(vllm.EXECUTABLE) or shutil.which("vllm")
REAL = pytest.mark.skipif(not FOUND, reason=f"vLLM is not installed, and {vllm.EXECUTABLE} names none")
BASE = models.EMBEDDED / "esc-nano"
SERVING = Serving(options=["--enforce-eager", "--gpu-memory-utilization", "0.2"], patience_seconds=300)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=24)


def turns():
    return [turn for dialogue in corpus.load("esconv", download=False).split("test")[:3] for turn in corpus.turns(dialogue)][:12]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters on the base, with weights that change what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    found = {}
    for seed, name in enumerate(("sft-planner", "sft-generator")):
        torch.manual_seed(seed)
        model = get_peft_model(models.load(BASE), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.05)
        found[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(found[name])
    return found


@pytest.fixture(scope="module")
def engines(adapters, tmp_path_factory):
    """name -> (transformers engine, vLLM engine) of the base and of both adapters."""
    tokenizer = models.load_tokenizer(BASE)
    with ExitStack() as stack:
        server = stack.enter_context(
            Server(BASE, tmp_path_factory.mktemp("log") / "vllm.log", adapters=adapters, dtype="float32", window=1024, seed=1, serving=SERVING)
        )
        yield {
            name: (
                TransformersEngine(models.load(BASE, adapter=adapters.get(name)), tokenizer, batch_tokens=4000),
                VLLMEngine([server.url], name, tokenizer, SERVING),
            )
            for name in ("base", *adapters)
        }


def complete(engine, asked, sampling=GREEDY, **more):
    return {one.id: one for batch in engine.complete(asked, sampling, seed=3, **more) for one in batch}


@REAL
@pytest.mark.parametrize("name", ["base", "sft-planner", "sft-generator"])
def test_greedy_replies_are_the_same(engines, name):
    asked = [prompts.vanilla(turn) for turn in turns()]
    one, other = (complete(engine, asked) for engine in engines[name])
    assert one == other


@REAL
def test_adapters_are_not_one_another(engines):
    asked = [prompts.vanilla(turn) for turn in turns()]
    said = {name: tuple(one.text for one in complete(engine, asked).values()) for name, (_, engine) in engines.items()}
    assert len(set(said.values())) == 3


@REAL
@pytest.mark.parametrize("name", ["base", "sft-planner"])
def test_strategies_are_scored_and_ranked_the_same(engines, name):
    asked = [prompts.planner(turn) for turn in turns()]
    one, other = (np.concatenate([rows for _, rows in engine.score_choices(asked, taxonomy.STRATEGIES)]) for engine in engines[name])
    np.testing.assert_allclose(one, other, atol=2e-3)
    assert (one.argsort(axis=1) == other.argsort(axis=1)).all()


@REAL
def test_a_guided_plan_is_always_a_strategy(engines):
    asked = [prompts.planner(turn) for turn in turns()]
    drawn = complete(engines["base"][1], asked, Sampling(temperature=1.0, top_p=1.0, max_new_tokens=40), choices=taxonomy.STRATEGIES)
    assert {one.text for one in drawn.values()} <= set(taxonomy.STRATEGIES) and all(one.finished for one in drawn.values()), drawn


@REAL
def test_the_same_seed_draws_the_same_and_what_is_done_is_not_asked(engines):
    asked, sampling = [prompts.vanilla(turn) for turn in turns()], Sampling(temperature=1.0, top_p=0.95, max_new_tokens=12)
    engine = engines["base"][1]
    first, again = complete(engine, asked, sampling), complete(engine, asked, sampling, done=frozenset({asked[0].id}))
    assert set(first) - set(again) == {asked[0].id} and all(first[id] == one for id, one in again.items())


@REAL
def test_an_unknown_model_is_named(engines):
    engine = engines["base"][1]
    with pytest.raises(ServerError, match="does not serve 'dpo-planner'; start it with --lora-modules"):
        complete(VLLMEngine([str(engine._clients[0].base_url).rstrip("/")], "dpo-planner", engine.tokenizer, SERVING), [prompts.vanilla(turns()[0])])


# --- Starting and stopping, without vLLM ---


def program(tmp_path, monkeypatch, body: str):
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(vllm.EXECUTABLE, str(path))


def server(tmp_path, **more):
    return Server(BASE, tmp_path / "log" / "vllm.log", adapters={}, dtype="float32", window=512, seed=1, **{"serving": Serving(patience_seconds=5), **more})


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "import sys; print('no such device'); sys.exit(3)")
    with pytest.raises(ServerError, match="status 3") as error, server(tmp_path):
        pass
    assert "no such device" in str(error.value) and "vllm.log" in str(error.value)


def test_a_server_that_never_answers_is_stopped(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "import time; time.sleep(600)")
    made = server(tmp_path, serving=Serving(patience_seconds=1))
    with pytest.raises(ServerError, match="did not answer within 1 s"):
        made.__enter__()
    assert made.process.poll() is not None


def test_a_port_that_is_taken_is_named(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ServerError, match="is taken"), server(tmp_path, port=other.getsockname()[1]):
            pass


def test_a_server_ends_with_all_that_it_started(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
""")  # fmt: skip
    with server(tmp_path) as running:
        assert vllm.healthy(running.url)
        child = int(running.log.read_text().split()[0])
    assert not vllm.healthy(running.url)
    status, patience = Path(f"/proc/{child}/stat"), time.monotonic() + 10
    while (alive := status.exists() and status.read_text().split()[2] not in "ZX") and time.monotonic() < patience:
        time.sleep(0.05)  # a killed process takes a moment to die
    assert not alive


def test_without_vllm_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv(vllm.EXECUTABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="DECOUPLED_ESC_VLLM"):
        server(tmp_path)


def test_lora_ranks_are_rounded_up_to_what_vllm_takes(tmp_path):
    for name, rank in (("a", 4), ("b", 24)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"r": rank}))
    options = vllm._lora_options({name: tmp_path / name for name in ("a", "b")})
    assert options[options.index("--max-lora-rank") + 1] == "32" and options[options.index("--max-loras") + 1] == "2"
