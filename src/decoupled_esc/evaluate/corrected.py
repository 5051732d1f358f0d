"""Shares by a judge, corrected for what the judge was measured to get wrong, with intervals that know how uncertain that is.

A judge gives each reply a probability f of having a label, and people or a larger model said of some replies, by other writers,
whether they have it.  From these follow, for each label::

    m1, m0 = mean of f over labelled replies that have it, and that have not
    bias   = share that have it, minus mean of f

and two corrections of a system's mean f, which assume different things:

* **matrix**: (mean f - m0) / (m1 - m0) (Rogan and Gladen 1978; for probabilities Bella et al. 2010), right where replies that have a label
  look to the judge like labelled ones that have it, and the others like the others.  m1 - m0 is sensitivity + specificity - 1.
* **rectified**: mean f + bias (Angelopoulos et al. 2023), right where the judge is off by the same amount.  A new writer's bias is unknown:
  it is taken to differ from those of the labelled writers as these differ from one another (Student's t for the number of writers).

Dialogues are resampled, those that systems and labelled writers share jointly: an interval holds the judge's uncertainty and the system's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, cluster_weights, over_trainings
from decoupled_esc.evaluate.errors import LABELS

Cells = dict[str, Estimate | None]
"""Label -> corrected share or difference in per cent, not cut at 0 and 100: one that is outside shows that the assumption fails.

None: the judge can't tell the label, or the interval holds all that is possible; nothing can be said.
"""


@dataclass(frozen=True)
class JudgedWriter:
    """One writer's labelled replies, summed by dialogue: [dialogues], or [dialogues][6] with columns as ``errors.LABELS``."""

    writer: str
    dialogues: list[str]
    replies: list[int]
    labelled: list[list[int]]
    """Replies that have each label."""
    predicted: list[list[float]]
    """Sums of the judge's probabilities."""
    hits: list[list[float]]
    """Sums of a label's probability over the replies that have it."""


@dataclass(frozen=True)
class CorrectedShares:
    """System, or ``"a - b"`` -> shares corrected in two ways."""

    matrix: dict[str, Cells]
    rectified: dict[str, Cells]


def judged_writer(writer: str, dialogues: Sequence[str], labels: Sequence[str], f: np.ndarray) -> JudgedWriter:
    """Sums over one writer's replies; ``f`` [replies, 6]: probabilities by a judge that has learned from neither dialogue nor writer."""
    names, place = np.unique(dialogues, return_inverse=True)
    has = np.array([[label == one for one in LABELS] for label in labels])

    def sums(values: np.ndarray) -> np.ndarray:
        found = np.zeros((len(names), values.shape[1]))
        np.add.at(found, place, values)
        return found

    counts = np.bincount(place).tolist()
    labelled, predicted, hits = sums(has).astype(int), sums(f).round(5), sums(f * has).round(5)
    return JudgedWriter(writer, names.tolist(), counts, labelled.tolist(), predicted.tolist(), hits.tolist())


