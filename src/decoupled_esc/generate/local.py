"""Replies and strategy scores from a policy: the transformers engine.

``complete`` samples (or decodes greedily) from the KV cache of whole dialogues; ``score_choices`` gives the
log-probability of each of a few fixed answers.  Either reads what prompts share once.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict

from decoupled_esc.packing import Example, answer_logps, attention, attention_mask, pack
from decoupled_esc.prompts import Prompt, chat_for, ids, render


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
    """A causal language model and its tokenizer, answering the prompts of whole dialogues at once.

    The prompts of a batch are read as one tree of prefixes (``packing``), so a dialogue is read once for all its turns.
    ``batch_tokens`` bounds what a batch reads and writes, and with it the memory.
    """

    def __init__(self, model, tokenizer, *, batch_tokens: int):
        self.model, self.tokenizer, self.batch_tokens = model.eval(), tokenizer, batch_tokens
        self._end = {tokenizer.eos_token_id, *_as_list(model.generation_config.eos_token_id)} - {None}

    def count(self, prompt: Prompt) -> int:
        """Tokens of ``prompt`` as the model reads it, target left out."""
        return len(self._encode(prompt))

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, seed: int, done: frozenset[str] = frozenset()
    ) -> Iterator[list[Completion]]:
        """One completion a prompt, yielded a batch at a time; batches whose ids are all in ``done`` are skipped.

        A prompt's random numbers come from ``seed`` and its id alone: neither a resumed run nor other company in the
        batch changes what is drawn.
        """
        for batch in self.batches(prompts, sampling.max_new_tokens):
            if not all(prompt.id in done for prompt in batch):
                yield self._sample(batch, sampling, seed)

    def batches(self, prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[Prompt]]:
        """Prompts of whole dialogues, as many as fit in ``batch_tokens``; a dialogue too long for that gets its own.

        A dialogue is a run of prompts whose ids agree up to the last slash.  Counted is the tree of the prompts, and
        ``new_tokens`` for each of them.
        """
        batch: list[Prompt] = []
        size = 0
        for _, group in itertools.groupby(prompts, key=lambda prompt: prompt.id.rpartition("/")[0]):
            dialogue = list(group)
            takes = len(pack([self._example(prompt) for prompt in dialogue])) + len(dialogue) * new_tokens
            if batch and size + takes > self.batch_tokens:
                yield batch
                batch, size = [], 0
            batch, size = batch + dialogue, size + takes
        if batch:
            yield batch

    def score_choices(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """(ids, log-probabilities float32 [batch, len(choices)]) a batch at a time.

        The log-probability of a choice is the sum over its tokens, end of turn included, given the prompt.  Nothing is
        normalised over the choices.
        """
        import torch

        answers = [self._answer(prompts[0], choice) for choice in choices] if prompts else []
        for batch in self.batches(prompts, sum(map(len, answers))):
            packed = pack([Example(prompt.id, self._encode(prompt), answers) for prompt in batch])
            with torch.inference_mode():
                scores = answer_logps(self.model, packed).view(len(batch), len(choices))
            yield [prompt.id for prompt in batch], scores.cpu().numpy()

    def _sample(self, prompts: list[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        """Answers to all of ``prompts``, token by token side by side, each seeing its own prompt and answer alone."""
        import torch
        from transformers import DynamicCache

        device, draw = self.model.device, _decoder(sampling)
        packed = pack([self._example(prompt) for prompt in prompts])
        asked = torch.tensor(packed.asked, device=device)
        position = torch.tensor(packed.depths, device=device)[asked]
        seen = attention_mask(packed.depths, device)[0, 0, asked]  # [prompts, everything in the cache]
        chance = np.stack([_generator(seed, prompt.id).random(sampling.max_new_tokens) for prompt in prompts])
        chance = torch.tensor(chance, device=device)
        printed: list[list[int]] = [[] for _ in prompts]
        running = torch.arange(len(prompts), device=device)
        cache = DynamicCache()  # of no particular model's shape, which might forget what lies far back in the row
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([packed.tokens], device=device),
                position_ids=torch.tensor([packed.depths], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=asked,
                **attention(packed.depths, self.model),
            ).logits[0]
            for step in range(sampling.max_new_tokens):
                tokens = draw(logits.float(), chance[running, step])
                for row, token in zip(running.tolist(), tokens.tolist(), strict=True):
                    printed[row].append(token)
                going = torch.tensor([token not in self._end for token in tokens.tolist()], device=device)
                running, tokens = running[going], tokens[going]
                if not len(running) or step + 1 == sampling.max_new_tokens:
                    break
                own = torch.zeros(len(prompts), len(running), dtype=torch.bool, device=device)
                own[running, torch.arange(len(running), device=device)] = True
                seen = torch.cat([seen, own], dim=1)
                logits = self.model(
                    input_ids=tokens[None],
                    position_ids=(position[running] + step + 1)[None],
                    attention_mask=seen[running][None, None],
                    past_key_values=cache,
                    use_cache=True,
                ).logits[0]
        return [self._completion(prompt, row) for prompt, row in zip(prompts, printed, strict=True)]

    def _encode(self, prompt: Prompt) -> list[int]:
        text = self.tokenizer.apply_chat_template(chat_for(prompt, self.tokenizer), add_generation_prompt=True, tokenize=False)
        return ids(text, self.tokenizer)

    def _example(self, prompt: Prompt) -> Example:
        return Example(prompt.id, self._encode(prompt), [])

    def _answer(self, prompt: Prompt, choice: str) -> list[int]:
        """The token ids of ``choice`` as an answer, end of turn included: the same after every prompt."""
        _, text = render(Prompt(prompt.id, prompt.messages, choice), self.tokenizer)
        return ids(text, self.tokenizer)

    def _completion(self, prompt: Prompt, tokens: list[int]) -> Completion:
        finished = tokens[-1] in self._end
        text = self.tokenizer.decode(tokens[:-1] if finished else tokens, skip_special_tokens=True)
        return Completion(prompt.id, text, len(tokens), finished)


def _decoder(sampling: Sampling):
    """(logits [n, vocabulary], chance [n] in [0, 1)) -> tokens [n]."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return lambda logits, chance: logits.argmax(-1)
    warpers = [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]

    def draw(logits, chance):
        for warper in warpers:
            logits = warper(None, logits)
        below = torch.softmax(logits.double(), -1).cumsum(-1)
        # The first token whose share of the line from 0 to 1 reaches beyond the chance.
        return (below <= chance[:, None] * below[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)

    return draw


def _generator(seed: int, id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:8], "big"))


def _as_list(value) -> list:
    return value if isinstance(value, list) else [value]
