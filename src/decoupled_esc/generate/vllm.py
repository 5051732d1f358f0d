"""Replies and strategy scores from vLLM servers: the engine for models that fill a GPU.

One server holds a base model and any number of LoRA adapters on it; an engine speaks for the base or for one adapter.
vLLM itself is not imported: it runs as a process of its own, from its own environment where it has one, or somewhere else
altogether (``urls``).  Prompts are rendered here and sent as token ids, so that both engines show a model the same.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from decoupled_esc.generate.local import Completion, Sampling
from decoupled_esc.prompts import Prompt, chat_for, ids, render

EXECUTABLE = "DECOUPLED_ESC_VLLM"
"""Environment variable: the ``vllm`` program, where it is in an environment of its own."""
CHUNK = 512
"""Prompts whose answers are yielded together, and written down by whoever asked."""
TAIL = 6
"""Lines of a dead server's log that are shown."""


class ServerError(RuntimeError):
    """A vLLM server that can't be started, died, or refused."""


class Serving(BaseModel):
    """How vLLM serves a profile's models."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    urls: list[str] = []
    """Servers that run already, the prompts being spread over them; none: one is started for as long as it is needed.
    They serve the adapters under the names of the stages that left them."""
    in_flight: PositiveInt = 256
    """Requests under way at each server."""
    patience_seconds: PositiveFloat = 900.0
    """For a server to come up: large weights take minutes."""
    options: list[str] = []
    """More of ``vllm serve``'s own options."""


