"""One planner, many decodings: its strategy scores from argmax to sampling at rising temperatures; and its calibration.

All is computed from the planner's scores of the eight strategies at each turn.  The temperature acts on whole names, where
a language model that prints a name applies it token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.evaluate import strategy
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, cluster_weights, numbered

TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 1.0, 1.5, 2.0)
"""0 is argmax; 0.7 is DecoupledESC's."""
BINS = 10


@dataclass(frozen=True)
class StrategyScores:
    """Weighted F1, macro F1 (both x100) and B, variant ``paper``, of a planner at one temperature."""

    temperature: float
    Q_W: Estimate
    Q: Estimate
    B: Estimate


@dataclass(frozen=True)
class CalibrationBin:
    """Turns whose highest probability lies in one tenth of 0..1; mean ``confidence`` and ``accuracy`` in per cent."""

    turns: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """Whether the probabilities at temperature 1 mean what they say, of the most probable strategy."""

    nats: float  # Mean -log p of the gold strategy
    accuracy: float  # In per cent
    error: float  # Expected calibration error in points (Guo et al. 2017), over ten equal bins.
    bins: tuple[CalibrationBin, ...]  # Those that are not empty


def probabilities(scores: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """[turns, 8] from scores [turns, 8] (log-probabilities up to a constant per turn): temperature, then top-p.

    Softmax of scores / T, of which the least probable strategies with at most 1 - ``top_p`` together are left out (Holtzman
    et al. 2020), the most probable never.  Temperature 0 is argmax.
    """
    if temperature == 0:
        p = (scores == scores.max(axis=1, keepdims=True)).astype(float)
        return p / p.sum(axis=1, keepdims=True)
    p = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    p /= p.sum(axis=1, keepdims=True)
    rising = p.argsort(axis=1)
    out = np.take_along_axis(p, rising, 1).cumsum(axis=1) <= 1 - top_p
    out[:, -1] = False
    np.put_along_axis(p, rising, np.where(out, 0.0, np.take_along_axis(p, rising, 1)), 1)
    return p / p.sum(axis=1, keepdims=True)


def counts(p: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """int [turns, 8]: how often each strategy is sampled with probabilities ``p`` [turns, 8], ``chance`` [turns, S] in [0, 1)."""
    line = p.cumsum(axis=1)
    # Scaled to the line's end, which rounding may leave short of 1, so that nothing with probability 0 is sampled.
    drawn = (line[:, None] <= (chance * line[:, -1:])[:, :, None]).sum(axis=2)
    return (drawn[:, :, None] == np.arange(p.shape[1])).sum(axis=1)


def sweep(
    scores: np.ndarray,
    gold: Sequence[str],
    dialogues: Sequence[str],
    *,
    top_p: float,
    samples: int,
    replicates: int,
    seed: int,
) -> tuple[StrategyScores, ...]:
    """Scores with 95% intervals at each of ``TEMPERATURES`` with ``top_p``, from ``scores`` [turns, 8].

    Above temperature 0 a score is the mean over ``samples`` sets of sampled strategies, each with the same resampled
    dialogues; the interval is about one such mean.
    """
    group, groups = numbered(dialogues)
    weights = np.concatenate([np.ones((1, groups), dtype=int), cluster_weights(groups, replicates, seed)])
    truth, random, none_invalid = strategy.strategy_indices(gold), np.random.default_rng(seed), np.zeros((1, 8))
    found = []
    for temperature in TEMPERATURES:
        p, copies = probabilities(scores, temperature, top_p), []
        for _ in range(samples if temperature else 1):
            chance = random.random((len(p), 1))
            sampled = np.minimum((p.cumsum(axis=1) <= chance).sum(axis=1), 7)
            predicted = sampled if temperature else p.argmax(axis=1)
            tables = np.zeros((groups, 8, 8))
            np.add.at(tables, (group, predicted, truth), 1)
            w = np.tensordot(weights, tables, 1)
            f1 = [score(w, none_invalid, "drop") for score in (strategy.weighted_f1, strategy.macro_f1)]
            copies.append([*f1, strategy.bias(w, "paper")])
        weighted, macro, bias = (Resampled(float(row[0]), row[1:]) for row in np.mean(copies, axis=0))
        found.append(StrategyScores(temperature, weighted.estimate(), macro.estimate(), bias.centred().estimate()))
    return tuple(found)


def calibration(scores: np.ndarray, gold: Sequence[str]) -> Calibration:
    """The calibration of ``scores`` [turns, 8] on the ``gold`` strategies [turns]."""
    p, truth = probabilities(scores, 1.0, 1.0), strategy.strategy_indices(gold)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = tuple(
        CalibrationBin(int(here.sum()), 100 * float(confidence[here].mean()), 100 * float(right[here].mean()))
        for here in (place == k for k in range(BINS))
        if here.any()
    )
    gap = sum(row.turns * abs(row.confidence - row.accuracy) for row in bins) / len(truth)
    with np.errstate(divide="ignore"):
        nats = -np.log(p[np.arange(len(truth)), truth])
    return Calibration(float(nats.mean()), 100 * float(right.mean()), gap, bins)
