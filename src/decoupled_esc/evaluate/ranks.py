"""Judges' scores as places among people: what a search is paid with (chapter 05).

A classifier's probability is no measure of how good a reply is; it is used here to compare replies of one kind.  Each reply is
placed among what people said under the same strategy, so that a search gains nothing by a strategy which the classifier
seldom faults.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.evaluate.offline import EmpathyScale, ErrorClassifier

BEST = 4.0
"""The highest score (CSO's scores run from 0 to 4); a person's median turn has half of it."""


class AmongPeople:
    """Scores from 0 to 4: the share of people's turns under the same strategy that a reply is at least as good as, times 4."""

    def __init__(self, classifier: ErrorClassifier, scale: EmpathyScale, people: Sequence[Reply]):
        self.classifier, self.scale = classifier, scale
        fit, warmth = self._values(people)
        under = np.array([reply.strategy for reply in people])
        self._people = {
            name: tuple(np.sort(values[under == name]) for values in (fit, warmth)) for name in taxonomy.STRATEGIES
        }

    def scores(self, replies: Sequence[Reply]) -> list[tuple[float, float]]:
        """(empathy, fit of the strategy) of each reply; half marks under a strategy that no person used."""
        fit, warmth = self._values(replies)
        found = []
        for k, reply in enumerate(replies):
            people = self._people[reply.strategy]
            found.append((_place(people[1], warmth[k]), _place(people[0], fit[k])))
        return found

    def _values(self, replies: Sequence[Reply]) -> tuple[np.ndarray, np.ndarray]:
        """Probability that the strategy is no mismatch, and the sum of the three mechanisms of empathy; each [replies]."""
        fit = 1 - self.classifier.probabilities(replies)[:, LABELS.index("Strategy Mismatch")]
        return fit, self.scale.levels([reply.text for reply in replies]).sum(axis=1)


def _place(ordered: np.ndarray, value: float) -> float:
    if not len(ordered):
        return BEST / 2
    below, upto = np.searchsorted(ordered, value, "left"), np.searchsorted(ordered, value, "right")
    return float(BEST * (below + upto) / (2 * len(ordered)))