class Server:
    """``vllm serve`` as a child of this process, with its log in a file.  Use as a context manager."""

    def __init__(self, model: str | Path, log: Path, *, adapters: Mapping[str, Path], revision: str | None = None, dtype: str, window: int, seed: int, serving: Serving,
                 port: int | None = None):  # fmt: skip
        self.port = port or _free_port()
        self.url, self.log, self.patience = f"http://127.0.0.1:{self.port}/v1", log, serving.patience_seconds
        self.command = [
            executable(), "serve", str(model), "--host", "127.0.0.1", "--port", str(self.port), "--dtype", dtype, "--max-model-len", str(window),
            "--seed", str(seed), "--served-model-name", "base", "--enable-prefix-caching", "--generation-config", "vllm",
            *(["--revision", revision] if revision else []), *_lora_options(adapters), *serving.options,
        ]  # fmt: skip
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> Server:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise ServerError(f"port {self.port} is taken; stop what listens there, or leave the port out") from None
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(self.command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
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
        while True:
            if self.process.poll() is not None:
                raise ServerError(f"vLLM ended with status {self.process.returncode} before it answered; the end of {self.log}:\n{self.tail()}")
            if healthy(self.url):
                return
            if time.monotonic() - started > self.patience:
                raise ServerError(f"vLLM did not answer within {self.patience:g} s; the end of {self.log}:\n{self.tail()}")
            time.sleep(0.5)

    def tail(self) -> str:
        """The first error in the log, which is the cause of those after it, and its last lines."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        cause = next((line for line in lines[:-TAIL] if re.search(r"\b\w*Error: ", line)), None)
        return "\n".join([*([cause, "..."] if cause else []), *lines[-TAIL:]])

    def stop(self) -> None:
        """End the server and all that it started."""
        atexit.unregister(self.stop)
        if self.process is None or self.process.poll() is not None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, sent)
                self.process.wait(timeout=20)
                return
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                return


class VLLMEngine:
    """One model behind vLLM servers, with the interface of ``local.TransformersEngine``."""

    def __init__(self, urls: Sequence[str], model: str, tokenizer, serving: Serving):
        import openai

        self.model, self.tokenizer, self.serving = model, tokenizer, serving
        self._clients = [openai.OpenAI(base_url=url, api_key="none", max_retries=5, timeout=3600.0) for url in urls]

    def count(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` as the model reads it, target left out."""
        return len(self._encode(prompt))

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, done: frozenset[str] = frozenset(), choices: Sequence[str] = ()
    ) -> Iterator[list[Completion]]:
        """One completion a prompt, yielded some at a time; prompts whose ids are in ``done`` are skipped.

        With ``choices`` the model can print one of these and nothing else (guided choice).
        A prompt's seed comes from ``seed`` and its id alone; what other requests share its batch can still move the last bits.
        """
        guided = {"structured_outputs": {"choice": list(choices)}} if choices else {}

        def one(prompt: Prompt) -> Completion:
            answer = self._ask(
                prompt.id, prompt=self._encode(prompt), max_tokens=sampling.max_new_tokens, temperature=sampling.temperature, top_p=sampling.top_p,
                seed=_seed(seed, prompt.id), extra_body=guided,
            )  # fmt: skip
            found = answer.choices[0]
            return Completion(prompt.id, found.text, answer.usage.completion_tokens, found.finish_reason == "stop")

        yield from self._each([prompt for prompt in prompts if prompt.id not in done], one)

    def score_choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """(ids, log-probabilities float32 [some, len(choices)]), summed over a choice's tokens, end of turn included.

        vLLM computes log-probabilities of what it reads without its prefix cache, so that each choice costs its whole prompt.
        """

        def one(prompt: Prompt) -> tuple[str, list[float]]:
            asked = self._encode(prompt)
            answers = [ids(render(Prompt(prompt.id, prompt.messages, choice), self.tokenizer)[1], self.tokenizer) for choice in choices]
            read = self._ask(
                prompt.id, prompt=[asked + answer for answer in answers], max_tokens=1, temperature=0.0, extra_body={"prompt_logprobs": 0}
            )  # fmt: skip
            rows = sorted(read.choices, key=lambda choice: choice.index)
            return prompt.id, [
                sum(place[str(token)]["logprob"] for place, token in zip(row.prompt_logprobs[len(asked) :], answer, strict=True))
                for row, answer in zip(rows, answers, strict=True)
            ]

        for some in self._each(list(prompts), one):
            yield [id for id, _ in some], np.array([row for _, row in some], dtype=np.float32)

    def _each(self, prompts: list[Prompt], one) -> Iterator[list]:
        with ThreadPoolExecutor(self.serving.in_flight * len(self._clients)) as pool:
            for start in range(0, len(prompts), CHUNK):
                yield list(pool.map(one, prompts[start : start + CHUNK]))

    def _ask(self, id: str, **request):
        import openai

        client = self._clients[_seed(0, id.rpartition("/")[0]) % len(self._clients)]  # a dialogue's turns share a prefix cache
        try:
            return client.completions.create(model=self.model, **request)
        except openai.NotFoundError:
            raise ServerError(f"{client.base_url} does not serve {self.model!r}; start it with --lora-modules {self.model}=FOLDER") from None
        except openai.APIConnectionError as error:
            raise ServerError(f"{client.base_url} does not answer ({error.__cause__ or error}); what was received is kept, run again to go on") from None

    def _encode(self, prompt: Prompt) -> list[int]:
        return ids(self.tokenizer.apply_chat_template(chat_for(prompt, self.tokenizer), add_generation_prompt=True, tokenize=False), self.tokenizer)


def executable() -> str:
    """The ``vllm`` program.  Raises ServerError where there is none."""
    found = os.environ.get(EXECUTABLE) or shutil.which("vllm")
    if not found:
        raise ServerError(f"vLLM is not installed here: pip install -e '.[vllm]', or set {EXECUTABLE} to the vllm program of another environment, or give its address as a url")
    return found


def healthy(url: str) -> bool:
    """Whether a server answers at ``url`` (``.../v1``)."""
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _lora_options(adapters: Mapping[str, Path]) -> list[str]:
    import json

    if not adapters:
        return []
    ranks = [json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["r"] for folder in adapters.values()]
    allowed = next(rank for rank in (8, 16, 32, 64, 128, 256, 320, 512) if rank >= max(ranks))
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    return ["--enable-lora", "--max-loras", str(len(adapters)), "--max-lora-rank", str(allowed), "--lora-modules", *modules]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _seed(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:4], "big") >> 1
