"""The transformers engine: a policy in this process.

``complete`` samples (or decodes greedily) from the KV cache of whole dialogues; ``score_choices`` gives the
log-probability of each of a few fixed answers.  Either reads what prompts share once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from decoupled_esc.generate.engine import Completion, Sampling, TokenEngine, stream
from decoupled_esc.packing import Example, answer_logps, attention, attention_mask, groups, pack
from decoupled_esc.prompts import Prompt


class TransformersEngine(TokenEngine):
    """A causal language model and its tokenizer, answering the prompts of whole dialogues at once.

    The prompts of a batch are read as one tree of prefixes (``packing``), so a dialogue is read once for all its turns.
    ``batch_tokens`` bounds what a batch reads and writes, and with it the memory.
    """

    def __init__(self, model, tokenizer, *, batch_tokens: int):
        super().__init__(tokenizer)
        self.model, self.batch_tokens = model.eval(), batch_tokens
        ends = model.generation_config.eos_token_id
        self._end = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def complete(self, prompts, sampling, *, seed, purpose, done=frozenset()) -> Iterator[list[Completion]]:
        """See ``Engine``.  Batches whose ids are all in ``done`` are skipped.

        Neither a resumed run nor another batch composition changes what is sampled.
        """
        for batch in self.batches(prompts, sampling.max_new_tokens):
            if not all(prompt.id in done for prompt in batch):
                yield self._sample(batch, sampling, seed, purpose)

    def batches(self, prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[Prompt]]:
        """Prompts of whole dialogues, as many as fit in ``batch_tokens``; a dialogue too long for that is divided.

        A dialogue is a run of prompts whose ids agree up to the last slash.  Counted is the tree of the prompts, and
        ``new_tokens`` for each of them.
        """
        batch: list[Prompt] = []
        size = 0
        for _, group in itertools.groupby(prompts, key=lambda prompt: prompt.id.rpartition("/")[0]):
            dialogue = list(group)
            for turns, tree in groups(self._packed(dialogue), self.batch_tokens, new_tokens):
                takes = len(tree) + len(turns) * new_tokens
                if batch and size + takes > self.batch_tokens:
                    yield batch
                    batch, size = [], 0
                batch, size = batch + [dialogue[turn] for turn in turns], size + takes
        if batch:
            yield batch

    def score_choices(self, prompts, choices) -> Iterator[tuple[list[str], np.ndarray]]:
        """See ``Engine``."""
        import torch

        answers = [self.encode_answer(prompts[0], choice) for choice in choices] if prompts else []
        for batch in self.batches(prompts, sum(map(len, answers))):
            packed = self._packed(batch, answers)
            with torch.inference_mode():
                scores = answer_logps(self.model, packed).view(len(batch), len(choices))
            yield [prompt.id for prompt in batch], scores.cpu().numpy()

    def _packed(self, prompts: list[Prompt], answers: Sequence[list[int]] = ()):
        return pack([Example(prompt.id, self.encode(prompt), list(answers)) for prompt in prompts])

    def _sample(self, prompts: list[Prompt], sampling: Sampling, seed: int, purpose: str) -> list[Completion]:
        """Answers to all of ``prompts``, token by token side by side, each seeing its own prompt and answer alone."""
        import torch
        from transformers import DynamicCache

        device, choose = self.model.device, _decoder(sampling)
        packed = self._packed(prompts)
        ends = torch.tensor(packed.prompt_ends, device=device)
        position = torch.tensor(packed.depths, device=device)[ends]
        seen = attention_mask(packed.depths, device)[0, 0, ends]  # [prompts, everything in the cache]
        streams = [np.random.default_rng(stream(seed, purpose, prompt.id, 8)) for prompt in prompts]
        chance = torch.tensor(np.stack([one.random(sampling.max_new_tokens) for one in streams]), device=device)
        printed: list[list[int]] = [[] for _ in prompts]
        running = torch.arange(len(prompts), device=device)
        cache = DynamicCache()  # of no particular model's shape, which might forget what lies far back in the row
        with torch.inference_mode():
            logits = self.model(
                input_ids=torch.tensor([packed.tokens], device=device),
                position_ids=torch.tensor([packed.depths], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=ends,
                **attention(packed.depths, self.model),
            ).logits[0]
            for step in range(sampling.max_new_tokens):
                tokens = choose(logits.float(), chance[running, step])
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
        finished = [row[-1] in self._end for row in printed]
        kept = [row[:-1] if ended else row for row, ended in zip(printed, finished, strict=True)]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in kept]
        return list(map(Completion, [prompt.id for prompt in prompts], texts, map(len, printed), finished))


def _decoder(sampling: Sampling):
    """(logits [n, vocabulary], chance [n] in [0, 1)) -> tokens [n]."""
    import torch
    from transformers import TemperatureLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return lambda logits, chance: logits.argmax(-1)
    warpers = [TemperatureLogitsWarper(sampling.temperature), TopPLogitsWarper(sampling.top_p)]

    def sample(logits, chance):
        for warper in warpers:
            logits = warper(None, logits)
        below = torch.softmax(logits.double(), -1).cumsum(-1)
        # The first token whose share of the line from 0 to 1 reaches beyond the chance.
        return (below <= chance[:, None] * below[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)

    return sample
