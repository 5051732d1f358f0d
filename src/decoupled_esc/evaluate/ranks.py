"""The reward of a search by offline judges: percentile ranks among human replies (chapter 05).

Each reply is ranked among human replies under the same strategy: a classifier's probability compares replies of one kind,
and a search gains nothing by a strategy that the classifier seldom faults.
"""

from collections.abc import Sequence

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.evaluate.offline import EmpathyScale, ErrorClassifier

BEST = 4.0
"""The highest score (CSO's scores run from 0 to 4); the median human turn has half of it."""


class PercentileReward:
    """Scores from 0 to 4: the percentile rank of a reply among human turns of the same strategy, as a share, times 4."""

    def __init__(self, classifier: ErrorClassifier, scale: EmpathyScale, human: Sequence[Reply]):
        """``human``: the human reference, replies of the training split."""
        self.classifier, self.scale = classifier, scale
        values = self._values(human)
        under = np.array([reply.strategy for reply in human])
        self._reference = {name: np.sort(values[:, under == name], axis=1) for name in taxonomy.STRATEGIES}

    def scores(self, replies: Sequence[Reply]) -> list[tuple[float, float]]:
        """(empathy, fit of the strategy) of each reply; half of `BEST` under a strategy without a human reference."""
        return [
            tuple(_rank(*pair) for pair in zip(self._reference[reply.strategy], values, strict=True))
            for reply, values in zip(replies, self._values(replies).T, strict=True)
        ]

    def _values(self, replies: Sequence[Reply]) -> np.ndarray:
        """[2, replies]: the sum of the mechanisms of empathy, and the probability that the strategy is no mismatch."""
        warmth = self.scale.levels([reply.text for reply in replies]).sum(axis=1)
        return np.stack([warmth, 1 - self.classifier.probabilities(replies)[:, LABELS.index("Strategy Mismatch")]])


def _rank(ordered: np.ndarray, value: float) -> float:
    if not len(ordered):
        return BEST / 2
    below, upto = np.searchsorted(ordered, value, "left"), np.searchsorted(ordered, value, "right")
    return float(BEST * (below + upto) / (2 * len(ordered)))
