"""``Engine``: what callers know of a model that answers, whatever runs it; and the one way to open one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from decoupled_esc import models
from decoupled_esc.models import Weights
from decoupled_esc.prompts import Prompt, chat_for, ids, render

if TYPE_CHECKING:
    from decoupled_esc.generate.vllm import Serving


class Sampling(BaseModel):
    """How replies are sampled (DecoupledESC: T = 0.7, top-p = 0.95, one sample).  Temperature 0 is greedy decoding."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(ge=0, le=10)
    top_p: float = Field(gt=0, le=1)
    max_new_tokens: int = Field(ge=1, le=1_000_000)


@dataclass(frozen=True)
class Completion:
    """What a model printed for one prompt, end of turn removed."""

    id: str
    text: str
    tokens: int
    """Tokens generated, end of turn included."""
    finished: bool
    """False when the reply was cut at ``max_new_tokens``."""


class Engine(Protocol):
    """A model that answers prompts.  Callers never ask which kind it is."""

    def complete(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        seed: int,
        purpose: str,
        done: frozenset[str] = frozenset(),
    ) -> Iterator[list[Completion]]:
        """One completion per prompt, some at a time, without those whose ids are in ``done``.

        The random numbers of a prompt come from ``seed``, ``purpose`` and its id alone (`stream`).
        """
        ...

    def score_choices(
        self, prompts: Sequence[Prompt], choices: Sequence[str]
    ) -> Iterator[tuple[list[str], np.ndarray]]:
        """(ids, log-probabilities float32 [batch, len(choices)]) some at a time.

        Summed over a choice's tokens, end of turn included, given the prompt; not normalised over the choices.
        """
        ...

    def count(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` as the model reads it, target left out."""
        ...


class TokenEngine:
    """What both engines share that render prompts to token ids themselves."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def count(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` as the model reads it, target left out."""
        return len(self.encode(prompt))

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of ``prompt``, up to where the answer begins."""
        chat = chat_for(prompt, self.tokenizer)
        text = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return ids(text, self.tokenizer)

    def encode_answer(self, prompt: Prompt, choice: str) -> list[int]:
        """The token ids of ``choice`` as an answer, end of turn included: the same after every prompt."""
        return ids(render(Prompt(prompt.id, prompt.messages, choice), self.tokenizer)[1], self.tokenizer)


def stream(seed: int, purpose: str, id: str, size: int) -> int:
    """The seed of ``size`` bytes that belongs to ``id`` under ``seed``, for one ``purpose``.

    A purpose names the step's class and what is sampled there, such as ``ReplyDecoupled/plans``: what is sampled for
    two purposes at one turn shares no random numbers.
    """
    return int.from_bytes(hashlib.sha256(json.dumps([seed, purpose, id]).encode()).digest()[:size], "big")


@contextmanager
def open_engine(
    weights: Weights,
    *,
    serving: Serving | None,
    batch_tokens: int,
    max_length: int,
    seed: int,
    folder: Path,
    policies: Mapping[str, Weights] = MappingProxyType({}),
) -> Iterator[Engine]:
    """The engine of ``weights``: transformers, or vLLM where ``serving`` is given; what was started ends with the block.

    ``policies``: trained weights by the names under which servers know them.  Those with adapters on one base share
    one server, as long as engines of the same ``policies`` are open together.  ``folder``: for the server's log.
    Raises ModelUnavailable or ServerError.
    """
    tokenizer = models.load_tokenizer(weights)
    if serving is None:
        from decoupled_esc.generate.local import TransformersEngine

        model = models.load(weights)
        yield TransformersEngine(model, tokenizer, batch_tokens=batch_tokens)
        return
    from decoupled_esc.generate.vllm import VLLMEngine, served

    log = folder / "vllm.log"
    with served(weights, policies, log, max_length=max_length, seed=seed, serving=serving) as (urls, name):
        yield VLLMEngine(urls, name, tokenizer, serving)
