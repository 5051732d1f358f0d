"""One planner, many decodings: its strategy scores from argmax through drawing at rising temperatures; and its calibration.

What a paper prints for a planner is one point of such a curve.  Everything here is computed from the planner's scores of the
eight strategies at each turn, so nothing has to be generated again.  The temperature acts on whole names, where a language
model that prints a name applies it token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from decoupled_esc.evaluate import strategy
from decoupled_esc.evaluate.bootstrap import Resampled, cluster_weights

TEMPERATURES = (0.0, 0.25, 0.5, 0.7, 1.0, 1.5, 2.0)
"""0 is argmax; 0.7 is DecoupledESC's."""
BINS = 10


def probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """[turns, 8] from scores [turns, 8] (log-probabilities up to a constant a turn): softmax of scores / temperature."""
    if temperature == 0:
        best = scores == scores.max(axis=1, keepdims=True)
        return best / best.sum(axis=1, keepdims=True)
    sharp = np.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    return sharp / sharp.sum(axis=1, keepdims=True)


def sweep(
    scores: np.ndarray, gold: Sequence[str], dialogues: Sequence[str], *, draws: int, replicates: int, seed: int
) -> list[dict]:
    """For each of ``TEMPERATURES``: weighted F1, macro F1 and B (variant ``paper``), estimates with 95% intervals.

    ``scores`` [turns, 8].  A drawn planner's score is the mean over ``draws`` sets of drawn strategies, each with the same
    resampled dialogues; the interval is about one such mean.
    """
    names = {name: number for number, name in enumerate(dict.fromkeys(dialogues))}
    group = np.array([names[name] for name in dialogues])
    weights = np.concatenate([np.ones((1, len(names)), dtype=int), cluster_weights(len(names), replicates, seed)])
    truth, draw, rows = strategy.strategy_indices(list(gold)), np.random.default_rng(seed), []
    for temperature in TEMPERATURES:
        p = probabilities(scores, temperature)
        copies: dict[str, list] = {"Q_W": [], "Q": [], "B": []}
        for _ in range(draws if temperature else 1):
            chance = draw.random((len(p), 1))
            said = p.argmax(axis=1) if temperature == 0 else np.minimum((p.cumsum(axis=1) <= chance).sum(axis=1), 7)
            tables = np.zeros((len(names), 8, 8))
            np.add.at(tables, (group, said, truth), 1)
            drawn, nothing = np.tensordot(weights, tables, 1), np.zeros((len(weights), 8))
            copies["Q_W"].append(strategy.weighted_f1(drawn, nothing, "drop"))
            copies["Q"].append(strategy.macro_f1(drawn, nothing, "drop"))
            copies["B"].append(strategy.bias(drawn, "paper"))
        means = {key: np.mean(values, axis=0) for key, values in copies.items()}
        found = {key: Resampled(float(values[0]), values[1:]) for key, values in means.items()}
        found["B"] = found["B"].centred()
        rows.append({"temperature": temperature, **{key: asdict(score.estimate()) for key, score in found.items()}})
    return rows


def calibration(scores: np.ndarray, gold: Sequence[str]) -> dict:
    """Whether the probabilities at temperature 1 mean what they say, of the most probable strategy.

    ``nats``: mean -log p of the gold strategy; ``error``: expected calibration error in points (Guo et al. 2017), over ten
    equal bins; ``bins``: turns, mean confidence and accuracy, in per cent, of each bin that is not empty.
    """
    p, truth = probabilities(scores, 1.0), strategy.strategy_indices(list(gold))
    confidence, right = p.max(axis=1), p.argmax(axis=1) == truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {"turns": int(here.sum()), "confidence": 100 * float(confidence[here].mean()), "accuracy": 100 * float(right[here].mean())}
        for here in (place == k for k in range(BINS))
        if here.any()
    ]
    gap = sum(row["turns"] * abs(row["confidence"] - row["accuracy"]) for row in bins) / len(truth)
    with np.errstate(divide="ignore"):
        nats = -np.log(p[np.arange(len(truth)), truth])
    return {"nats": float(nats.mean()), "accuracy": 100 * float(right.mean()), "error": gap, "bins": bins}
