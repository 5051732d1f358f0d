"""Intervals for scores of dialogue systems: a bootstrap clustered by dialogue.

Turns of one dialogue share a seeker and a problem, so whole dialogues are sampled with replacement (Efron and
Tibshirani 1993).  A replicate is a vector of integer weights, one per dialogue, so that weighted sums of all replicates
are one matrix product.  Two systems are compared on the *same* replicates.  ``**resampling`` is everywhere the
``replicates`` and the ``seed`` of `cluster_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

SMALLEST_P = 1e-12
Z_95 = 1.959963984540054
"""0.975 quantile of the standard normal distribution."""


@dataclass(frozen=True)
class Estimate:
    """A score with the ends of its 95% interval, in the score's own unit; no interval is ``None`` twice."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Of a difference over several trainings: how probable one at least as large is where there is none (`over_trainings`)."""


def numbered(names: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """(int [items]: the number of each item's cluster, by first appearance in ``names`` [items]; how many)."""
    number = {name: index for index, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=int), len(number)


def cluster_weights(n_clusters: int, replicates: int, seed: int) -> np.ndarray:
    """How often each replicate holds each cluster: int [replicates, n_clusters], every row summing to n_clusters.

    Raises ValueError without clusters or replicates.
    """
    if n_clusters < 1 or replicates < 1:
        raise ValueError(f"need at least one cluster and one replicate, not {n_clusters} and {replicates}")
    share = np.full(n_clusters, 1 / n_clusters)
    return np.random.default_rng(seed).multinomial(n_clusters, share, size=replicates)


def ratio_of_sums(weights: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means over items under each replicate, float [R], 0 without items; weights [R, D], sums, counts [D]."""
    total = weights @ counts
    return (weights @ sums) / np.where(total > 0, total, 1)


@dataclass(frozen=True)
class Resampled:
    """A score with its copies on resampled data, from which an interval follows.

    `__sub__` pairs the copies of two systems one by one, so both must come from the same weights.
    """

    value: float
    copies: np.ndarray  # float [R] bootstrap replicates, or [D] values with one dialogue left out
    jackknife: bool = False
    least: float | None = None  # Where the score can't be below this, neither are the ends of its interval

    def __sub__(self, other: Resampled) -> Resampled:
        if self.jackknife != other.jackknife or self.copies.shape != other.copies.shape:
            raise ValueError("cannot subtract scores that were resampled differently")
        return Resampled(self.value - other.value, self.copies - other.copies, self.jackknife)

    def centred(self) -> Resampled:
        """The copies moved so that their mean is ``value``: for a score >= 0 that noise inflates.

        Resampling adds noise to data that hold noise already, so copies of the bias B lie above B itself.  Moved, they keep
        their spread, and their interval is about the B of another test set of this size (see `strategy.bias`).
        """
        return Resampled(self.value, self.copies + (self.value - self.copies.mean()), self.jackknife, least=0.0)

    def estimate(self, *, interval: bool = True) -> Estimate:
        """The score with its 95% interval: jackknife normal, or percentiles of the bootstrap."""
        if not interval:
            return Estimate(self.value)
        if self.jackknife:
            return jackknife_interval(self.value, self.copies)
        return percentile_interval(self.value, self.copies if self.least is None else self.copies.clip(self.least))


def bootstrap(weights: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> Resampled:
    """Apply ``statistic``, [R, D] weights -> [R] scores, to the data as they are and to every replicate."""
    everything = np.ones((1, weights.shape[1]), dtype=weights.dtype)
    scores = statistic(np.concatenate([everything, weights]))
    return Resampled(float(scores[0]), scores[1:])


def percentile_interval(value: float, replicates: np.ndarray) -> Estimate:
    """``value`` with the 2.5th and 97.5th percentiles of ``replicates`` [R]."""
    low, high = np.quantile(replicates, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


def jackknife_interval(value: float, left_out: np.ndarray) -> Estimate:
    """``value`` +- 1.96 jackknife standard errors, from scores with each of D clusters left out, [D].

    For corpus-level Distinct-n: replicates repeat dialogues, which have no new n-grams, and all lie below the score.
    """
    clusters = len(left_out)
    variance = (clusters - 1) / clusters * ((left_out - left_out.mean()) ** 2).sum()
    margin = Z_95 * float(np.sqrt(variance))
    return Estimate(float(value), float(value) - margin, float(value) + margin)


def over_trainings(trainings: Sequence[Resampled]) -> Estimate:
    """The mean score of S trainings, with the 95% interval of what other trainings would score on other dialogues.

    Trainings and dialogues are crossed: every training answered every dialogue, and the ``copies`` [R] of all are of the same
    resampled dialogues.  S is at least 2.  The margin adds one part for either, each at
    its own degrees of freedom, as limits for a sum of variances do (Graybill and Wang 1980; Burdick and Graybill 1992,
    section 3.2)::

        margin^2 = t(S - 1)^2 between / S  +  z^2 max(0, dialogues - both / S),    but at least z^2 dialogues

    *between* is the variance of the trainings' scores, *dialogues* the bootstrap variance of their mean, and *both* that of each
    training's distance from it, which *between* holds already.  Few trainings that differ are met by t (4.3 for three, 2.8
    for five); trainings that are equal have the interval over dialogues.  ``p`` is one minus the level of the widest interval that
    leaves out 0, and 1e-12 at the least.
    """
    values, copies = np.array([one.value for one in trainings]), np.array([one.copies for one in trainings])
    number, mean, each = len(values), float(values.mean()), copies.mean(axis=0)
    dialogues = each.var(ddof=1)
    both = (copies - each).var(axis=1, ddof=1).sum() / (number - 1)
    between, own = values.var(ddof=1) / number, max(0.0, dialogues - both / number)

    def margin(level: float) -> float:
        z, t = norm.isf(level / 2), student.isf(level / 2, number - 1)
        return float(np.sqrt(max(z**2 * dialogues, t**2 * between + z**2 * own)))

    least = -np.inf if trainings[0].least is None else trainings[0].least
    low, high = max(least, mean - margin(0.05)), mean + margin(0.05)
    if margin(SMALLEST_P) <= abs(mean):
        p = SMALLEST_P if mean else 1.0
    else:
        p = brentq(lambda level: margin(level) - abs(mean), SMALLEST_P, 1.0)
    return Estimate(mean, low, high, p)


def together(trainings: Sequence[Resampled]) -> Estimate:
    """The mean of a score over trainings: `over_trainings`, or one training's own score, about other dialogues alone."""
    return trainings[0].estimate() if len(trainings) == 1 else over_trainings(trainings)
