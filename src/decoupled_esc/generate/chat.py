"""The chat engine: a model behind any server that speaks OpenAI's chat protocol, asked through a ``Client`` and its record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import create_model

from decoupled_esc.generate.client import Client, EndpointError, Request
from decoupled_esc.generate.engine import Completion, stream
from decoupled_esc.prompts import Prompt

CHUNK = 512
"""Prompts whose answers are yielded together."""


class ChatEngine:
    """The model of ``client``'s endpoint.  Answers are JSON with one field, or bare text where the server knows no forms."""

    def __init__(self, client: Client):
        self.client = client

    def complete(self, prompts, sampling, *, seed, done=frozenset(), choices=None) -> Iterator[list[Completion]]:
        """See ``Engine``.  The server's random numbers are its own; ``seed`` tells samples apart, and the record keeps them."""
        form = create_model("Answer", answer=(Literal[tuple(choices)] if choices else str, ...))
        asked = [
            Request(
                prompt.id, prompt.messages, form, sampling.max_new_tokens, sampling.temperature,
                sample=stream(seed, prompt.id, 4) if sampling.temperature else 0, top_p=sampling.top_p,
            )
            for prompt in prompts if prompt.id not in done
        ]  # fmt: skip
        for start in range(0, len(asked), CHUNK):
            yield [
                Completion(
                    one.id, one.text if one.parsed is None else one.parsed.answer, one.tokens_out, one.why is None
                )
                for one in self.client.ask(asked[start : start + CHUNK])
            ]

    def score_choices(self, prompts, choices) -> Iterator[tuple[list[str], np.ndarray]]:
        """Raises EndpointError: a chat server gives no log-probabilities of answers that it did not write."""
        model = self.client.endpoint.model
        raise EndpointError(f"{model}: a chat server can't score given answers; use transformers or vLLM for planners")

    def count(self, prompt: Prompt) -> int:
        """About: a token for four characters, and four around each message."""
        return sum(len(content) // 4 + 4 for _, content in prompt.messages)
