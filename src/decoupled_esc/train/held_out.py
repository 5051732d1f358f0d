"""What a policy thinks of held-out answers, and how far it has moved from the one it started from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import turn_trees

from decoupled_esc.corpus import Message
from decoupled_esc.prompts import ids
from decoupled_esc.train.data import Sequences


def held_out_loss(model, sequences: Sequences) -> float:
    """Mean cross-entropy in nats per learned token of ``sequences``, one pass at a time."""
    import torch

    model.eval()
    with torch.inference_mode():
        total = sum(turn_trees.logps_in_passes(model, passes).double().sum().item() for passes in sequences.passes)
    return -total / sequences.target_tokens


def compared(policy, reference, sequences: Sequences) -> dict[str, float]:
    """Both models' `held_out_loss`, each read once, and how far the policy is from the reference.

    ``held_out_loss`` and ``held_out_loss_before`` (the reference's), in nats per learned token; ``divergence``: mean
    KL(policy || reference) in nats per answer token, exact over the vocabulary, along the answers.  Human references, not
    samples of the policy, decide where it is taken: it says how differently the two would go on from where a human has
    come so far.  0 where they are the same.
    """
    import torch

    policy.eval()
    reference.eval()
    said, divergence = [0.0, 0.0], 0.0
    with torch.inference_mode():
        for passes in sequences.passes:
            logps: tuple[list, list] = ([], [])
            for packed in passes:
                both = [turn_trees.answer_logits(model, packed) for model in (policy, reference)]
                for model, found, logits in zip((policy, reference), logps, both, strict=True):
                    found.append(turn_trees.answer_logps(model, packed, logits))
                ours, theirs = (torch.log_softmax(logits.double(), -1) for logits in both)
                divergence += (ours.exp() * (ours - theirs)).sum().item()
            for n, found in enumerate(logps):
                said[n] += torch.cat(found).double().sum().item()
    losses = {name: -total / sequences.target_tokens for name, total in zip(LOSSES, said, strict=True)}
    return losses | {"divergence": divergence / sequences.target_tokens}


LOSSES = ("held_out_loss", "held_out_loss_before")


def conversation_ids(messages: Sequence[Message], tokenizer) -> list[int]:
    """Token ids of a conversation in the chat template, the seeker as user and the supporter as assistant, after a separator.

    A template that adds a system message of its own where none is given (SmolLM2's) adds none here.
    """
    chat = [{"role": "user" if m.role == "seeker" else "assistant", "content": m.text} for m in messages]
    system = [{"role": "system", "content": ""}]
    empty, said = (tokenizer.apply_chat_template(some, tokenize=False) for some in (system, [*system, *chat]))
    return [tokenizer.pad_token_id, *ids(said.removeprefix(empty), tokenizer)]


def perplexity(model, tokenizer, conversations: Sequence[Sequence[Message]], context: int) -> dict[str, float]:
    """``{"tokens", "bytes", "nats_per_token", "perplexity", "bits_per_byte"}`` of ``conversations``, each read by itself.

    One longer than ``context`` tokens is read in pieces.  Bits per byte can be compared between tokenizers; the bytes are those
    of the messages' text, and the chat template's marks count among the tokens alone.
    """
    import torch

    nats, tokens, size = 0.0, 0, 0
    model.eval()
    with torch.inference_mode():
        for messages in conversations:
            row = conversation_ids(messages, tokenizer)
            size += sum(len(message.text.encode()) for message in messages)
            for start in range(0, len(row) - 1, context - 1):
                piece = torch.tensor([row[start : start + context]], device=model.device)
                logits = model(input_ids=piece, use_cache=False).logits[0, :-1].float()
                nats += torch.nn.functional.cross_entropy(logits, piece[0, 1:], reduction="sum").double().item()
                tokens += piece.shape[1] - 1
    return {
        "tokens": tokens,
        "bytes": size,
        "nats_per_token": nats / tokens,
        "perplexity": math.exp(nats / tokens),
        "bits_per_byte": nats / math.log(2) / size,
    }
