"""What every judge is given, and how its answers are averaged: with intervals by dialogue, without missing answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate.agreement import MOST_UNDEFINED
from decoupled_esc.evaluate.bootstrap import Estimate, cluster_weights, numbered, percentile_interval


@dataclass(frozen=True)
class Reply:
    """A reply to be judged, with the turn that it answers.  ``strategy`` None: none of the eight."""

    id: str
    turn: Turn
    strategy: str | None
    text: str


@dataclass(frozen=True)
class ScoreTable:
    """Mean scores: system -> column -> estimate, and ``"a - b"`` -> column -> the paired difference."""

    systems: dict[str, dict[str, Estimate]]
    contrasts: dict[str, dict[str, Estimate]]


class Means:
    """Means over items with 95% intervals by dialogue, all from the same resampled dialogues."""

    def __init__(self, dialogues: Sequence[str], **resampling: int):
        """``dialogues`` [items] names each item's dialogue.  Raises ValueError without items."""
        self._place, self._clusters = numbered(dialogues)
        self._weights = cluster_weights(self._clusters, **resampling)

    def of(self, values: Sequence[float]) -> Estimate | None:
        """The mean of ``values`` [items]; nan is a missing one, and None comes where all are.

        Replicates without any value are left out; with more than a few of these, or values of one dialogue, there is no
        interval.
        """
        values = np.asarray(values, dtype=float)
        there = ~np.isnan(values)
        if not there.any():
            return None
        sums = np.bincount(self._place[there], values[there], self._clusters)
        counts = np.bincount(self._place[there], minlength=self._clusters)
        sampled = self._weights @ counts
        copies = (self._weights @ sums)[sampled > 0] / sampled[sampled > 0]
        mean = float(values[there].mean())
        if (counts > 0).sum() < 2 or len(copies) < (1 - MOST_UNDEFINED) * len(sampled):
            return Estimate(mean)
        return percentile_interval(mean, copies)

    def table(
        self, values: Mapping[str, np.ndarray], columns: Sequence[str], contrasts: Sequence[tuple[str, str]] = ()
    ) -> ScoreTable:
        """Means of ``values`` (system -> float [items, columns]) and of differences on items that both have.

        A column without any value is absent.
        """

        def means(array: np.ndarray) -> dict[str, Estimate]:
            found = {column: self.of(array[:, k]) for k, column in enumerate(columns)}
            return {column: mean for column, mean in found.items() if mean is not None}

        return ScoreTable(
            systems={name: means(array) for name, array in values.items()},
            contrasts={f"{a} - {b}": means(values[a] - values[b]) for a, b in contrasts},
        )