class Correction:
    """What the labelled writers say of a judge, on the data and on replicates of their dialogues; arrays [1 + R, 6]."""

    def __init__(self, writers: Sequence[JudgedWriter], dialogues: Sequence[str], *, replicates: int, seed: int):
        """``dialogues``: those of the systems' turns, sorted; a labelled writer's dialogues are resampled with them where they are among them.

        Raises ValueError with fewer than two writers.
        """
        if len(writers) < 2:
            raise ValueError("how far a judge's bias differs between writers takes the labels of at least two")
        self.weights = _with_data(cluster_weights(len(dialogues), replicates, seed))
        place, sums, biases = {name: k for k, name in enumerate(dialogues)}, [], []
        for number, writer in enumerate(writers, 1):
            shared = all(name in place for name in writer.dialogues)
            own = (
                self.weights[:, [place[name] for name in writer.dialogues]]
                if shared
                else _with_data(cluster_weights(len(writer.dialogues), replicates, seed + number))
            )
            parts = [np.array(part, dtype=float) for part in (writer.labelled, writer.predicted, writer.hits)]
            n, *found = own @ np.array(writer.replies)[:, None], *(own @ part for part in parts)
            sums.append((n, *found))
            biases.append((found[0] - found[1])[0] / n[0])
        n, has, f, hits = (sum(parts) for parts in zip(*sums, strict=True))
        self.m0 = (f - hits) / np.maximum(n - has, 1e-9)
        self.informedness = hits / np.maximum(has, 1e-9) - self.m0
        self.bias = (has - f) / n
        self.spread = np.std(biases, axis=0, ddof=1)
        self.writers = len(writers)

    def means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Mean probabilities [1 + R, 6] of a system; ``sums`` [dialogues, 6] of probabilities, ``counts`` [dialogues] turns."""
        return (self.weights @ sums) / (self.weights @ counts)[:, None]

    def matrix(self, f: np.ndarray) -> np.ndarray:
        """Mean probabilities [1 + R, 6] corrected by the matrix, in per cent."""
        return 100 * (f - self.m0) / np.where(np.abs(self.informedness) < 1e-6, 1e-6, self.informedness)

    def rectified(self, f: np.ndarray) -> np.ndarray:
        """The same with the bias added."""
        return 100 * (f + self.bias)

    def tells(self, label: int) -> bool:
        """Whether the judge separates replies with the label ``label`` from others, in all but 2.5% of replicates."""
        return float(np.quantile(self.informedness[1:, label], 0.025)) > 0

    def unknown_writers(self, systems: int) -> np.ndarray:
        """Half width [6], in points, of how much the bias of a new writer, or the difference of ``systems`` = 2, may be off."""
        new = 1 + 1 / self.writers if systems == 1 else 2
        return 100 * student.isf(0.025, self.writers - 1) * self.spread * np.sqrt(new)


def _with_data(weights: np.ndarray) -> np.ndarray:
    return np.concatenate([np.ones((1, weights.shape[1])), weights])


def corrected(
    correction: Correction,
    counts: np.ndarray,
    by_seed: Mapping[str, Mapping[str, np.ndarray]],
    contrasts: Sequence[tuple[str, str]],
) -> CorrectedShares:
    """Corrected shares of systems and their differences, averaged over seeds as in `bootstrap.over_trainings`.

    ``counts`` [dialogues]: turns; ``by_seed``: seed -> system -> sums of probabilities [dialogues, 6].
    """
    means = {
        seed: {name: correction.means(sums, counts) for name, sums in own.items()} for seed, own in by_seed.items()
    }
    names = list(next(iter(means.values())))

    def table(correct: Callable[[np.ndarray], np.ndarray], rectified: bool) -> dict[str, Cells]:
        own = {seed: {name: correct(f) for name, f in found.items()} for seed, found in means.items()}
        found = {name: [one[name] for one in own.values()] for name in names}
        levels = {name: _cells(correction, copies, 1, rectified) for name, copies in found.items()}
        gaps = {f"{a} - {b}": [x - y for x, y in zip(found[a], found[b], strict=True)] for a, b in contrasts}
        return levels | {name: _cells(correction, copies, 2, rectified) for name, copies in gaps.items()}

    return CorrectedShares(table(correction.matrix, False), table(correction.rectified, True))


def _cells(correction: Correction, copies: Sequence[np.ndarray], systems: int, rectified: bool) -> Cells:
    """``copies``: per seed [1 + R, 6]."""
    found: Cells = {}
    for k, label in enumerate(LABELS):
        seeds = [Resampled(float(one[0, k]), one[1:, k]) for one in copies]
        whole = over_trainings(seeds) if len(seeds) > 1 else seeds[0].estimate()
        margin = correction.unknown_writers(systems)[k] if rectified else 0.0
        low = float(whole.value - np.hypot(whole.value - whole.low, margin))
        high = float(whole.value + np.hypot(whole.high - whole.value, margin))
        everything = low <= (0 if systems == 1 else -100) and high >= 100
        told = rectified or correction.tells(k)
        found[label] = Estimate(whole.value, low, high) if told and not everything else None
    return found


@dataclass(frozen=True)
class KnownShare:
    """A label's share of a labelled writer's replies, in per cent, as if it were a new one."""

    labelled: float
    judged: float
    """By mean probability, uncorrected."""
    matrix: Estimate | None
    """Corrected by what the other writers' labels say of the judge."""
    rectified: Estimate | None


def check(writers: Sequence[JudgedWriter], **resampling: int) -> dict[str, dict[str, KnownShare]]:
    """Writer -> label -> whether the corrections find what is known, each writer's from the labels of the others."""
    found = {}
    for writer in writers:
        others = [one for one in writers if one.writer != writer.writer]
        correction = Correction(others, writer.dialogues, **resampling)
        counts, sums = np.array(writer.replies), np.array(writer.predicted)
        shares = corrected(correction, counts, {"": {"": sums}}, ())
        told, f = (100 * np.sum(part, axis=0) / counts.sum() for part in (writer.labelled, writer.predicted))
        found[writer.writer] = {
            label: KnownShare(float(told[k]), float(f[k]), shares.matrix[""][label], shares.rectified[""][label])
            for k, label in enumerate(LABELS)
        }
    return found
