"""Decoding many answers to a few shared prompts: each answer sees its own tokens, and the prompt's, which are read in place.

The keys and values of the prompts stay where the first pass left them, a block for each group of prompts that share a
beginning (a dialogue's turns), and only what an answer has itself written is kept beside it: no copy with every token, and
no look at others' prompts.  The result is the same, up to the order of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class _Trunk:
    """What the running answers of one group see of the prompts: keys and values [kv heads, L, size] of each layer."""

    keys: list
    values: list
    seen: object
    """bool [answers, L]"""


class Branches:
    """The cache of ``n`` running answers, in the order of their prompts; the attention function writes and reads it."""

    def __init__(self, cache, seen, groups: Sequence[int]):
        """``cache``: of the pass over all prompts, transformers' DynamicCache.  ``seen``: bool [n, tokens of the pass].

        ``groups``: how many prompts stand in each group, in order; together ``n``.
        """
        import torch

        self.trunks = []
        for rows in seen.split(list(groups)):
            columns = rows.any(0).nonzero()[:, 0]
            keys = [layer.keys[0].index_select(1, columns) for layer in cache.layers]
            values = [layer.values[0].index_select(1, columns) for layer in cache.layers]
            self.trunks.append(_Trunk(keys, values, rows[:, columns]))
        nothing = torch.zeros(len(seen), *cache.layers[0].keys.shape[1:2], 0, cache.layers[0].keys.shape[3])
        self.own = [[nothing.to(layer.keys), nothing.to(layer.values)] for layer in cache.layers]

    def keep(self, going) -> None:
        """Only the answers where ``going`` [n] bool is true go on."""
        for trunk, rows in zip(self.trunks, going.split([len(trunk.seen) for trunk in self.trunks]), strict=True):
            trunk.seen = trunk.seen[rows]
        self.trunks = [trunk for trunk in self.trunks if len(trunk.seen)]
        self.own = [[part[going] for part in parts] for parts in self.own]

    def attend(self, layer: int, query, key, value, *, scaling: float, softcap: float | None = None):
        """One new token of each answer: query [1, heads, n, size], key and value [1, kv heads, n, size] -> [1, n, heads, size]."""
        import torch

        _, heads, n, size = query.shape
        new = [part[0].transpose(0, 1)[:, :, None] for part in (key, value)]  # [n, kv heads, 1, size]
        self.own[layer] = [torch.cat(pair, dim=2) for pair in zip(self.own[layer], new, strict=True)]
        own_keys, own_values = self.own[layer]
        # Query heads that share a key head stand side by side: [n, kv heads, group, size]
        query = query[0].transpose(0, 1).reshape(n, key.shape[1], -1, size) * scaling

        def read(scores, values):
            """(softmax of scores) @ values, and the logarithm of what the exponentials add up to."""
            scores = (softcap * torch.tanh(scores / softcap) if softcap else scores).float()
            highest = scores.amax(-1, keepdim=True)
            weights = scores.sub_(highest).exp_()
            total = weights.sum(-1, keepdim=True)
            return (weights.to(values.dtype) @ values) / total, highest + total.log()

        written, own = read(query @ own_keys.transpose(2, 3), own_values)  # [n, kv heads, group, size], [.., 1]
        parts = []
        for trunk, asking in zip(self.trunks, query.split([len(trunk.seen) for trunk in self.trunks]), strict=True):
            rows, group = asking.shape[0], asking.shape[2]
            flat = asking.permute(1, 0, 2, 3).reshape(-1, rows * group, size)
            hidden = ~trunk.seen.repeat_interleave(group, 0)
            scores = (flat @ trunk.keys[layer].transpose(1, 2)).masked_fill_(hidden, -torch.inf)
            parts.append([x.view(-1, rows, group, x.shape[-1]) for x in read(scores, trunk.values[layer])])
        prompt, whole = (torch.cat(part, dim=1).transpose(0, 1) for part in zip(*parts, strict=True))
        share = torch.sigmoid(whole - own)  # of the attention, what falls on the prompt
        return (share * prompt + (1 - share) * written).to(value.dtype).reshape(1, n, heads, size)
