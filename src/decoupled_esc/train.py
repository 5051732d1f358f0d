"""Supervised fine-tuning of the three roles on trl and peft, and the embedded model's pre-training.

Both go through trl's SFTTrainer with rows that are already tokenised, so that what is learned is decided here:
loss on the target alone, and contexts cut at turn boundaries.  A killed run resumes from its last checkpoint and
ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from decoupled_esc import progress
from decoupled_esc.corpus import Dialogue, Turn, chat_form
from decoupled_esc.prompts import Layout, Prompt, fit, ids, render

IGNORED = -100
"""The label that the loss leaves out."""


class Lora(BaseModel):
    """Low-rank adapters on every linear layer (DecoupledESC, appendix D.1: rank 16, alpha 16, dropout 0.05)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int
    alpha: int
    dropout: float


class Training(BaseModel):
    """How one model is trained.  ``lora: null`` trains all weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int
    learning_rate: float
    batch: int
    """Sequences per optimiser step."""
    micro_batch: int
    """Sequences per forward pass; the rest is gradient accumulation."""
    schedule: Literal["cosine", "linear", "constant"]
    warmup_share: float
    """Share of all optimiser steps over which the learning rate rises from 0."""
    lora: Lora | None
    precision: Literal["float32", "bfloat16"]
    checkpoint_every: int
    """Optimiser steps between checkpoints."""


@dataclass(frozen=True)
class Log:
    """What a training leaves behind besides its weights."""

    steps: tuple[dict, ...]
    """One entry a logged step: step, loss, learning_rate, tokens (seen so far)."""
    tokens: int
    """Tokens read over all epochs, context included."""
    target_tokens: int
    """Tokens that the loss was taken on, over all epochs."""
    trainable: int
    """Trainable parameters."""
    parameters: int


def encode(turns: Iterable[Turn], layout: Layout, tokenizer, window: int) -> tuple[list[dict], int]:
    """Rows ``{"id", "input_ids", "labels"}`` of at most ``window`` tokens, and how many turns were cut to fit.

    Labels are IGNORED on the prompt and equal ``input_ids`` on the target, end of turn included.
    """

    def count(prompt: Prompt) -> int:
        return sum(len(ids(part, tokenizer)) for part in render(prompt, tokenizer))

    rows, cut = [], 0
    for turn in turns:
        prompt, dropped = fit(turn, layout, count, window)
        cut += dropped > 0
        asked, answer = (ids(part, tokenizer) for part in render(prompt, tokenizer))
        rows.append({"id": turn.id, "input_ids": asked + answer, "labels": [IGNORED] * len(asked) + answer})
    return rows, cut


def encode_plain(dialogues: Iterable[Dialogue], tokenizer, block: int) -> list[dict]:
    """Blocks of ``block`` tokens of whole dialogues, one after the other, without tags or instruction; all learned."""
    stream: list[int] = []
    for dialogue in dialogues:
        messages = [
            {"role": "user" if m.role == "seeker" else "assistant", "content": m.text} for m in chat_form(dialogue)
        ]
        stream += ids(tokenizer.apply_chat_template(messages, tokenize=False), tokenizer)
    blocks = [stream[i : i + block] for i in range(0, len(stream) - 1, block)]
    return [{"id": str(n), "input_ids": tokens, "labels": list(tokens)} for n, tokens in enumerate(blocks)]


def fine_tune(model, tokenizer, rows: Sequence[dict], how: Training, folder: Path, *, seed: int) -> Log:
    """Train ``model`` on encoded ``rows``; the policy (adapter, or all weights) is saved to ``folder/policy``.

    Resumes from the last checkpoint under ``folder/checkpoints``.  Weights end the same on the same machine and thread
    count, interrupted or not.  Raises ValueError where ``how.batch`` is not a multiple of ``how.micro_batch``.
    """
    import torch
    from datasets import Dataset
    from trl import SFTConfig

    if how.batch % how.micro_batch:
        raise ValueError(f"batch {how.batch} is not a multiple of micro_batch {how.micro_batch}")
    steps = math.ceil(len(rows) / how.batch) * how.epochs
    checkpoints = folder / "checkpoints"
    config = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=how.epochs,
        learning_rate=how.learning_rate,
        per_device_train_batch_size=how.micro_batch,
        gradient_accumulation_steps=how.batch // how.micro_batch,
        lr_scheduler_type=how.schedule,
        warmup_steps=round(how.warmup_share * steps),
        bf16=how.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        include_num_input_tokens_seen="non_padding",  # kept in the checkpoints, unlike trl's own count
        logging_steps=max(1, steps // 100),
        save_steps=how.checkpoint_every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        packing=False,
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=True,
    )
    trainer = _trainer(how.batch, seed)(
        model=model,
        args=config,
        train_dataset=Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows]),
        processing_class=tokenizer,
        peft_config=_peft(how.lora),
        callbacks=[_progress(folder.name, steps)],
    )
    # Ours reports; trl's and transformers' own printing would fill the logs with one dictionary a step.
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
    trainer.model.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    seen = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Log(
        steps=tuple(
            {
                "step": entry["step"],
                "loss": entry["loss"],
                "learning_rate": entry["learning_rate"],
                "tokens": int(entry["num_input_tokens_seen"]),
            }
            for entry in seen
        ),
        tokens=how.epochs * sum(len(row["input_ids"]) for row in rows),
        target_tokens=how.epochs * sum(label != IGNORED for row in rows for label in row["labels"]),
        trainable=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )


def held_out_loss(model, rows: Sequence[dict]) -> float:
    """Mean cross-entropy in nats per learned token of encoded ``rows``, one row at a time."""
    import torch

    model.eval()
    total, tokens = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            labels = torch.tensor([row["labels"]], device=model.device)
            learned = int((labels[:, 1:] != IGNORED).sum())
            inputs = torch.tensor([row["input_ids"]], device=model.device)
            total += model(input_ids=inputs, labels=labels).loss.item() * learned
            tokens += learned
    return total / tokens


def _trainer(batch: int, seed: int):
    from transformers.trainer_pt_utils import DistributedLengthGroupedSampler
    from trl import SFTTrainer

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, train_dataset=None):
            # Similar lengths together: less padding.  The order of an epoch comes from seed and epoch alone; that of
            # "group_by_length" from the global generator, so that a run resumed in a later epoch would shuffle anew.
            return DistributedLengthGroupedSampler(batch, train_dataset or self.train_dataset, 1, 0, seed)

    return Trainer


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint under ``folder`` that was written to its end: the trainer's state is what comes last."""
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda c: int(c.name.split("-")[1]), reverse=True):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def _peft(lora: Lora | None):
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _progress(what: str, steps: int):
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = progress.bar(steps, what, initial=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update(state.global_step - self.bar.n)

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    return Progress()

