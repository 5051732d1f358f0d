"""How a model is trained: what a profile says, with bounds on every field."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from decoupled_esc.errors import KnownError

CONFIGS = Path(__file__).parents[3] / "profiles" / "accelerate"

STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

Share = Annotated[float, Field(ge=0, lt=1)]


class TrainingError(KnownError, ValueError):
    """A training that can't be made as it is asked for."""


class Lora(BaseModel):
    """Low-rank adapters on every linear layer (DecoupledESC, appendix D.1: rank 16, alpha 16, dropout 0.05)."""

    model_config = STRICT

    rank: PositiveInt
    alpha: PositiveInt
    dropout: Share


class Training(BaseModel):
    """How one model is trained.  ``lora: null`` trains all weights."""

    model_config = STRICT

    epochs: PositiveInt
    learning_rate: PositiveFloat
    batch_size: PositiveInt
    """Sequences per optimiser step: dialogues, or turns where the layout is one that can't be packed."""
    per_device_batch_size: PositiveInt
    """Sequences per forward pass, or per few where they are long; the rest is gradient accumulation."""
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: Share
    """Share of all optimiser steps over which the learning rate rises from 0."""
    lora: Lora | None
    precision: Literal["float32", "bfloat16"]
    checkpoint_every: PositiveInt
    """Optimiser steps between checkpoints."""

    def accumulation(self, processes: int = 1) -> int:
        """Forward passes per optimiser step of each process.  Raises TrainingError where they share unevenly."""
        if self.batch_size % (self.per_device_batch_size * processes):
            shared = f" times {processes} processes" if processes > 1 else ""
            raise TrainingError(
                f"batch_size {self.batch_size} is not a multiple of "
                f"per_device_batch_size {self.per_device_batch_size}{shared}"
            )
        return self.batch_size // self.per_device_batch_size // processes


class Preference(BaseModel):
    """Which preference loss, and its constants.  The losses are those of :mod:`turn_trees.losses`."""

    model_config = STRICT

    loss: Literal["dpo", "ipo", "simpo", "kto", "orpo"]
    beta: PositiveFloat
    gamma: NonNegativeFloat = 0.0
    """SimPO's margin."""
    chosen_weight: NonNegativeFloat = 1.0
    """KTO's."""
    rejected_weight: NonNegativeFloat = 1.0
    """KTO's."""

    @property
    def has_reference(self) -> bool:
        """Whether the loss compares the policy with the one that training started from."""
        return self.loss in ("dpo", "ipo", "kto")


class Launch(BaseModel):
    """How many processes train together, and how weights and gradients are spread over them."""

    model_config = STRICT

    processes: PositiveInt
    config: Annotated[str, Field(min_length=1)]
    """A file of ``profiles/accelerate`` without its ending: ddp, fsdp, zero2; the path of one of yours; or ``cpu``."""

    @property
    def path(self) -> Path:
        """The configuration file."""
        return CONFIGS / f"{self.config}.yaml" if "/" not in self.config else Path(self.config)
