"""What every judge is given, and how what it says is averaged: by dialogue, with intervals, missing answers left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate.agreement import MOST_UNDEFINED
from decoupled_esc.evaluate.bootstrap import Estimate, cluster_weights, percentile_interval


@dataclass(frozen=True)
class Reply:
    """A reply to be judged, with the turn that it answers.  ``strategy`` None: none of the eight."""

    id: str
    turn: Turn
    strategy: str | None
    text: str


class Means:
    """Means over items with 95% intervals from draws of whole dialogues; the same draws for all that one ``Means`` gives."""

    def __init__(self, dialogues: Sequence[str], *, replicates: int, seed: int):
        """``dialogues`` [items] names each item's dialogue.  Raises ValueError without items."""
        number = {name: index for index, name in enumerate(dict.fromkeys(dialogues))}
        self._place, self._clusters = np.array([number[name] for name in dialogues], dtype=int), len(number)
        self._weights = cluster_weights(self._clusters, replicates, seed)

    def of(self, values: Sequence[float]) -> dict | None:
        """An `Estimate` as a dict, of ``values`` [items]; nan is a missing one, and None comes where all are.

        Draws without any value are left out; with more than a few of these, or values of one dialogue, there is no interval.
        """
        values = np.asarray(values, dtype=float)
        there = ~np.isnan(values)
        if not there.any():
            return None
        sums = np.bincount(self._place[there], values[there], self._clusters)
        counts = np.bincount(self._place[there], minlength=self._clusters)
        drawn = self._weights @ counts
        copies = (self._weights @ sums)[drawn > 0] / drawn[drawn > 0]
        mean = float(values[there].mean())
        if (counts > 0).sum() < 2 or len(copies) < (1 - MOST_UNDEFINED) * len(drawn):
            return asdict(Estimate(mean))
        return asdict(percentile_interval(mean, copies))

    def table(
        self, values: Mapping[str, np.ndarray], columns: Sequence[str], contrasts: Sequence[tuple[str, str]] = ()
    ) -> dict[str, dict[str, dict]]:
        """``systems`` and ``contrasts`` (``a - b``, on items that both have) -> column -> estimate; empty columns are absent.

        ``values``: system -> float [items, columns].
        """
        rows = {"systems": dict(values), "contrasts": {f"{a} - {b}": values[a] - values[b] for a, b in contrasts}}
        return {
            kind: {
                name: {column: mean for k, column in enumerate(columns) if (mean := self.of(array[:, k])) is not None}
                for name, array in arrays.items()
            }
            for kind, arrays in rows.items()
        }
