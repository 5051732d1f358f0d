"""The vLLM engine: models behind vLLM servers, for those that fill a GPU.

One server holds a base model and any number of LoRA adapters on it; an engine speaks for the base or for one adapter.
vLLM itself is not imported: it runs as a process of its own, from its own environment where it has one, or somewhere else
altogether (``urls``).  Prompts are rendered here and sent as token ids, so that both engines show a model the same.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from decoupled_esc.errors import KnownError
from decoupled_esc.generate.engine import Completion, TokenEngine, stream
from decoupled_esc.models import Weights
from decoupled_esc.processes import ends_with_parent
from decoupled_esc.prompts import Prompt

EXECUTABLE = "DECOUPLED_ESC_VLLM"
"""Environment variable: the ``vllm`` program, where it is in an environment of its own."""
CHUNK = 512
"""Prompts whose answers are yielded together, and written down by whoever asked."""
TAIL = 6
"""Lines of a dead server's log that are shown."""
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as its largest rank."""


class ServerError(KnownError, RuntimeError):
    """A vLLM server that can't be started, died, or refused."""


class Serving(BaseModel):
    """How vLLM serves a profile's models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: tuple[Annotated[str, Field(pattern=r"^https?://.+/v1$")], ...] = ()
    """Servers that run already (``http://.../v1``), the prompts being spread over them; none: one is started for as long
    as it is needed.  They serve the adapters under the names of the steps that left them."""
    max_concurrency: int = Field(256, ge=1, le=4096)
    """Requests at once at each server."""
    patience_seconds: float = Field(900.0, gt=0, le=86400)
    """For a server to come up: large weights take minutes."""
    options: tuple[str, ...] = ()
    """More of ``vllm serve``'s own options."""


class Server:
    """``vllm serve`` as a child of this process, with its log in a file.  Use as a context manager."""

    def __init__(
        self, base: Weights, log: Path, *, adapters: Mapping[str, Path], max_length: int, seed: int, serving: Serving
    ):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        self.log, self.patience = log, serving.patience_seconds
        self.command = [executable(), "serve", str(base.source), "--host", "127.0.0.1", "--port", str(port)]
        self.command += ["--dtype", base.dtype, "--max-model-len", str(max_length), "--seed", str(seed)]
        self.command += ["--served-model-name", "base", "--enable-prefix-caching", "--generation-config", "vllm"]
        self.command += ["--revision", base.revision] if base.revision else []
        self.command += [*_lora_options(adapters), *serving.options]
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                self.command,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=ends_with_parent(),
            )
        atexit.register(self.stop)
        try:
            self._await()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def _await(self) -> None:
        started = time.monotonic()
        while not healthy(self.url):
            if self.process.poll() is not None:
                why = f"ended with status {self.process.returncode} before it answered"
            elif time.monotonic() - started > self.patience:
                why = f"did not answer within {self.patience:g} s"
            else:
                time.sleep(0.5)
                continue
            raise ServerError(f"vLLM {why}; the end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """The first error in the log, which is the cause of those after it, and its last lines."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        cause = next((line for line in lines[:-TAIL] if re.search(r"\b\w*Error: ", line)), None)
        return "\n".join([*([cause, "..."] if cause else []), *lines[-TAIL:]])

    def stop(self) -> None:
        """End the server and all that it started."""
        atexit.unregister(self.stop)
        for sent in (signal.SIGTERM, signal.SIGKILL):
            if self.process is None or self.process.poll() is not None:
                return
            try:
                os.killpg(self.process.pid, sent)
                self.process.wait(timeout=20)
            except (subprocess.TimeoutExpired, ProcessLookupError):
                continue


_RUNNING: dict[tuple, tuple[Server, list]] = {}
"""Servers that this process started, by what they serve; each with its users."""


@contextmanager
def served(
    weights: Weights, policies: Mapping[str, Weights], log: Path, *, max_length: int, seed: int, serving: Serving
) -> Iterator[tuple[Sequence[str], str]]:
    """(urls, name) under which ``weights`` are served; see ``engine.open_engine``.  Raises ServerError."""
    names = [name for name, policy in policies.items() if policy == weights]
    if serving.urls:
        if weights.adapter is None and names:
            raise ServerError(
                f"{names[0]} is a whole model and no adapter, which the servers at urls can't be given; leave urls out"
            )
        yield serving.urls, names[0] if names else "policy" if weights.adapter else "base"
        return
    if weights.adapter and not names:
        policies, names = {**policies, "policy": weights}, ["policy"]
    adapters = {
        name: policy.adapter for name, policy in policies.items() if policy.adapter and policy.source == weights.source
    }
    what = (weights.source, weights.revision, weights.dtype, max_length, *sorted(adapters.items()))
    if what not in _RUNNING:
        log = log.with_stem(f"{log.stem}-{len(_RUNNING)}") if _RUNNING else log
        server = Server(weights, log, adapters=adapters, max_length=max_length, seed=seed, serving=serving)
        _RUNNING[what] = (server.__enter__(), [])
    server, users = _RUNNING[what]
    users.append(weights)
    try:
        yield (server.url,), names[0] if weights.adapter else "base"
    finally:
        users.remove(weights)
        if not users:
            del _RUNNING[what]
            server.stop()


class VLLMEngine(TokenEngine):
    """One model behind vLLM servers: ``model`` is its name there, which is ``base`` for the base model."""

    def __init__(self, urls: Sequence[str], model: str, tokenizer, serving: Serving):
        import openai

        super().__init__(tokenizer)
        self.model, self.serving = model, serving
        self._clients = [openai.OpenAI(base_url=url, api_key="none", max_retries=5, timeout=3600.0) for url in urls]

    def complete(self, prompts, sampling, *, seed, purpose, done=frozenset()) -> Iterator[list[Completion]]:
        """See ``Engine``.  What other requests share a batch with one can still move its last bits."""
        more = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}

        def one(prompt: Prompt) -> Completion:
            own = stream(seed, purpose, prompt.id, 4) >> 1
            answer = self._ask(prompt.id, prompt=self.encode(prompt), seed=own, **more)
            found = answer.choices[0]
            return Completion(prompt.id, found.text, answer.usage.completion_tokens, found.finish_reason == "stop")

        yield from self._each([prompt for prompt in prompts if prompt.id not in done], one)

    def score_choices(self, prompts, choices) -> Iterator[tuple[list[str], np.ndarray]]:
        """See ``Engine``.  vLLM reads without its prefix cache here, so that each choice costs its whole prompt."""
        more = {"max_tokens": 1, "temperature": 0.0, "extra_body": {"prompt_logprobs": 0}}

        def one(prompt: Prompt) -> tuple[str, list[float]]:
            start = self.encode(prompt)
            answers = [self.encode_answer(prompt, choice) for choice in choices]
            read = self._ask(prompt.id, prompt=[start + answer for answer in answers], **more)
            rows = sorted(read.choices, key=lambda choice: choice.index)
            return prompt.id, [
                sum(
                    place[str(token)]["logprob"]
                    for place, token in zip(row.prompt_logprobs[len(start) :], answer, strict=True)
                )
                for row, answer in zip(rows, answers, strict=True)
            ]

        for some in self._each(list(prompts), one):
            yield [id for id, _ in some], np.array([row for _, row in some], dtype=np.float32)

    def _each(self, prompts: list[Prompt], one) -> Iterator[list]:
        with ThreadPoolExecutor(self.serving.max_concurrency * len(self._clients)) as pool:
            for start in range(0, len(prompts), CHUNK):
                yield list(pool.map(one, prompts[start : start + CHUNK]))

    def _ask(self, id: str, **request):
        import openai

        # A dialogue's turns share a prefix cache.
        client = self._clients[(stream(0, "server", id.rpartition("/")[0], 4) >> 1) % len(self._clients)]
        try:
            return client.completions.create(model=self.model, **request)
        except openai.NotFoundError:
            remedy = f"start it with --lora-modules {self.model}=FOLDER"
            raise ServerError(f"{client.base_url} does not serve {self.model!r}; {remedy}") from None
        except openai.APIError as error:
            why = " ".join(str(error.__cause__ or error).split())[:300]
            kept = "what was received is kept, run again to go on"
            raise ServerError(f"{client.base_url} does not answer ({why}); {kept}") from None


def executable() -> str:
    """The ``vllm`` program.  Raises ServerError where there is none."""
    if found := os.environ.get(EXECUTABLE) or shutil.which("vllm"):
        return found
    raise ServerError(
        f"vLLM is not installed here: pip install -e '.[vllm]', or set {EXECUTABLE} to the vllm program of another "
        "environment, or give its address as a url"
    )


def healthy(url: str) -> bool:
    """Whether a server answers at ``url`` (``.../v1``)."""
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _lora_options(adapters: Mapping[str, Path]) -> list[str]:
    if not adapters:
        return []
    ranks = [
        json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] for folder in adapters.values()
    ]
    allowed = next((rank for rank in LORA_RANKS if rank >= max(ranks)), None)
    if allowed is None:
        raise ServerError(f"LoRA rank {max(ranks)} is more than vLLM takes; train with at most {LORA_RANKS[-1]}")
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    limits = ["--max-loras", str(len(adapters)), "--max-lora-rank", str(allowed)]
    return ["--enable-lora", *limits, "--lora-modules", *modules]
