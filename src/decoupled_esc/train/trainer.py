"""Supervised fine-tuning and preference optimisation of packed sequences, on trl's SFTTrainer and peft.

The trainer is trl's but for what a batch is (a forest of packed sequences) and what its loss is (a function of the
answers' log-probabilities).  Checkpoints, logging, adapters and devices stay trl's, transformers', peft's and
accelerate's.  A killed run resumes from its last checkpoint and ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from decoupled_esc import progress
from decoupled_esc.packing import Packed, answer_logps, join
from decoupled_esc.train import losses
from decoupled_esc.train.data import Sequences
from decoupled_esc.train.reference import frozen_logps


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
    """Sequences per optimiser step: dialogues, or turns where the layout is one that can't be packed."""
    micro_batch: int
    """Sequences per forward pass; the rest is gradient accumulation."""
    schedule: Literal["cosine", "linear", "constant"]
    warmup_share: float
    """Share of all optimiser steps over which the learning rate rises from 0."""
    lora: Lora | None
    precision: Literal["float32", "bfloat16"]
    checkpoint_every: int
    """Optimiser steps between checkpoints."""


class Preference(BaseModel):
    """Which preference loss, and its constants.  The losses are those of :mod:`decoupled_esc.train.losses`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: Literal["dpo", "ipo", "simpo", "kto", "orpo"]
    beta: float
    gamma: float = 0.0
    """SimPO's margin."""
    chosen_weight: float = 1.0
    """KTO's."""
    rejected_weight: float = 1.0
    """KTO's."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with the one that training started from."""
        return self.loss in ("dpo", "ipo", "kto")


@dataclass(frozen=True)
class Log:
    """What a training leaves behind besides its weights."""

    steps: tuple[dict, ...]
    """One entry a logged step: step, loss, learning_rate, tokens (seen so far); with a reference also the mean rewards
    of chosen and rejected answers and the share of pairs whose chosen answer has the higher one."""
    tokens: int
    """Tokens read over all epochs, context included."""
    tokens_apart: int
    """Tokens that would have been read with one sequence for every answer."""
    target_tokens: int
    """Tokens that the loss was taken on, over all epochs."""
    trainable: int
    """Trainable parameters."""
    parameters: int


class ReferenceMismatch(ValueError):
    """The reference log-probabilities are not those of the policy that training starts from."""


def fine_tune(
    model,
    tokenizer,
    sequences: Sequences,
    how: Training,
    folder: Path,
    *,
    seed: int,
    preference: Preference | None = None,
    reference: Sequence[Sequence[float]] | None = None,
) -> Log:
    """Train ``model`` on ``sequences``; the policy (adapter, or all weights) is saved to ``folder/policy``.

    Without ``preference`` the loss is the cross-entropy of the targets, averaged over the target tokens of an optimiser
    step; with it the preference loss, averaged over its pairs, with dropout off.  A model that already carries an
    adapter goes on training that one: the policy before and after is base and adapter together.

    Resumes from the last checkpoint under ``folder/checkpoints``.  Weights end the same on the same machine and thread
    count, interrupted or not.  Raises ValueError where ``how.batch`` is not a multiple of ``how.micro_batch`` or the
    sequences don't fit the loss, and ReferenceMismatch where a reward is not 0 before the first step.
    """
    import torch
    from accelerate import PartialState
    from datasets import Dataset
    from peft import PeftModel
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig
    from trl.trainer.utils import disable_dropout_in_model

    state = PartialState(cpu=not torch.cuda.is_available())
    processes = state.num_processes
    if how.batch % (how.micro_batch * processes):
        shared = f" times {processes} processes" if processes > 1 else ""
        raise ValueError(f"batch {how.batch} is not a multiple of micro_batch {how.micro_batch}{shared}")
    needed = 1 if preference is None else 3 if preference.loss == "kto" else 2
    if sequences.answers_each != needed:
        name = "sft" if preference is None else preference.loss
        raise ValueError(f"{name} takes {needed} answers a prompt, and these sequences have {sequences.answers_each}")
    lora = how.lora
    if preference is not None:
        disable_dropout_in_model(model)
        lora = lora and lora.model_copy(update={"dropout": 0.0})
    checkpoints = folder / "checkpoints"
    resume = last_checkpoint(checkpoints)
    if preference is not None and preference.has_reference:
        if reference is None:
            raise ValueError(f"{preference.loss} needs reference log-probabilities (train.reference_logps)")
        if resume is None:
            _check_reference(model, sequences, reference, how.precision)

    steps = math.ceil(len(sequences) / how.batch) * how.epochs
    config = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=how.epochs,
        learning_rate=how.learning_rate,
        per_device_train_batch_size=how.micro_batch,
        gradient_accumulation_steps=how.batch // how.micro_batch // processes,
        lr_scheduler_type=how.schedule,
        warmup_steps=round(how.warmup_share * steps),
        bf16=how.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        include_num_input_tokens_seen="all",  # kept in the checkpoints, unlike trl's own count; a forest has no padding
        logging_steps=max(1, steps // 100),
        save_steps=how.checkpoint_every,
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        max_length=None,
        packing=False,  # trl's packing puts unrelated rows into one
        gradient_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
    )
    rows = [
        {"packed": asdict(packed), "reference": list(reference[n]) if reference else []}
        for n, packed in enumerate(sequences.packed)
    ]
    trainer = _trainer_class()(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        data_collator=_collate,
        processing_class=tokenizer,
        peft_config=None if isinstance(model, PeftModel) else _peft(lora),
        callbacks=[progress_callback(folder.name, steps)] if state.is_main_process else [],
    )
    trainer.loss = _Loss(preference, sequences.answers_each)
    # Ours reports; trl's and transformers' own printing would fill the logs with one dictionary a step.
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume)
    if processes > 1:
        trainer.save_model(str(folder / "policy"))  # gathers what is spread over the processes
    else:
        trainer.model.save_pretrained(folder / "policy")
    if state.is_main_process:
        tokenizer.save_pretrained(folder / "policy")
    return Log(
        steps=tuple(_step(entry) for entry in trainer.state.log_history if "loss" in entry),
        tokens=how.epochs * sequences.tokens,
        tokens_apart=how.epochs * sequences.tokens_apart,
        target_tokens=how.epochs * sequences.target_tokens,
        trainable=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )


