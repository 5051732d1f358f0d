"""Many prompts and answers in one pass: whatever two of them share is read once.

The turns of a dialogue repeat each other: the prompt of turn k is, up to its last few tokens, a beginning of the prompt
of turn k+1.  Laid out as a tree of prefixes, every token stands once, below the tokens it follows:

    instruction - message 1 - message 2 - message 3 - …              the trunk: the dialogue, once
                           \\             \\
                            answer 1      answer 2                   a tail for every turn

A tree becomes one sequence by writing it down in preorder.  Each token keeps the position it has in its own prompt and
attends to its ancestors alone, so that the model computes for it what it would have computed there.  Depth is all that
has to be kept: a token's descendants are the tokens after it that lie deeper, up to the first that does not.  Several
trees one after the other are a forest and need nothing else, because each begins at depth 0.

Nothing here knows of dialogues: sharing is found by comparing tokens, and is exact whatever the layout, the tokenizer
and the context's length did to a prompt.  What can't be shared is read twice, and nothing changes but the time.

Where little is shared a tree grows long: the turns of a dialogue beyond the context's length are each cut at another
message.  ``split`` makes such a tree several, of a bounded number of tokens each, that are read one after the other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from decoupled_esc.errors import KnownError


class PackingError(KnownError, ValueError):
    """An example that can't be packed, or a sequence that a model can't read."""


@dataclass(frozen=True)
class Example:
    """A prompt and the answers to it whose log-probabilities are asked for, as token ids."""

    id: str
    prompt: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class Packed:
    """Examples as one sequence of ``L`` tokens, and where in it the ``P`` tokens of their answers are predicted."""

    tokens: list[int]
    """[L]"""
    depths: list[int]
    """[L] How many tokens are above each: its position in its own prompt, and the shape of the forest."""
    prompt_ends: list[int]
    """[examples] Where each example's prompt ends."""
    predict_positions: list[int]
    """[P] The index in ``tokens`` of the token before each token of an answer."""
    targets: list[int]
    """[P] The token that is asked for there."""
    completion_index: list[int]
    """[P] The answer it belongs to, counted over all answers of all examples."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return 1 + max(self.completion_index, default=-1)


def pack(examples: Sequence[Example]) -> Packed:
    """The tree of ``examples``.  An answer's last token is asked for and never read, so it has no place in it.

    Raises PackingError for an example without a prompt, or with an empty answer.
    """
    wanted: list[tuple[list[int], int, list[int]]] = []  # (what is read, completion or -1, answer)
    completion = 0
    for example in examples:
        if not example.prompt or not all(example.answers):
            raise PackingError(f"{example.id}: a prompt and each of its answers take at least one token")
        wanted.append((example.prompt, -1, []))
        for answer in example.answers:
            wanted.append((example.prompt + answer[:-1], completion, answer))
            completion += 1
    # Sorted, sequences that share a prefix are neighbours: each branches off the path of the one before it.
    order = sorted(range(len(wanted)), key=lambda n: wanted[n][0])
    tokens: list[int] = []
    depths: list[int] = []
    ends: dict[int, int] = {}
    places: list[list[int]] = [[] for _ in range(completion)]
    path: list[int] = []
    before: list[int] = []
    for n in order:
        read, completion, answer = wanted[n]
        shared = _common_prefix(before, read)
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(read) - shared))
        tokens += read[shared:]
        depths += range(shared, len(read))
        before = read
        if completion < 0:
            ends[n] = path[-1]
        else:
            places[completion] = path[len(read) - len(answer) :]
    answers = [answer for _, completion, answer in wanted if completion >= 0]
    return Packed(
        tokens,
        depths,
        prompt_ends=[ends[n] for n in sorted(ends)],
        predict_positions=[index for place in places for index in place],
        targets=[token for answer in answers for token in answer],
        completion_index=[completion for completion, answer in enumerate(answers) for _ in answer],
    )


def join(trees: Iterable[Packed]) -> Packed:
    """Several packed sequences as one forest; examples and answers keep their order."""
    joined = Packed([], [], [], [], [], [])
    for tree in trees:
        tokens, answers = len(joined.tokens), joined.answers
        joined.prompt_ends.extend(tokens + index for index in tree.prompt_ends)
        joined.predict_positions.extend(tokens + index for index in tree.predict_positions)
        joined.completion_index.extend(answers + completion for completion in tree.completion_index)
        joined.tokens.extend(tree.tokens)
        joined.depths.extend(tree.depths)
        joined.targets.extend(tree.targets)
    return joined


def groups(packed: Packed, budget: int, each: int = 0) -> Iterator[tuple[range, list[int]]]:
    """Examples in their order, as many at a time as fit, and the indices in ``tokens`` of the tree that they make.

    A group takes at most ``budget`` tokens, those of its tree and ``each`` more for every example, unless it is a
    single example that takes more by itself.  All examples have as many answers; raises PackingError where not.
    """
    examples = len(packed.prompt_ends)
    if len(packed) + each * examples <= budget:
        yield range(examples), list(range(len(packed)))
        return
    if packed.answers % examples:
        raise PackingError(f"{packed.answers} answers to {examples} prompts: all need as many")
    answers, above, path = packed.answers // examples, [], []
    for index, depth in enumerate(packed.depths):
        del path[depth:]
        above.append(path[-1] if path else -1)
        path.append(index)
    last = dict(zip(packed.completion_index, packed.predict_positions, strict=True))

    def added(example: int, to: set[int]) -> set[int]:
        found: set[int] = set()
        for index in (packed.prompt_ends[example], *(last[example * answers + n] for n in range(answers))):
            while index >= 0 and index not in to and index not in found:
                found.add(index)
                index = above[index]
        return found

    start, held = 0, set()
    for example in range(examples):
        new = added(example, held)
        if example > start and len(held) + len(new) + each * (example + 1 - start) > budget:
            yield range(start, example), sorted(held)
            start, held = example, set()
            new = added(example, held)
        held |= new
    yield range(start, examples), sorted(held)


def split(packed: Packed, budget: int) -> list[Packed]:
    """``packed`` as trees of at most ``budget`` tokens by :func:`groups`: its examples and answers, in their order."""
    if len(packed) <= budget:
        return [packed]
    parts, each = [], packed.answers // len(packed.prompt_ends)
    for examples, kept in groups(packed, budget):
        place = {index: n for n, index in enumerate(kept)}
        first = examples.start * each
        rows = slice(*(bisect_left(packed.completion_index, at * each) for at in (examples.start, examples.stop)))
        part = Packed(
            tokens=[packed.tokens[index] for index in kept],
            depths=[packed.depths[index] for index in kept],
            prompt_ends=[place[packed.prompt_ends[example]] for example in examples],
            predict_positions=[place[index] for index in packed.predict_positions[rows]],
            targets=packed.targets[rows],
            completion_index=[completion - first for completion in packed.completion_index[rows]],
        )
        parts.append(part)
    return parts


def subtree_ends(depths: Sequence[int]) -> list[int]:
    """[L] For each token the index after its last descendant: token i attends to token j where j <= i < end of j."""
    ends = [len(depths)] * len(depths)
    path: list[int] = []
    for index, depth in enumerate(depths):
        while path and depths[path[-1]] >= depth:
            ends[path.pop()] = index
        path.append(index)
    return ends


def attention_mask(depths: Sequence[int], device=None):
    """What each of ``L`` tokens attends to, as a bool tensor [1, 1, L, L] (query, key)."""
    import torch

    return ancestors(depths, torch.arange(len(depths), device=device))[None, None]


def ancestors(depths: Sequence[int], of):
    """What each of the tokens ``of`` [n] (a tensor of indices) attends to, itself included: bool [n, L]."""
    import torch

    ends = torch.tensor(subtree_ends(depths), device=of.device)
    index = torch.arange(len(depths), device=of.device)
    return (index[None, :] <= of[:, None]) & (of[:, None] < ends[None, :])


def answer_logps(model, packed: Packed):
    """[answers] float32: the log-probability of each answer of ``packed``, summed over its tokens, with gradient.

    The output layer runs at the ``P`` places where a token is asked for, and nowhere else.
    """
    import torch

    device = getattr(model, "module", model).device
    predict_positions, targets, completion_index = (
        torch.tensor(column, dtype=torch.long, device=device)
        for column in (packed.predict_positions, packed.targets, packed.completion_index)
    )
    logits = model(
        input_ids=torch.tensor([packed.tokens], device=device),
        position_ids=torch.tensor([packed.depths], device=device),
        logits_to_keep=predict_positions,
        use_cache=False,
        **attention(packed.depths, model),
    ).logits[0]
    logps = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return torch.zeros(packed.answers, device=device).index_add(0, completion_index, logps)


def logps_in_passes(model, passes: Sequence[Packed]):
    """[answers] float32: :func:`answer_logps` of one after another of ``passes``, with gradient.

    Of several, each is read again when its gradient is asked for, so that no more than one is held in memory; and a
    loss may be any function of all their answers.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    if len(passes) == 1 or not torch.is_grad_enabled():
        return torch.cat([answer_logps(model, packed) for packed in passes])
    # Of the device of its arguments, checkpoint restores the random numbers that dropout takes.
    here = torch.empty(0, device=getattr(model, "module", model).device)
    again = [lambda _, packed=packed: answer_logps(model, packed) for packed in passes]
    return torch.cat([checkpoint(read, here, use_reentrant=False) for read in again])


