"""One training from beginning to end: from turns or pairs to a policy, and what it is like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from decoupled_esc import models
from decoupled_esc.corpus import Turn
from decoupled_esc.prompts import Layout
from decoupled_esc.train.checkpoints import no_space_is_said
from decoupled_esc.train.config import Launch, Preference, Training
from decoupled_esc.train.data import Pair, Sequences, Unit, encode, encode_pairs
from decoupled_esc.train.held_out import compared, held_out_loss
from decoupled_esc.train.launch import Job, launched
from decoupled_esc.train.reference import reference_logps
from decoupled_esc.train.trainer import Log, fine_tune


@dataclass(frozen=True, kw_only=True)
class Trained(Log):
    """What every training leaves; the policy lies in ``policy`` of its folder."""

    sequences: int
    cut: int
    """Turns or pairs that lost their oldest messages to ``max_length``."""
    held_out_loss: float
    """Nats per token in the loss, of held-out turns."""
    weights: str
    """The policy's digest."""


@dataclass(frozen=True, kw_only=True)
class FineTuned(Trained):
    """What supervised fine-tuning leaves."""

    dialogues: int
    turns: int
    unit: Unit
    held_out_turns: int
    held_out_tokens: int
    held_out_loss_before: float | None = None
    divergence: float | None = None
    """From the policy that training started with, where it was asked for."""


@dataclass(frozen=True, kw_only=True)
class Preferred(Trained):
    """What preference optimisation leaves."""

    loss: Preference
    pairs: int
    held_out_loss_before: float
    divergence: float


NOTHING = Log(steps=(), tokens=0, unpacked_tokens=0, target_tokens=0, trainable=0, parameters=0)


def train_sft(
    policy: models.Weights,
    turns: Sequence[Turn],
    layout: Layout,
    training: Training,
    *,
    folder: Path,
    seed: int,
    max_length: int,
    held_out: Sequence[Turn],
    unit: Unit = "dialogue",
    launch: Launch | None = None,
    compare: bool = False,
    min_turns: int = 1,
) -> FineTuned:
    """``policy`` fine-tuned on ``turns`` in ``layout``; ``compare`` measures how far it has moved, too.

    With fewer than ``min_turns`` turns the policy stays what it started as, and all counts of the log are 0.
    """
    models.be_repeatable()
    tokenizer = models.load_tokenizer(policy)
    learned = turns if len(turns) >= min_turns else ()
    sequences = encode(learned, layout, tokenizer, max_length, unit)
    unseen = encode(held_out, layout, tokenizer, max_length, unit)
    return FineTuned(
        **_trained(Job(policy, sequences, training, seed), tokenizer, unseen, folder, launch, compare=compare),
        dialogues=len({turn.dialogue for turn in turns}),
        turns=len(turns),
        unit=unit,
        held_out_turns=len(held_out),
        held_out_tokens=unseen.target_tokens,
    )


def train_preference(
    policy: models.Weights,
    pairs: Sequence[Pair],
    layout: Layout,
    preference: Preference,
    training: Training,
    *,
    folder: Path,
    seed: int,
    max_length: int,
    held_out: Sequence[Turn],
    unit: Unit = "dialogue",
    launch: Launch | None = None,
    min_turns: int = 1,
) -> Preferred:
    """``policy`` taught to prefer the chosen answers of ``pairs``, against itself as the reference.

    With pairs of fewer than ``min_turns`` turns (KTO: 2, for the answer to another prompt) the policy stays what it
    started as, and all counts are 0.
    """
    models.be_repeatable()
    tokenizer = models.load_tokenizer(policy)
    kto = preference.loss == "kto"
    if len({pair.turn.id for pair in pairs}) < max(min_turns, 2 if kto else 1):
        pairs = ()
    mismatched = seed if kto else None
    sequences = encode_pairs(pairs, layout, tokenizer, max_length, unit, mismatched=mismatched)
    unseen = encode(held_out, layout, tokenizer, max_length, unit)
    return Preferred(
        **_trained(Job(policy, sequences, training, seed, preference), tokenizer, unseen, folder, launch),
        loss=preference,
        pairs=len(pairs),
    )


def _trained(
    job: Job, tokenizer, unseen: Sequences, folder: Path, launch: Launch | None, *, compare: bool = True
) -> dict:
    """The fields of Trained, and with ``compare`` those that say how far the policy has moved."""
    if len(job.sequences):
        model, log = _run(job, tokenizer, folder, launch)
    else:
        with no_space_is_said(folder):
            models.copy(job.weights, folder / "policy")
        model, log = models.load(job.weights, for_training=True), NOTHING
    if compare:
        # Loaded as it was trained from: an adapter in float32, as that of `model`
        found = compared(model, models.load(job.weights, for_training=True), unseen)
    else:
        found = {"held_out_loss": held_out_loss(model, unseen)}
    weights = models.weights_digest(folder / "policy")
    return {**vars(log), **found, "sequences": len(job.sequences), "cut": job.sequences.cut, "weights": weights}


def _run(job: Job, tokenizer, folder: Path, launch: Launch | None) -> tuple:
    """(the policy, log) of a training in this process, or in as many as ``launch`` says."""
    import torch

    model, start, training = models.load(job.weights, for_training=True), job.weights.identity, job.training
    if job.preference is not None and job.preference.has_reference:
        job = replace(job, reference=reference_logps(model, job.sequences, start, folder, training.precision))
    if launch is None:
        options = {"seed": job.seed, "start": start, "preference": job.preference, "reference": job.reference}
        return model, fine_tune(model, tokenizer, job.sequences, training, folder, **options)
    del model  # the others need its place,
    torch.cuda.empty_cache()  # which this process would keep
    log = launched(job, folder, launch)
    trained = models.weights_of(replace(job.weights, adapter=None), folder / "policy")
    return models.load(trained, for_training=True), log
