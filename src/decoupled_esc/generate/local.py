"""The transformers engine: a policy in this process.

``complete`` samples (or decodes greedily) from the KV cache of whole dialogues; ``score_choices`` gives the
log-probability of each of a few fixed answers.  Either reads what prompts share once.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import turn_trees

from decoupled_esc.generate.branches import Branches
from decoupled_esc.generate.engine import Completion, Sampling, TokenEngine, stream
from decoupled_esc.prompts import Prompt


class TransformersEngine(TokenEngine):
    """A causal language model and its tokenizer, answering the prompts of whole dialogues at once.

    The prompts of a batch are read as one tree of prefixes (``turn_trees``), so a dialogue is read once for all its turns.
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
        for _, group in itertools.groupby(prompts, key=_dialogue):
            dialogue = list(group)
            for turns, tree in turn_trees.groups(self._packed(dialogue), self.batch_tokens, new_tokens):
                takes = len(tree) + len(turns) * new_tokens
                if batch and size + takes > self.batch_tokens:
                    yield batch
                    batch, size = [], 0
                batch, size = batch + [dialogue[turn] for turn in turns], size + takes
        if batch:
            yield batch

    def score_choices(self, prompts, choices, *, whole=True) -> Iterator[tuple[list[str], np.ndarray]]:
        """See ``Engine``."""
        import torch

        answers = [self.encode_answer(prompts[0], choice, whole) for choice in choices] if prompts else []
        for batch in self.batches(prompts, sum(map(len, answers))):
            packed = self._packed(batch, answers)
            with torch.inference_mode():
                scores = turn_trees.answer_logps(self.model, packed).view(len(batch), len(choices))
            yield [prompt.id for prompt in batch], scores.cpu().numpy()

    def _packed(self, prompts: list[Prompt], answers: Sequence[list[int]] = ()):
        return turn_trees.pack(
            [turn_trees.Example(prompt.id, self.encode(prompt), list(answers)) for prompt in prompts]
        )

    def _sample(self, prompts: list[Prompt], sampling: Sampling, seed: int, purpose: str) -> list[Completion]:
        """Answers to all of ``prompts``, token by token side by side, each seeing its own prompt and answer alone."""
        import torch
        from transformers import DynamicCache

        device, choose = self.model.device, _decoder(sampling)
        packed = self._packed(prompts)
        ends = torch.tensor(packed.prompt_ends, device=device)
        position = torch.tensor(packed.depths, device=device)[ends]
        seen = turn_trees.ancestors(packed.depths, ends)
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
                **turn_trees.attention_kwargs(packed.depths, self.model),
            ).logits[0]
            dialogues = [len(list(turns)) for _, turns in itertools.groupby(prompts, key=_dialogue)]
            branches = Branches(cache, seen, dialogues)
            del cache, seen
            for step in range(sampling.max_new_tokens):
                tokens = choose(logits.float(), chance[running, step])
                for row, token in zip(running.tolist(), tokens.tolist(), strict=True):
                    printed[row].append(token)
                going = torch.tensor([token not in self._end for token in tokens.tolist()], device=device)
                if not going.all():
                    branches.keep(going)
                    running, tokens = running[going], tokens[going]
                if not len(running) or step + 1 == sampling.max_new_tokens:
                    break
                logits = self.model(
                    input_ids=tokens[None],
                    position_ids=(position[running] + step + 1)[None],
                    attention_mask=torch.empty(1, 1, 1, 1, device=device),  # taken as it is, and read by nothing
                    branches=branches,
                    use_cache=False,
                ).logits[0]
        finished = [row[-1] in self._end for row in printed]
        kept = [row[:-1] if ended else row for row, ended in zip(printed, finished, strict=True)]
        texts = [self.tokenizer.decode(row, skip_special_tokens=True) for row in kept]
        return list(map(Completion, [prompt.id for prompt in prompts], texts, map(len, printed), finished))


def _dialogue(prompt: Prompt) -> str:
    return prompt.id.rpartition("/")[0]


def _decoder(sampling: Sampling):
    """(logits [n, vocabulary], chance [n] in [0, 1)) -> tokens [n]."""
    import torch

    if sampling.temperature == 0:
        return lambda logits, chance: logits.argmax(-1)

    def sample(logits, chance):
        shares, tokens = torch.softmax(logits / sampling.temperature, -1), None
        if sampling.top_p < 1:
            shares, tokens = _nucleus(shares, sampling.top_p)
        below = shares.double().cumsum(-1)
        # The first token whose share of the line from 0 to 1 reaches beyond the chance.
        found = (below <= chance[:, None] * below[:, -1:]).sum(-1, keepdim=True).clamp(max=shares.shape[-1] - 1)
        return (found if tokens is None else tokens.gather(-1, found))[:, 0]

    return sample


LIKELY = 256
"""Of so many tokens most nuclei are made; to sort a whole vocabulary takes five times as long as to find them."""


def _nucleus(shares, top_p: float):
    """(shares, tokens) [n, k], falling: those tokens before which less than ``top_p`` lies; 0 for what is beyond.

    Holtzman et al. 2020; as transformers' TopPLogitsWarper.
    """
    import torch

    top, tokens = shares.topk(min(LIKELY, shares.shape[-1]))
    wide = top.sum(-1) < top_p
    if wide.any():
        whole = shares.shape[-1] - top.shape[-1]
        top, tokens = torch.nn.functional.pad(top, (0, whole)), torch.nn.functional.pad(tokens, (0, whole))
        top[wide], tokens[wide] = shares[wide].sort(descending=True)
    return top * ((top.cumsum(-1) - top) < top_p), tokens
