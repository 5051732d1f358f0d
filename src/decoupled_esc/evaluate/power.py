"""How small a difference a design can see, from how much its measurements vary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from decoupled_esc.corpus.judgements import Rating
from decoupled_esc.evaluate.bootstrap import Estimate, bootstrap, cluster_weights

LEVEL, POWER = 0.05, 0.8


def smallest_detectable(sd: float, n: float) -> float:
    """The true mean difference that a two-sided test of ``n`` paired differences finds in 80% of the cases, in the unit of ``sd``.

    ``sd``: standard deviation of a single paired difference; the test has level 5%, and n is large enough for the normal
    distribution (Cohen 1988, chapter 2).
    """
    return float((norm.ppf(1 - LEVEL / 2) + norm.ppf(POWER)) * sd / np.sqrt(n))


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
