"""Supervised fine-tuning and preference optimisation of packed sequences, on turn_trees' trainer and peft.

A killed run resumes from its last checkpoint and ends with the weights of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import turn_trees

from decoupled_esc.train import checkpoints
from decoupled_esc.train.config import Lora, Preference, Training, TrainingError
from decoupled_esc.train.data import Sequences
from decoupled_esc.train.reference import reference_key

REWARDS = {
    "reward_chosen": "rewards/chosen", "reward_rejected": "rewards/rejected", "accuracy": "rewards/accuracies",
}  # fmt: skip
"""What a Log calls what turn_trees logs under trl's names."""


@dataclass(frozen=True)
class Log:
    """What a training leaves behind besides its weights."""

    steps: tuple[dict[str, float], ...]
    """One entry a logged step: step, loss, learning_rate, tokens (seen so far); with a reference also the mean rewards
    of chosen and rejected answers and the share of pairs whose chosen answer has the higher one."""
    tokens: int
    """Tokens read over all epochs, context included."""
    unpacked_tokens: int
    """Tokens that would have been read with one sequence for every answer."""
    target_tokens: int
    """Tokens in the loss, over all epochs."""
    trainable: int
    """Trainable parameters."""
    parameters: int


class ReferenceMismatch(TrainingError):
    """The reference log-probabilities are not those of the policy that training starts from."""


def fine_tune(
    model,
    tokenizer,
    sequences: Sequences,
    training: Training,
    folder: Path,
    *,
    seed: int,
    start: str = "",
    preference: Preference | None = None,
    reference: Sequence[Sequence[float]] | None = None,
) -> Log:
    """Train ``model`` on ``sequences``; the policy (adapter, or all weights) is saved to ``folder/policy``.

    Without ``preference`` the loss is the cross-entropy of the targets, averaged over the target tokens of an optimiser
    step; with it the preference loss, averaged over its pairs (KTO: distinct answers), with dropout off.  A model that already carries an
    adapter goes on training that one: the policy before and after is base and adapter together.

    Resumes from the last checkpoint under ``folder/checkpoints`` that is whole and of this training from weights
    ``start``.  Weights end the same on the same machine and thread count, interrupted or not.  Raises TrainingError
    where batches can't be shared or the sequences don't fit the loss, ReferenceMismatch where a reward is not 0 before
    the first step, and OSError where the disk is full.
    """
    import torch
    from accelerate import PartialState
    from transformers.trainer_callback import PrinterCallback

    state = PartialState(cpu=not torch.cuda.is_available())
    accumulation = training.accumulation(state.num_processes)
    _check_answers(sequences, preference, reference)
    key = _key(sequences, training, seed, start, preference, state.num_processes)
    with state.main_process_first():  # which removes what is damaged
        resume = checkpoints.last_checkpoint(folder / "checkpoints", key)
    if preference is not None and preference.has_reference and resume is None:
        _check_reference(model, sequences, reference, training.precision)

    steps = math.ceil(len(sequences) / training.batch_size) * training.epochs
    trainer = turn_trees.TreeTrainer(
        model=_adapted(model, training.lora, preference, seed),
        args=_arguments(training, folder / "checkpoints", steps, accumulation, seed),
        train_dataset=[
            {"packed": packed, "reference": reference[n] if reference else []}
            for n, packed in enumerate(sequences.packed)
        ],
        data_collator=turn_trees.TreeCollator(sequences.pass_tokens),
        processing_class=tokenizer,
        callbacks=[checkpoints.callback(folder.name, steps, key)],
        loss=_loss(preference),
    )
    # Ours reports; transformers' own printing would fill the logs with one dictionary a step.
    trainer.remove_callback(PrinterCallback)
    with checkpoints.no_space_is_said(folder), _as_it_comes(trainer.model, training.precision):
        trainer.train(resume_from_checkpoint=resume)
        if state.num_processes > 1:
            trainer.save_model(str(folder / "policy"))  # gathers what is spread over the processes
        else:
            trainer.model.save_pretrained(folder / "policy")
        if state.is_main_process:
            tokenizer.save_pretrained(folder / "policy")
    return _log(trainer, sequences, training.epochs)


