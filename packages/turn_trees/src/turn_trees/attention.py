"""Reading a tree: what attends to what, in chunks of queries on a CPU and by FlexAttention on a GPU, and the answers' logps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from turn_trees.trees import Packed, PackingError, subtree_ends

ATTENTION = "prefix_tree"  # the name under which transformers knows ``tree_attention``
CHUNK = 256  # queries that are attended from at once; on two cores 128 and 384 were slower


def use_tree_attention(model, device: str = "cpu") -> None:
    """``model`` (an adapter's base, too) reads trees by FlexAttention on "cuda", by :func:`tree_attention` elsewhere."""
    model = model.get_base_model() if hasattr(model, "peft_config") else model
    model.set_attn_implementation("flex_attention" if device == "cuda" else ATTENTION)


def attention_mask(depths: Sequence[int], device=None) -> Tensor:
    """What each of ``L`` tokens attends to, as a bool tensor [1, 1, L, L] (query, key)."""
    return ancestors(depths, torch.arange(len(depths), device=device))[None, None]


def ancestors(depths: Sequence[int], of: Tensor) -> Tensor:
    """What each of the tokens ``of`` [n] (a tensor of indices) attends to, itself included: bool [n, L]."""
    ends = torch.tensor(subtree_ends(depths), device=of.device)
    index = torch.arange(len(depths), device=of.device)
    return (index[None, :] <= of[:, None]) & (of[:, None] < ends[None, :])


def attention_kwargs(depths: Sequence[int], model) -> dict[str, Any]:
    """What tells ``model``'s forward pass what attends to what.  Raises PackingError beyond the window it attends to."""
    if list(depths) == list(range(len(depths))):
        return {}
    model = getattr(model, "module", model)  # inside what spreads it over processes
    window, longest = getattr(model.config, "sliding_window", None), max(depths) + 1
    if window and longest > window:
        raise PackingError(f"a prompt of {longest} tokens, and this model attends to {window}; lower max_length")
    implementation = model.config._attn_implementation
    if implementation == ATTENTION:
        # A mask of four dimensions is taken as it is; without one, transformers makes L x L entries that nothing reads.
        return {"tree": chunks(depths, model.device), "attention_mask": torch.empty(1, 1, 1, 1, device=model.device)}
    if implementation == "flex_attention":
        ends, length = torch.tensor(subtree_ends(depths), device=model.device), len(depths)
        attends = lambda batch, head, query, key: (key <= query) & (query < ends[key])
        # What is empty in a BlockMask is never computed on a GPU either.
        return {"attention_mask": create_block_mask(attends, None, None, length, length, model.device)}
    hidden = ~attention_mask(depths, model.device)
    return {"attention_mask": torch.zeros_like(hidden, dtype=model.dtype).masked_fill(hidden, -torch.inf)}


def tree_attention(module, query, key, value, attention_mask, tree=None, branches=None, **kwargs):
    """Attention [1, L, heads, size] over a packed sequence, chunk by chunk of its queries.

    A chunk needs its own keys and those of its ancestors; all other tails are left out, not masked.  So time and memory
    grow with what is attended to, and not with L squared.  ``tree`` comes from :func:`chunks`; without it this is "sdpa".
    Where a model caps its scores (Gemma 2), which sdpa can't, they are computed in the open.  ``branches``, a cache of
    the caller's for answers that are being sampled, attends in place of all this.
    """
    if branches is not None:
        options = {name: kwargs[name] for name in ("scaling", "softcap") if kwargs.get(name)}
        return branches.attend(module.layer_idx, query, key, value, **options), None
    attend = _capped if kwargs.get("softcap") else sdpa_attention_forward
    if tree is None:
        return attend(module, query, key, value, attention_mask, **kwargs)
    keys, masks = tree
    queries, sizes = [mask.shape[2] for mask in masks], [mask.shape[3] for mask in masks]
    of_keys, of_values = (part.index_select(2, keys).split(sizes, 2) for part in (key, value))
    parts = zip(query.split(queries, 2), of_keys, of_values, masks, strict=True)
    return torch.cat([attend(module, *part, **kwargs)[0] for part in parts], dim=1), None


def _capped(module, query, key, value, attention_mask, *, softcap: float, scaling: float, **kwargs):
    """Attention whose scores are bounded, softcap * tanh(score / softcap); causal without a mask, as sdpa is."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    if attention_mask is None:
        queries, keys = scores.shape[-2:]
        attention_mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    allows = attention_mask.dtype == torch.bool
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min) if allows else scores + attention_mask
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2).contiguous(), None


def chunks(depths: Sequence[int], device=None) -> tuple[Tensor, list[Tensor]]:
    """(indices [K] of the keys of all chunks, one after the other; a bool mask [1, 1, queries, keys] for each)."""
    ends, keys, masks = torch.tensor(subtree_ends(depths)), [], []
    for start in range(0, len(depths), CHUNK):
        query = torch.arange(start, min(start + CHUNK, len(depths)))
        # What has ended before the chunk begins is nobody's ancestor in it.
        key = torch.nonzero(ends[: start + CHUNK] > start)[:, 0]
        keys.append(key)
        masks.append(((key <= query[:, None]) & (query[:, None] < ends[key]))[None, None].to(device))
    return torch.cat(keys).to(device), masks


def answer_logits(model, packed: Packed) -> Tensor:
    """[P, vocabulary]: what ``model`` predicts where an answer's token is asked for; the output layer runs there alone."""
    device = getattr(model, "module", model).device
    return model(
        input_ids=torch.tensor([packed.tokens], device=device),
        position_ids=torch.tensor([packed.depths], device=device),
        logits_to_keep=torch.tensor(packed.predict_positions, dtype=torch.long, device=device),
        use_cache=False,
        **attention_kwargs(packed.depths, model),
    ).logits[0]


def answer_logps(model, packed: Packed, logits: Tensor | None = None) -> Tensor:
    """[answers] float32: the log-probability of each answer, summed over its tokens, with gradient; ``logits``: if at hand."""
    logits = answer_logits(model, packed) if logits is None else logits
    columns = (packed.targets, packed.completion_index)
    targets, completion_index = (torch.tensor(column, dtype=torch.long, device=logits.device) for column in columns)
    logps = -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return torch.zeros(packed.answers, device=logits.device).index_add(0, completion_index, logps)


def logps_in_passes(model, passes: Sequence[Packed]) -> Tensor:
    """[answers] float32: :func:`answer_logps` of one after another of ``passes``, with gradient.

    Of several, each is read again when its gradient is asked for, so that no more than one is held in memory.
    """
    if len(passes) == 1 or not torch.is_grad_enabled():
        return torch.cat([answer_logps(model, packed) for packed in passes])
    # Of the device of its arguments, checkpoint restores the random numbers that dropout takes.
    here = torch.empty(0, device=getattr(model, "module", model).device)
    again = [lambda _, packed=packed: answer_logps(model, packed) for packed in passes]
    return torch.cat([checkpoint(read, here, use_reentrant=False) for read in again])


def frozen_logps(model, passes: Sequence[Packed], precision: str = "float32") -> Tensor:
    """[answers] float32: ``logps_in_passes`` without dropout or gradient; by autocast where ``precision`` is "bfloat16"."""
    was_training = model.training
    model.eval()
    with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        logps = logps_in_passes(model, passes)
    model.train(was_training)
    return logps


# Whoever imports this can ask transformers for it by name.
AttentionInterface.register(ATTENTION, tree_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