def held_out_loss(model, sequences: Sequences) -> float:
    """Mean cross-entropy in nats per learned token of ``sequences``, one sequence at a time."""
    import torch

    model.eval()
    with torch.inference_mode():
        total = sum(answer_logps(model, packed).double().sum().item() for packed in sequences.packed)
    return -total / sequences.target_tokens


def _trainer_class():
    import torch
    from accelerate.utils import gather_object
    from trl import SFTTrainer

    class PackedTrainer(SFTTrainer):
        loss: _Loss
        loss_is_scaled_for_ga = True  # ours is a share of the whole optimiser step's mean

        def _get_num_items_in_batch(self, batch_samples, device):
            items = torch.tensor(sum(self.loss.items(batch["forest"]) for batch in batch_samples), device=device)
            return self.accelerator.gather(items).sum()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            forest = inputs["forest"]
            total, metrics = self.loss(answer_logps(model, forest), forest, inputs["reference"])
            for name, values in metrics.items():  # a value a pair: the log's mean weighs pairs, not micro-batches
                self._metrics["train"][name].extend(gather_object(values.tolist()))
            # Devices average their gradients, and each of them divides by the items of all.
            return total / num_items_in_batch * self.accelerator.num_processes

    return PackedTrainer


def _collate(rows: list[dict]) -> dict:
    """One forest of all ``rows``.  ``input_ids`` [1, L] are there for the trainer to count."""
    import torch

    forest = join(Packed(**row["packed"]) for row in rows)
    reference = torch.tensor([logp for row in rows for logp in row["reference"]])
    return {"input_ids": torch.tensor([forest.tokens]), "forest": forest, "reference": reference}


class _Loss:
    """(answers' log-probabilities [answers], forest, reference [answers] or [0]) -> (sum of losses, metrics [pairs])."""

    def __init__(self, preference: Preference | None, answers_each: int):
        self.preference, self.answers_each = preference, answers_each

    def items(self, forest: Packed) -> int:
        """What an optimiser step's loss is averaged over: target tokens, or pairs."""
        return len(forest.targets) if self.preference is None else forest.answers // self.answers_each

    def __call__(self, logps, forest: Packed, reference):
        import torch

        if self.preference is None:
            return -logps.sum(), {}
        how = self.preference
        lengths = torch.bincount(torch.tensor(forest.owners, device=logps.device)).view(-1, self.answers_each)
        logps = logps.view(-1, self.answers_each)
        chosen, rejected, *mismatched = logps.unbind(1)
        if not how.has_reference:
            chosen, rejected = (logps / lengths).unbind(1)
            if how.loss == "simpo":
                return losses.simpo(chosen, rejected, how.beta, how.gamma).sum(), {}
            return losses.orpo(chosen, rejected, how.beta).sum(), {}
        reference = reference.to(logps.device).view(-1, self.answers_each)
        rewards = how.beta * (logps - reference).detach()
        metrics = {
            "reward_chosen": rewards[:, 0],
            "reward_rejected": rewards[:, 1],
            "accuracy": (rewards[:, 0] > rewards[:, 1]).float(),
        }
        if how.loss == "ipo":
            (chosen, rejected), reference = (logps / lengths).unbind(1), reference / lengths
        four = (chosen, rejected, reference[:, 0], reference[:, 1])
        if how.loss == "kto":
            weights = (how.chosen_weight, how.rejected_weight)
            return losses.kto(*four, mismatched[0], reference[:, 2], how.beta, *weights).sum(), metrics
        return {"dpo": losses.dpo, "ipo": losses.ipo}[how.loss](*four, how.beta).sum(), metrics


def _check_reference(model, sequences: Sequences, reference: Sequence[Sequence[float]], precision: str) -> None:
    """Before any step the policy is the reference, so that every reward is 0 and the DPO loss ln 2."""
    import torch

    if len(reference) != len(sequences):
        raise ReferenceMismatch(f"{len(reference)} reference sequences for {len(sequences)} to train on")
    policy = frozen_logps(model, sequences.packed[0], precision)
    apart = (policy - torch.tensor(reference[0], device=policy.device)).abs().max().item()
    allowed = {"float32": 1e-4, "bfloat16": 1e-2}[precision] * max(1.0, policy.abs().max().item() / 100)
    if not apart <= allowed:
        raise ReferenceMismatch(
            f"{sequences.ids[0][0]}: policy and reference differ by {apart:.3g} nats before the first step. Compute the "
            "reference from the policy that is trained: for an adapter on a fine-tuned adapter, from the fine-tuned one"
        )


def _step(entry: dict) -> dict:
    kept = {"step": entry["step"], "loss": entry["loss"], "learning_rate": entry["learning_rate"]}
    rewards = {name: entry[name] for name in ("reward_chosen", "reward_rejected", "accuracy") if name in entry}
    return {**kept, "tokens": int(entry["num_input_tokens_seen"]), **rewards}


def last_checkpoint(folder: Path) -> str | None:
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


def progress_callback(what: str, steps: int):
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = progress.bar(steps, what, initial=state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.bar.update(state.global_step - self.bar.n)

        def on_train_end(self, args, state, control, **kwargs):
            self.bar.close()

    return Progress()
