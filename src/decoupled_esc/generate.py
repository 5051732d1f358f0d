"""Replies and strategy scores from a policy: the transformers engine.

``complete`` samples (or decodes greedily) in batches, longest prompt first, with the KV cache; ``score_choices`` gives
the log-probability of each of a few fixed answers, reading each prompt once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from decoupled_esc.prompts import Prompt, ids, render


class Sampling(BaseModel):
    """How replies are drawn (DecoupledESC: temperature 0.7, top-p 0.95, one sample).  Temperature 0 is greedy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Completion:
    """What a policy printed for one prompt, end of turn removed."""

    id: str
    text: str
    tokens: int
    """Tokens generated, end of turn included."""
    finished: bool
    """False when the reply was cut at ``max_new_tokens``."""


class TransformersEngine:
    """A causal language model and its tokenizer, answering prompts in batches.

    ``batch_tokens`` bounds (prompt + new tokens) x sequences of one batch, and with it the memory.
    """

    def __init__(self, model, tokenizer, *, batch_tokens: int):
        self.model, self.tokenizer, self.batch_tokens = model, tokenizer, batch_tokens
        self._end = {tokenizer.eos_token_id, *_as_list(model.generation_config.eos_token_id)} - {None}

    def count(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` as the model reads it, target left out."""
        return len(self._encode(prompt))

    def batches(self, prompts: Sequence[Prompt], new_tokens: int, *, copies: int = 1) -> list[list[Prompt]]:
        """``prompts`` longest first, in batches within ``batch_tokens``.  The same prompts give the same batches.

        ``copies`` is the number of sequences that each prompt becomes.  A prompt too long for any batch gets its own.
        """
        length = {prompt.id: self.count(prompt) for prompt in prompts}
        ordered = sorted(prompts, key=lambda p: (-length[p.id], p.id))
        batches: list[list[Prompt]] = []
        width = 0
        for prompt in ordered:
            if not batches or (len(batches[-1]) + 1) * width > self.batch_tokens:
                batches.append([])
                # The first is the longest of its batch: every other is padded to it.
                width = (length[prompt.id] + new_tokens) * copies
            batches[-1].append(prompt)
        return batches

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, done: frozenset[str] = frozenset()
    ) -> Iterator[list[Completion]]:
        """One completion a prompt, yielded a batch at a time; batches whose ids are all in ``done`` are skipped.

        Each batch is seeded from ``seed`` and its first id, so a resumed run draws what an uninterrupted one would.
        """
        import torch

        for batch in self.batches(prompts, sampling.max_new_tokens):
            if all(prompt.id in done for prompt in batch):
                continue
            inputs = self._left_padded([self._encode(prompt) for prompt in batch])
            with torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(_seed(seed, batch[0].id))
                printed = self.model.generate(
                    **inputs,
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=sorted(self._end),
                    pad_token_id=self.tokenizer.pad_token_id,
                    **_decoding(sampling),
                )[:, inputs["input_ids"].shape[1] :]
            yield [self._completion(prompt, row) for prompt, row in zip(batch, printed.tolist(), strict=True)]

    def score_choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """(ids, log-probabilities float64 [batch, len(choices)]) a batch at a time.

        The log-probability of a choice is the sum over its tokens, end of turn included, given the prompt; the prompt
        is read once and its KV cache shared by all choices.  Nothing is normalised over the choices.
        """
        import torch

        answers = {choice: self._answer(prompts[0], choice) for choice in choices} if prompts else {}
        longest = max(map(len, answers.values()), default=0)
        for batch in self.batches(prompts, longest, copies=len(choices)):
            inputs = self._left_padded([self._encode(prompt) for prompt in batch])
            with torch.inference_mode():
                read = self.model(**inputs, use_cache=True, logits_to_keep=1)
                first = torch.log_softmax(read.logits[:, -1].double(), dim=-1)
                cache = read.past_key_values
                cache.batch_repeat_interleave(len(choices))
                tail = torch.full((len(choices), longest), self.tokenizer.pad_token_id, device=self.model.device)
                real = torch.zeros_like(tail)
                for row, answer in enumerate(answers.values()):
                    tail[row, : len(answer)] = torch.tensor(answer)
                    real[row, : len(answer)] = 1
                tail, real = tail.repeat(len(batch), 1), real.repeat(len(batch), 1)
                before = inputs["attention_mask"].repeat_interleave(len(choices), dim=0)
                positions = before.sum(1, keepdim=True) + torch.arange(longest, device=tail.device)
                logits = self.model(
                    input_ids=tail,
                    attention_mask=torch.cat([before, real], dim=1),
                    position_ids=positions,
                    past_key_values=cache,
                ).logits
                # Token k of a choice is predicted at position k-1 of the tail, token 0 at the end of the prompt.
                predicted = torch.log_softmax(logits[:, :-1].double(), dim=-1)
                rest = predicted.gather(2, tail[:, 1:, None])[..., 0] * real[:, 1:]
                opening = first.repeat_interleave(len(choices), dim=0).gather(1, tail[:, :1])[:, 0]
                scores = (opening + rest.sum(1)).view(len(batch), len(choices))
            yield [prompt.id for prompt in batch], scores.cpu().numpy()

    def _encode(self, prompt: Prompt) -> list[int]:
        text = self.tokenizer.apply_chat_template(prompt.chat(), add_generation_prompt=True, tokenize=False)
        return ids(text, self.tokenizer)

    def _answer(self, prompt: Prompt, choice: str) -> list[int]:
        """The token ids of ``choice`` as an answer, end of turn included: the same after every prompt."""
        _, text = render(Prompt(prompt.id, prompt.messages, choice), self.tokenizer)
        return ids(text, self.tokenizer)

    def _left_padded(self, rows: list[list[int]]):
        import torch

        width = max(map(len, rows))
        pad = self.tokenizer.pad_token_id
        tokens = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.model.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}

    def _completion(self, prompt: Prompt, tokens: list[int]) -> Completion:
        length = next((i for i, token in enumerate(tokens) if token in self._end), None)
        kept = tokens if length is None else tokens[:length]
        text = self.tokenizer.decode(kept, skip_special_tokens=True)
        return Completion(prompt.id, text, len(tokens) if length is None else length + 1, length is not None)


def _decoding(sampling: Sampling) -> dict:
    # Everything is said, because a published backbone brings defaults of its own (Qwen2.5: a repetition penalty of 1.05).
    if sampling.temperature == 0:
        return {"do_sample": False, "repetition_penalty": 1.0}
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return {"do_sample": True, "repetition_penalty": 1.0, **drawn}


def _seed(seed: int, id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:4], "big")


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]
