"""Supervised fine-tuning and preference optimisation of packed sequences, on transformers' Trainer and peft.

The trainer is transformers' but for what a batch is (a forest of packed sequences) and what its loss is (a function of
the answers' log-probabilities, read in passes of bounded length).  A killed run resumes from its last checkpoint and ends with the weights of an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from decoupled_esc.packing import Packed, join, logps_in_passes, split
from decoupled_esc.train import checkpoints, losses
from decoupled_esc.train.config import Lora, Preference, Training, TrainingError
from decoupled_esc.train.data import Sequences
from decoupled_esc.train.reference import frozen_logps, reference_key

REWARDS = ("reward_chosen", "reward_rejected", "accuracy")


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
    trainer = _trainer_class()(
        model=_adapted(model, training.lora, preference, seed),
        args=_arguments(training, folder / "checkpoints", steps, accumulation, seed),
        train_dataset=[
            {"packed": packed, "reference": reference[n] if reference else []}
            for n, packed in enumerate(sequences.packed)
        ],
        data_collator=partial(_collate, pass_tokens=sequences.pass_tokens),
        processing_class=tokenizer,
        callbacks=[checkpoints.callback(folder.name, steps, key)],
    )
    trainer.loss = _Loss(preference, sequences.answers_each)
    # Ours reports; transformers' own printing would fill the logs with one dictionary a step.
    trainer.remove_callback(PrinterCallback)
    with checkpoints.no_space_is_said(folder):
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


def _trainer_class():
    import torch
    from accelerate.utils import gather_object
    from transformers import Trainer

    class PackedTrainer(Trainer):
        loss: _Loss
        loss_is_scaled_for_ga = True  # ours is a share of the whole optimiser step's mean

        def __init__(self, **options):
            super().__init__(**options)
            self.pair_metrics = defaultdict(list)

        def get_batch_samples(self, epoch_iterator, num_batches, device):
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
            items = torch.tensor(sum(self.loss.items(batch["forest"]) for batch in batches), device=device)
            return batches, self.accelerator.gather(items).sum()

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            forest, passes = inputs["forest"], inputs["passes"]
            if self.accelerator.num_processes > 1:  # processes that share weights read equally often
                most = self.accelerator.gather(torch.tensor(len(passes), device=self.args.device)).max()
                passes = passes + passes[:1] * (int(most) - len(passes))
            logps = logps_in_passes(model, passes)[: forest.answers]
            total, metrics = self.loss(logps, forest, inputs["reference"])
            for name, values in metrics.items():  # a value a pair: the log's mean weighs pairs, not micro-batches
                self.pair_metrics[name].extend(gather_object(values.tolist()))
            # Devices average their gradients, and each of them divides by the items of all.
            return total / num_items_in_batch * self.accelerator.num_processes

        def log(self, logs, start_time=None):
            super().log(logs | {name: sum(found) / len(found) for name, found in self.pair_metrics.items()}, start_time)
            self.pair_metrics.clear()

    return PackedTrainer


def _collate(rows: list[dict], pass_tokens: int) -> dict:
    """One forest of all ``rows``, and the passes that it is read in, of ``pass_tokens`` for each of its rows.

    ``input_ids`` [1, L] are there for the trainer to count.
    """
    import torch

    forest = join(row["packed"] for row in rows)
    reference = torch.tensor([logp for row in rows for logp in row["reference"]])
    passes = split(forest, pass_tokens * len(rows))
    tokens = [token for packed in passes for token in packed.tokens]
    return {"input_ids": torch.tensor([tokens]), "forest": forest, "passes": passes, "reference": reference}


class _Loss:
    """(log-probabilities [answers], forest, reference [answers] or [0]) -> (sum of losses, metrics [pairs])."""

    def __init__(self, preference: Preference | None, answers_each: int):
        self.preference, self.answers_each = preference, answers_each

    def items(self, forest: Packed) -> float:
        """What an optimiser step's loss is averaged over: target tokens, or pairs; for KTO half of the distinct answers."""
        if self.preference is None:
            return len(forest.targets)
        if self.preference.loss == "kto":
            return sum(map(sum, distinct_shares(forest, self.answers_each))) / 2
        return forest.answers // self.answers_each

    def __call__(self, logps, forest: Packed, reference):
        import torch

        if self.preference is None:
            return -logps.sum(), {}
        preference = self.preference
        lengths = torch.bincount(torch.tensor(forest.completion_index, device=logps.device)).view(-1, self.answers_each)
        logps = logps.view(-1, self.answers_each)
        chosen, rejected, *mismatched = logps.unbind(1)
        if not preference.has_reference:
            chosen, rejected = (logps / lengths).unbind(1)
            if preference.loss == "simpo":
                return losses.simpo(chosen, rejected, preference.beta, preference.gamma).sum(), {}
            return losses.orpo(chosen, rejected, preference.beta).sum(), {}
        reference = reference.to(logps.device).view(-1, self.answers_each)
        rewards = preference.beta * (logps - reference).detach()
        accuracy = (rewards[:, 0] > rewards[:, 1]).float()
        metrics = dict(zip(REWARDS, (rewards[:, 0], rewards[:, 1], accuracy), strict=True))
        if preference.loss == "ipo":
            (chosen, rejected), reference = (logps / lengths).unbind(1), reference / lengths
        four = (chosen, rejected, reference[:, 0], reference[:, 1])
        if preference.loss == "kto":
            shares = torch.tensor(distinct_shares(forest, self.answers_each), device=logps.device)
            weights = torch.tensor((preference.chosen_weight, preference.rejected_weight), device=logps.device)
            weights = (weights * shares).unbind(1)
            return losses.kto(*four, mismatched[0], reference[:, 2], preference.beta, *weights).sum(), metrics
        return {"dpo": losses.dpo, "ipo": losses.ipo}[preference.loss](*four, preference.beta).sum(), metrics


