"""Pre-training of a small base model: next-token prediction on open text, before any tag or instruction.

    decoupled-esc pretrain esc-nano      # or esc-base; data/<name>/recipe.yaml is what is followed

A stream of passages is cut into blocks, and transformers' Trainer reads them once, in order.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, PositiveInt

from decoupled_esc import taxonomy
from decoupled_esc.corpus.open_text import Passage
from decoupled_esc.models import Shape, train_tokenizer
from decoupled_esc.prompts import ids
from decoupled_esc.train import checkpoints
from decoupled_esc.train.config import STRICT, Share, TrainingError


class Recipe(BaseModel):
    """How a base model is made: shape, text and schedule."""

    model_config = STRICT | ConfigDict(strict=True)

    description: str
    shape: Shape
    seed: int
    repeats: dict[str, PositiveInt]
    """How often each source is read."""
    block: PositiveInt
    """Tokens per sequence."""
    batch_size: PositiveInt
    """Sequences per optimiser step."""
    learning_rate: PositiveFloat
    """The highest; it rises from 0 over ``warmup_ratio`` of the steps and falls to 0 along a cosine."""
    warmup_ratio: Share
    weight_decay: NonNegativeFloat
    precision: Literal["float32", "bfloat16"]
    """bfloat16: forward and backward pass under autocast, float32 weights and optimiser."""
    checkpoint_every: PositiveInt
    """Optimiser steps between checkpoints."""


@dataclass(frozen=True)
class PretrainingLog:
    """What a pre-training leaves behind besides its weights."""

    steps: tuple[dict, ...]
    """About a hundred entries: step, loss (nats per token, mean since the entry or the restart before), learning_rate,
    grad_norm, tokens (read so far)."""
    tokens: int
    """Tokens read, repeats included."""
    parameters: int
    """Trained parameters; a shared embedding counts once."""


def base_tokenizer(passages: Iterable[Passage], vocabulary: int):
    """A byte-level BPE tokenizer from the text of ``passages``.

    The strategies' names are words of the vocabulary, as for any large model, but no passage shows them as tags.
    """
    names = [f" {word}" for name in taxonomy.STRATEGIES for word in name.split()]
    texts = [message.text for passage in passages for message in passage.messages]
    return train_tokenizer(texts + [*taxonomy.STRATEGIES, *names] * 100, vocabulary)


def mixed(passages: Sequence[Passage], repeats: Mapping[str, int], seed: int) -> list[Passage]:
    """``passages`` as often as ``repeats`` says, each source spread evenly, in an order sampled from ``seed``.

    Raises TrainingError for a source that ``repeats`` does not name, or that no passage has.
    """
    found = {passage.source for passage in passages}
    if found != set(repeats):
        raise TrainingError(f"repeats names {sorted(repeats)}, and the text has {sorted(found)}")
    generator = random.Random(seed)
    placed = [
        ((time + generator.random()) / repeats[passage.source], number)
        for number, passage in enumerate(passages)
        for time in range(repeats[passage.source])
    ]
    return [passages[number] for _, number in sorted(placed)]


def blocks(passages: Sequence[Passage], tokenizer, block: int) -> list[list[int]]:
    """The passages in the chat template, one after the other with a separator before each, cut into ``block`` tokens.

    What is left at the end, less than a block, is dropped.
    """
    stream: list[int] = []
    known: dict[str, list[int]] = {}  # a repeated passage is tokenised once
    for passage in passages:
        if passage.id not in known:
            known[passage.id] = [tokenizer.pad_token_id, *passage_ids(passage, tokenizer)]
        stream += known[passage.id]
    return [stream[i : i + block] for i in range(0, len(stream) - block + 1, block)]


def passage_ids(passage: Passage, tokenizer) -> list[int]:
    """Token ids of ``passage`` in the chat template, the seeker as user and the supporter as assistant."""
    messages = [
        {"role": "user" if m.role == "seeker" else "assistant", "content": m.text} for m in passage.messages
    ]  # fmt: skip
    return ids(tokenizer.apply_chat_template(messages, tokenize=False), tokenizer)


def pretrain(model, tokenizer, sequences: Sequence[Sequence[int]], recipe: Recipe, folder: Path) -> PretrainingLog:
    """Train all weights of ``model`` on ``sequences``, once and in order; the model is saved to ``folder/policy``.

    An interrupted run goes on from its last checkpoint under ``folder/checkpoints`` and ends with the same weights.
    """
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments

    steps = -(-len(sequences) // recipe.batch_size)
    key = hashlib.sha256(f"{recipe.model_dump_json()} {[list(row) for row in sequences]}".encode()).hexdigest()
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup_ratio * steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=recipe.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        include_num_input_tokens_seen="all",
        logging_steps=max(1, steps // 100),
        save_steps=recipe.checkpoint_every,
        save_total_limit=checkpoints.KEPT,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=sequences,
        data_collator=_collate,
        callbacks=[checkpoints.callback(folder.name, steps, key)],
    )
    trainer.remove_callback(PrinterCallback)
    with checkpoints.no_space_is_said(folder):
        trainer.train(resume_from_checkpoint=checkpoints.last_checkpoint(folder / "checkpoints", key))
        trainer.model.save_pretrained(folder / "policy")
        tokenizer.save_pretrained(folder / "policy")
    keys = ("step", "loss", "learning_rate", "grad_norm")
    return PretrainingLog(
        steps=tuple(
            {**{key: entry[key] for key in keys}, "tokens": int(entry["num_input_tokens_seen"])}
            for entry in trainer.state.log_history
            if "loss" in entry
        ),
        tokens=sum(map(len, sequences)),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )


def perplexity(model, tokenizer, passages: Sequence[Passage], context: int) -> dict[str, float]:
    """``{"tokens", "bytes", "nats_per_token", "perplexity", "bits_per_byte"}`` of ``passages``, each read by itself.

    A passage longer than ``context`` tokens is read in pieces.  Bits per byte can be compared between tokenizers; the
    bytes are those of the messages' text, and the chat template's marks count among the tokens alone.
    """
    import torch

    nats, tokens, size = 0.0, 0, 0
    model.eval()
    with torch.inference_mode():
        for passage in passages:
            row = [tokenizer.pad_token_id, *passage_ids(passage, tokenizer)]
            size += sum(len(message.text.encode()) for message in passage.messages)
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


def _collate(rows: list[Sequence[int]]) -> dict:
    """``input_ids`` and ``labels``, both [batch, block]: the model itself shifts the labels."""
    import torch

    tokens = torch.tensor(rows)
    return {"input_ids": tokens, "labels": tokens}
