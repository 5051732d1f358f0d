"""vLLM: the same answers as the transformers engine's, from a real server on the CPU where vLLM is installed.

``DECOUPLED_ESC_VLLM=/path/to/vllm pytest tests/test_vllm.py`` takes about a minute; without vLLM the server's tests are left out.
"""

import json
import os
import shutil
import stat
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from decoupled_esc import corpus, models, prompts, taxonomy
from decoupled_esc.generate import Sampling, open_engine, vllm
from decoupled_esc.generate.vllm import Server, ServerError, Serving, VLLMEngine
from decoupled_esc.models import Weights

FOUND = os.environ.get(vllm.EXECUTABLE) or shutil.which("vllm")
REAL = pytest.mark.skipif(not FOUND, reason=f"vLLM is not installed, and {vllm.EXECUTABLE} names none")
BASE = models.EMBEDDED / "esc-nano"
SERVING = Serving(options=("--enforce-eager", "--gpu-memory-utilization", "0.2"), patience_seconds=300)
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=24)


def turns():
    dialogues = corpus.load("esconv", download=False).split("test")[:3]
    return [turn for dialogue in dialogues for turn in corpus.turns(dialogue)][:12]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters on the base, with weights that change what it says."""
    import torch
    from peft import LoraConfig, get_peft_model

    found = {}
    for seed, name in enumerate(("sft-planner", "sft-generator")):
        torch.manual_seed(seed)
        model = get_peft_model(
            models.load(BASE), LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        )
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
    policies = {name: Weights(BASE, adapter=folder) for name, folder in adapters.items()}
    more = {"batch_tokens": 4000, "max_length": 1024, "seed": 1, "folder": tmp_path_factory.mktemp("log"), "policies": policies}
    with ExitStack() as stack:
        yield {
            name: tuple(
                stack.enter_context(open_engine(weights, serving=serving, **more)) for serving in (None, SERVING)
            )
            for name, weights in {"base": Weights(BASE), **policies}.items()
        }
        assert len(vllm._RUNNING) == 1, "all on one server"
    assert not vllm._RUNNING


def complete(engine, asked, sampling=GREEDY, *, purpose="test", **more):
    return {one.id: one for batch in engine.complete(asked, sampling, seed=3, purpose=purpose, **more) for one in batch}


@REAL
@pytest.mark.parametrize("name", ["base", "sft-planner", "sft-generator"])
def test_greedy_replies_are_the_same(engines, name):
    asked = [prompts.vanilla(turn) for turn in turns()]
    one, other = (complete(engine, asked) for engine in engines[name])
    assert one == other
    assert name == "base" or one != complete(engines["base"][0], asked), "adapters are served as such"


@REAL
@pytest.mark.parametrize("name", ["base", "sft-planner"])
def test_strategies_are_scored_and_ranked_the_same(engines, name):
    asked = [prompts.planner(turn) for turn in turns()]
    one, other = (
        np.concatenate([rows for _, rows in engine.score_choices(asked, taxonomy.STRATEGIES)])
        for engine in engines[name]
    )
    np.testing.assert_allclose(one, other, atol=2e-3)
    assert (one.argsort(axis=1) == other.argsort(axis=1)).all()


def test_requests_have_seeds_by_purpose_and_leave_the_answer_free(monkeypatch):
    """A planner may answer with anything, and what is no strategy counts as invalid."""
    seen = {}

    def answer(self, id, **request):
        seen.setdefault(purpose, {})[id] = request
        choice = SimpleNamespace(text="well", finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(completion_tokens=2))

    monkeypatch.setattr(VLLMEngine, "_ask", answer)
    engine = VLLMEngine(["http://127.0.0.1:9/v1"], "base", models.load_tokenizer(Weights(BASE)), Serving())
    asked = [prompts.planner(turn) for turn in turns()]
    for purpose in ("ReplyDecoupled/plans", "ReplyDecoupled/replies"):
        assert {one.text for one in complete(engine, asked, purpose=purpose).values()} == {"well"}
    seeds = [request["seed"] for requests in seen.values() for request in requests.values()]
    assert len(set(seeds)) == 2 * len(asked)
    for request in [request for requests in seen.values() for request in requests.values()]:
        assert set(request) == {"prompt", "seed", "temperature", "top_p", "max_tokens"}, "no structured_outputs"


@REAL
def test_the_same_seed_samples_the_same_and_what_is_done_is_not_asked(engines):
    asked = [prompts.vanilla(turn) for turn in turns()]
    sampling = Sampling(temperature=1.0, top_p=0.95, max_new_tokens=12)
    engine = engines["base"][1]
    first, again = complete(engine, asked, sampling), complete(engine, asked, sampling, done=frozenset({asked[0].id}))
    assert set(first) - set(again) == {asked[0].id} and all(first[id] == one for id, one in again.items())


@REAL
def test_an_unknown_model_is_named(engines):
    engine = engines["base"][1]
    with pytest.raises(ServerError, match="does not serve 'dpo-planner'; start it with --lora-modules"):
        url = str(engine._clients[0].base_url).rstrip("/")
        complete(VLLMEngine([url], "dpo-planner", engine.tokenizer, SERVING), [prompts.vanilla(turns()[0])])


# --- Starting and stopping, without vLLM ---

HEALTHY = """
import subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, *sys.argv, flush=True)
class Healthy(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        self.send_response(400); self.end_headers(); self.wfile.write(b"no room")
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""


def program(tmp_path, monkeypatch, body: str):
    path = tmp_path / "vllm"
    path.write_text(f"#!{sys.executable}\n{body}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv(vllm.EXECUTABLE, str(path))


def server(tmp_path, seconds=20):
    serving = Serving(patience_seconds=seconds)
    return Server(Weights(BASE), tmp_path / "log" / "vllm.log", adapters={}, max_length=512, seed=1, serving=serving)


def test_a_server_that_dies_shows_the_end_of_its_log(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "import sys; print('no such device'); sys.exit(3)")
    with pytest.raises(ServerError, match="status 3") as error, server(tmp_path):
        pass
    assert "no such device" in str(error.value) and "vllm.log" in str(error.value)


def test_a_server_that_never_answers_is_stopped(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, "import time; time.sleep(600)")
    made = server(tmp_path, seconds=1)
    with pytest.raises(ServerError, match="did not answer within 1 s"):
        made.__enter__()
    assert made.process.poll() is not None


def test_a_server_ends_with_all_that_it_started(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, HEALTHY)
    with server(tmp_path) as running:
        assert vllm.healthy(running.url)
        child = int(running.log.read_text().split()[0])
    assert not vllm.healthy(running.url)
    status, patience = Path(f"/proc/{child}/stat"), time.monotonic() + 10
    while (alive := status.exists() and status.read_text().split()[2] not in "ZX") and time.monotonic() < patience:
        time.sleep(0.05)  # a killed process takes a moment to die
    assert not alive


def adapter(folder, rank):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return Weights(BASE, adapter=folder)


def test_adapters_on_one_base_share_a_server_until_the_last_engine_is_closed(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, HEALTHY)
    policies = {"planner": adapter(tmp_path / "p", 4), "generator": adapter(tmp_path / "g", 24), "whole": Weights(tmp_path)}
    more = {"batch_tokens": 1, "max_length": 512, "seed": 1, "folder": tmp_path, "policies": policies}
    with open_engine(policies["generator"], serving=Serving(), **more) as generator:
        with open_engine(policies["planner"], serving=Serving(), **more) as planner:
            assert (planner.model, generator.model) == ("planner", "generator")
            assert planner._clients[0].base_url == generator._clients[0].base_url
            with pytest.raises(ServerError, match="400.*; what was received is kept, run again"):
                complete(planner, [prompts.planner(turns()[0])])
        url = str(generator._clients[0].base_url).rstrip("/")
        assert vllm.healthy(url)
        words = (tmp_path / "vllm.log").read_text().split()
        assert words[words.index("--max-lora-rank") + 1] == "32" and words[words.index("--max-loras") + 1] == "2"
        assert words[words.index("--max-model-len") + 1] == "512" and f"planner={tmp_path / 'p'}" in words
    assert not vllm.healthy(url)


def test_servers_that_run_are_used_under_the_policy_s_name(tmp_path):
    policies = {"planner": Weights(BASE, adapter=tmp_path), "whole": Weights(BASE, dtype="bfloat16")}
    serving = Serving(urls=("http://127.0.0.1:9/v1",))
    more = {"serving": serving, "batch_tokens": 1, "max_length": 512, "seed": 1, "folder": tmp_path, "policies": policies}
    for weights, name in ((policies["planner"], "planner"), (Weights(BASE), "base")):
        with open_engine(weights, **more) as engine:
            assert engine.model == name
    with pytest.raises(ServerError, match="whole is a whole model"), open_engine(policies["whole"], **more):
        pass


def test_what_vllm_can_t_do_is_told_with_its_remedy(tmp_path, monkeypatch):
    with pytest.raises(ServerError, match="LoRA rank 600 is more than vLLM takes"):
        vllm._lora_options({"a": adapter(tmp_path / "a", 600).adapter})
    monkeypatch.delenv(vllm.EXECUTABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match="DECOUPLED_ESC_VLLM"):
        server(tmp_path)