# How a model is told what attends to what ---------------------------------------------------------------------------

ATTENTION = "prefix_tree"
"""The name under which transformers knows :func:`tree_attention`; on anything but a packed sequence it is "sdpa"."""

CHUNK = 256
"""Queries that are attended from at once.  On two cores 128 and 384 were slower (bench/)."""


def register_attention() -> None:
    """Make ``attn_implementation="prefix_tree"`` known to transformers."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, tree_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def tree_attention(module, query, key, value, attention_mask, tree=None, branches=None, **kwargs):
    """Attention [1, L, heads, size] over a packed sequence, chunk by chunk of its queries.

    A chunk needs its own keys and those of its ancestors; all other tails are left out, not masked.  So time and memory
    grow with what is attended to, where one dense mask would make them grow with L squared.  ``tree`` comes from
    :func:`chunks`; without it this is transformers' "sdpa".  Where a model caps its scores (Gemma 2), which sdpa
    can't, they are computed in the open.  ``branches`` (`generate.branches`) holds what answers see as they are written.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if branches is not None:
        options = {name: kwargs[name] for name in ("scaling", "softcap") if kwargs.get(name)}
        return branches.attend(module.layer_idx, query, key, value, **options), None
    attend = _capped if kwargs.get("softcap") else sdpa_attention_forward
    if tree is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    keys, masks = tree
    queries, sizes = [mask.shape[2] for mask in masks], [mask.shape[3] for mask in masks]
    parts = zip(
        query.split(queries, 2), key.index_select(2, keys).split(sizes, 2), value.index_select(2, keys).split(sizes, 2),
        masks, strict=True,
    )  # fmt: skip
    return torch.cat([attend(module, *part, **kwargs)[0] for part in parts], dim=1), None