def _adapted(model, lora: Lora | None, preference: Preference | None, seed: int):
    """``model`` with the adapter that it is to be trained with, if any; for preferences with dropout off."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    if preference is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    if lora is None or isinstance(model, PeftModel):
        return model
    set_seed(seed)  # an adapter's first weights are sampled
    dropout = lora.dropout if preference is None else 0.0
    options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return get_peft_model(model, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=dropout, **options))


def _as_it_comes(model, precision: str):
    """Adapters that read their input in the precision it has.

    Peft widens it to theirs, and autocast narrows it again: the same numbers after two copies.  Not under dropout, whose
    factor is exact in float32 alone.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting

    dropout = any(isinstance(module, torch.nn.Dropout) and module.p for module in model.modules())
    return disable_input_dtype_casting(model, active=precision == "bfloat16" and not dropout)


def _log(trainer, sequences: Sequences, epochs: int) -> Log:
    return Log(
        steps=tuple(_step(entry) for entry in trainer.state.log_history if "loss" in entry),
        tokens=epochs * sequences.tokens,
        unpacked_tokens=epochs * sequences.unpacked_tokens,
        target_tokens=epochs * sequences.target_tokens,
        trainable=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in trainer.model.parameters()),
    )


def _arguments(training: Training, checkpoints_at: Path, steps: int, accumulation: int, seed: int):
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(checkpoints_at),
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        per_device_train_batch_size=training.per_device_batch_size,
        gradient_accumulation_steps=accumulation,
        lr_scheduler_type=training.schedule,
        warmup_steps=round(training.warmup_ratio * steps),
        bf16=training.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        include_num_input_tokens_seen="all",  # kept in the checkpoints; a forest has no padding
        logging_steps=max(1, steps // 100),
        save_steps=training.checkpoint_every,
        save_total_limit=checkpoints.KEPT,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def _loss(preference: Preference | None):
    """What turn_trees calls ``preference``; without one, supervised fine-tuning."""
    if preference is None:
        return turn_trees.Loss("sft")
    constants = preference.model_dump(exclude={"loss"})
    return turn_trees.Loss(preference.loss, **constants)


def _check_answers(sequences: Sequences, preference: Preference | None, reference) -> None:
    """Raises TrainingError where the loss takes another number of answers, or lacks its reference."""
    loss, has = _loss(preference), sequences.answers_each
    if has != loss.answers_each:
        raise TrainingError(f"{loss.name} takes {loss.answers_each} answers a prompt, and these sequences have {has}")
    if loss.has_reference and reference is None:
        raise TrainingError(f"{loss.name} needs reference log-probabilities (train.reference_logps)")


def _check_reference(model, sequences: Sequences, reference: Sequence[Sequence[float]], precision: str) -> None:
    """Before any step the policy is the reference, so that every reward is 0 and the DPO loss ln 2."""
    import torch

    if len(reference) != len(sequences):
        raise ReferenceMismatch(f"{len(reference)} reference sequences for {len(sequences)} to train on")
    policy = turn_trees.frozen_logps(model, sequences.passes[0], precision)
    apart = (policy - torch.tensor(reference[0], device=policy.device)).abs().max().item()
    allowed = {"float32": 1e-4, "bfloat16": 1e-2}[precision] * max(1.0, policy.abs().max().item() / 100)
    if not apart <= allowed:
        raise ReferenceMismatch(
            f"{sequences.ids[0][0]}: policy and reference differ by {apart:.3g} nats before the first step. Compute "
            "the reference from the policy that is trained: for an adapter on a fine-tuned adapter, from that one"
        )


def _key(sequences: Sequences, training: Training, seed: int, start: str, preference, processes: int) -> str:
    """What a checkpoint belongs to, as sha256 (hex)."""
    data = reference_key(start, sequences)
    settings = training.model_dump_json(exclude={"checkpoint_every"}) + (
        preference.model_dump_json() if preference else ""
    )
    return hashlib.sha256(f"{data} {settings} {seed} {processes}".encode()).hexdigest()


def _step(entry: dict) -> dict:
    kept = {"step": entry["step"], "loss": entry["loss"], "learning_rate": entry["learning_rate"]}
    return {
        **kept,
        "tokens": int(entry["num_input_tokens_seen"]),
        **{name: entry[logged] for name, logged in REWARDS.items() if logged in entry},
    }