def distinct_shares(forest: Packed, answers_each: int) -> list[tuple[float, float]]:
    """For chosen and rejected of each pair of ``forest`` one over how often this answer stands there on this side.

    KTO learns from single answers, each once: pairs are split, and what several of them share counts in parts that make
    one (CSO, appendix G).  Equal answers to one prompt are the same places of a tree, and ask for the same tokens.
    """
    answers: list[list[tuple[int, int]]] = [[] for _ in range(forest.answers)]
    for owner, place, token in zip(forest.completion_index, forest.predict_positions, forest.targets, strict=True):
        answers[owner].append((place, token))
    sides = [[tuple(answer) for answer in answers[side::answers_each]] for side in (0, 1)]
    counts = [Counter(side) for side in sides]
    return [tuple(1 / count[one] for count, one in zip(counts, pair, strict=True)) for pair in zip(*sides, strict=True)]


def _check_answers(sequences: Sequences, preference: Preference | None, reference) -> None:
    """Raises TrainingError where the loss takes another number of answers, or lacks its reference."""
    loss = "sft" if preference is None else preference.loss
    needed, has = {"sft": 1, "kto": 3}.get(loss, 2), sequences.answers_each
    if has != needed:
        raise TrainingError(f"{loss} takes {needed} answers a prompt, and these sequences have {has}")
    if preference is not None and preference.has_reference and reference is None:
        raise TrainingError(f"{loss} needs reference log-probabilities (train.reference_logps)")


def _check_reference(model, sequences: Sequences, reference: Sequence[Sequence[float]], precision: str) -> None:
    """Before any step the policy is the reference, so that every reward is 0 and the DPO loss ln 2."""
    import torch

    if len(reference) != len(sequences):
        raise ReferenceMismatch(f"{len(reference)} reference sequences for {len(sequences)} to train on")
    policy = frozen_logps(model, sequences.passes[0], precision)
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
        **{name: entry[name] for name in REWARDS if name in entry},
    }