def _capped(module, query, key, value, attention_mask, *, softcap: float, scaling: float, **kwargs):
    """Attention whose scores are bounded, softcap * tanh(score / softcap); causal without a mask, as sdpa is."""
    import torch

    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    if attention_mask is None:
        queries, keys = scores.shape[-2:]
        attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    if attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


def chunks(depths: Sequence[int], device=None):
    """(indices [K] of the keys of all chunks, one after the other; a bool mask [1, 1, queries, keys] for each)."""
    import torch

    ends = torch.tensor(subtree_ends(depths))
    keys, masks = [], []
    for start in range(0, len(depths), CHUNK):
        query = torch.arange(start, min(start + CHUNK, len(depths)))
        # What has ended before the chunk begins is nobody's ancestor in it.
        key = torch.nonzero(ends[: start + CHUNK] > start)[:, 0]
        keys.append(key)
        masks.append(((key <= query[:, None]) & (query[:, None] < ends[key]))[None, None].to(device))
    return torch.cat(keys).to(device), masks


def attention(depths: Sequence[int], model) -> dict:
    """The arguments of ``model``'s forward pass that say what attends to what.

    Raises PackingError where a prompt is longer than a window beyond which the model's own attention does not look.
    """
    import torch

    if list(depths) == list(range(len(depths))):
        return {}  # a plain sequence
    model = getattr(model, "module", model)  # inside what spreads it over processes
    window = getattr(model.config, "sliding_window", None)
    if window and max(depths) >= window:
        raise PackingError(
            f"a prompt of {max(depths) + 1} tokens, and this model attends to {window}; lower max_length"
        )
    implementation = model.config._attn_implementation
    if implementation == ATTENTION:
        # A mask of four dimensions is taken as it is; without one, transformers makes L x L entries that nothing reads.
        return {"tree": chunks(depths, model.device), "attention_mask": torch.empty(1, 1, 1, 1, device=model.device)}
    if implementation == "flex_attention":
        return {"attention_mask": _block_mask(depths, model.device)}
    allowed = attention_mask(depths, model.device)
    added = torch.zeros(allowed.shape, dtype=model.dtype, device=model.device)
    return {"attention_mask": added.masked_fill(~allowed, -torch.inf)}


def _block_mask(depths: Sequence[int], device):
    """The mask as FlexAttention's BlockMask: what is empty in it is never computed on a GPU either."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    ends = torch.tensor(subtree_ends(depths), device=device)

    def attends(batch, head, query, key):
        return (key <= query) & (query < ends[key])

    return create_block_mask(attends, B=None, H=None, Q_LEN=len(depths), KV_LEN=len(depths), device=device)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    for length, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return length
    return min(len(a), len(b))
