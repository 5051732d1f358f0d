"""How small a difference a design can see, from how much its measurements vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student

from decoupled_esc.corpus.judgements import Rating
from decoupled_esc.evaluate.bootstrap import Z_95, Estimate, bootstrap, cluster_weights

LEVEL, POWER = 0.05, 0.8


def smallest_detectable(sd: float, n: float) -> float:
    """The true mean difference that a two-sided test of ``n`` paired differences finds in 80% of the cases, in the unit of ``sd``.

    ``sd``: standard deviation of a single paired difference; the test has level 5%, and n is large enough for the normal
    distribution (Cohen 1988, chapter 2).
    """
    return float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * sd / np.sqrt(n))


@dataclass(frozen=True)
class Spread:
    """Variances of the difference between two systems that are trained once each and answer ``turns`` test turns once."""

    runs: float | None
    """Between training runs, with the chance of their samples in it; None where there was one run."""
    dialogues: float
    """Between test sets; of one run it holds the chance of the samples, too."""
    turns: int

    def detectable(self, turns: int, runs: int = 1) -> float:
        """The true difference that a mean over ``runs`` runs at ``turns`` turns finds in 80% of the cases (two-sided, 5%)."""
        variance = (self.runs or 0.0) / runs + self.dialogues * self.turns / turns
        return smallest_detectable(np.sqrt(variance), 1)

    def runs_needed(self, difference: float, turns: int) -> int | None:
        """Training runs with which ``difference`` is found so at ``turns`` turns; None where no number is enough."""
        left = (difference / smallest_detectable(1.0, 1)) ** 2 - self.dialogues * self.turns / turns
        return None if left <= 0 else max(1, int(np.ceil((self.runs or 0.0) / left)))


def spread_of(mean: Estimate, single: Sequence[float], turns: int) -> Spread:
    """From a difference's mean over training runs and its value ``single`` [S] in each, all at the same ``turns`` turns.

    The interval of `bootstrap.over_trainings` adds up margin^2 = t(S - 1)^2 runs / S + z^2 dialogues, which is solved
    for its last part.  Of one run the interval is over dialogues alone.
    """
    margin, number = (mean.high - mean.low) / 2, len(single)
    if number == 1:
        return Spread(None, float((margin / Z_95) ** 2), turns)
    runs = float(np.var(single, ddof=1))
    own = margin**2 - student.isf(LEVEL / 2, number - 1) ** 2 * runs / number
    return Spread(runs, float(max(0.0, own) / Z_95**2), turns)


def pooled(spreads: Sequence[Spread]) -> Spread:
    """Mean variances of several differences at the same turns."""
    runs = [one.runs for one in spreads if one.runs is not None]
    between = float(np.mean(runs)) if runs else None
    return Spread(between, float(np.mean([one.dialogues for one in spreads])), spreads[0].turns)


@dataclass(frozen=True)
class PairedSpread:
    """One rater's scores of two writers' replies to the same posts, on one dimension."""

    rater: str
    dimension: str
    posts: int
    difference: Estimate
    """Mean of the first writer's score minus the second's."""
    sd: float
    """Standard deviation of that difference between posts."""


def paired_spreads(
    ratings: Sequence[Rating], first: str, second: str, *, replicates: int, seed: int
) -> tuple[PairedSpread, ...]:
    """For every rater and dimension, how the scores of ``first`` and ``second`` differ, with 95% intervals over posts."""
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in ratings:
        if row.writer in (first, second):
            scores.setdefault((row.rater, row.dimension), {}).setdefault(row.conversation, {})[row.writer] = row.value
    found = []
    for (rater, dimension), posts in sorted(scores.items()):
        gaps = np.array([both[first] - both[second] for _, both in sorted(posts.items()) if len(both) == 2])
        if len(gaps) > 1:
            weights = cluster_weights(len(gaps), replicates, seed)
            mean = bootstrap(weights, lambda times, gaps=gaps: times @ gaps / len(gaps))
            found.append(PairedSpread(rater, dimension, len(gaps), mean.estimate(), float(gaps.std(ddof=1))))
    return tuple(found)
