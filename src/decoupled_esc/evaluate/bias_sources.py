"""Where the preference bias B comes from: decoding, confidence, and shares of strategies, taken apart for one planner.

B is a function of confusion counts.  Their expectation over sampling, ``w[i, j]`` = the sum of p_i over the turns whose
gold strategy is j, needs no samples.

B is 0 exactly where every strategy is predicted as often as it is gold.  All strengths 1 is a fixed point of the update
in `strategy.preference` if and only if, for each i, sum_j w[i, j] = sum_j w[j, i]: row and column of i have one sum.
Whether predictions are right has no part in it.  So B of a planner has these sources: decoding, where argmax or a low
temperature turns frequent strategies into more frequent ones; confidence, which acts like a temperature; and shares,
where the planner finds a strategy more or less probable on average than people do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.evaluate import strategy
from decoupled_esc.evaluate.bootstrap import Resampled, bootstrap, cluster_weights, numbered
from decoupled_esc.evaluate.crossed import Rows
from decoupled_esc.evaluate.decoding import probabilities

METRICS = ("B", "Q_W", "Q", "accuracy")
"""Bias, weighted and macro F1, and the share of gold strategies, the last three x100; variant ``paper``."""
ARGMAX, PAPER, ONE = "argmax", "T = 0.7, top-p", "T = 1"
OWN, FLAT = "as scored", "base rates divided out"
SURE, FITTED = "temperature fitted", "temperature and shares fitted"
RETUNED = "another temperature", "strategies re-weighted"
FOLDS = 5
RIDGE = 1e-4
"""Keeps what the data does not determine near "leave the scores as they are"."""


def without_base_rates(scores: np.ndarray) -> np.ndarray:
    """Scores [turns, 8] over how probable the planner finds each strategy on average: no gold strategy is used."""
    p = probabilities(scores, 1.0, 1.0)
    return (np.log(np.maximum(p, 1e-300)) - np.log(p.mean(axis=0))).round(9)  # equal ones stay equal, for argmax


def recalibrated(
    scores: np.ndarray, gold: Sequence[str], dialogues: Sequence[str], seed: int, *, shares: bool
) -> np.ndarray:
    """Log-probabilities [turns, 8] after temperature scaling; with ``shares`` also one constant per strategy.

    The latter is vector scaling (Guo et al. 2017).  What a dialogue gets was fitted on the other four fifths of the
    dialogues.  Knowledge of the turn is not added: what moves is how sure the planner is, and how probable it finds
    each strategy over all; with constants its shares become those of people, and B at T = 1 is near 0 by construction.
    """
    from sklearn.model_selection import GroupKFold

    truth, logs = strategy.strategy_indices(gold), np.log(np.maximum(probabilities(scores, 1.0, 1.0), 1e-20))
    group, groups = numbered(dialogues)
    found = np.empty_like(logs)
    for learn, apply in GroupKFold(min(FOLDS, groups), shuffle=True, random_state=seed).split(logs, groups=group):
        scale, constants = _scaling(logs[learn], truth[learn], shares)
        found[apply] = scale * logs[apply] + constants
    return (
        found - np.log(np.exp(found - found.max(1, keepdims=True)).sum(1, keepdims=True)) - found.max(1, keepdims=True)
    )


def _scaling(logs: np.ndarray, truth: np.ndarray, shares: bool) -> tuple[float, np.ndarray]:
    """(scale, constants [8], 0 without ``shares``) with the least mean -log p of ``truth``."""
    from scipy.optimize import minimize

    turns, hit = len(truth), np.eye(8)[truth]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * logs + x[1:]
        z = z - z.max(axis=1, keepdims=True)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        away = np.append(x[0] - 1, x[1:])
        nats = -(z[np.arange(turns), truth] - np.log(np.exp(z).sum(axis=1))).mean()
        slope = np.append(((p - hit) * logs).sum() / turns, (p - hit).mean(axis=0) * shares)
        return nats + RIDGE * (away @ away), slope + 2 * RIDGE * away

    x = minimize(loss, np.append(1.0, np.zeros(8)), jac=True, method="L-BFGS-B").x
    return float(x[0]), x[1:]


def expected_counts(p: np.ndarray, truth: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """Float [groups, 8, 8]: expected turns with prediction i and gold j of each dialogue, from ``p`` [turns, 8]."""
    counts = np.zeros((groups, 8, 8))
    np.add.at(counts, (group, truth), p)
    return counts.swapaxes(1, 2)


def scores_of(counts: np.ndarray, weights: np.ndarray) -> dict[str, Resampled]:
    """`METRICS` from counts by dialogue [D, 8, 8], with copies from ``weights`` [R, D]."""
    none = np.zeros((1, 8))

    def of(score) -> Resampled:
        return bootstrap(weights, lambda times: score(np.tensordot(times, counts, 1)))

    return {
        "B": of(lambda w: strategy.bias(w, "paper")).centred(),
        "Q_W": of(lambda w: strategy.weighted_f1(w, none, "drop")),
        "Q": of(lambda w: strategy.macro_f1(w, none, "drop")),
        "accuracy": of(lambda w: 100 * np.trace(w, axis1=1, axis2=2) / np.maximum(w.sum((1, 2)), 1e-9)),  # 0 of none
    }


@dataclass(frozen=True)
class Retuning:
    """What can be changed in a planner without training."""

    setting: float
    temperature: float
    constants: np.ndarray
    """[8], added to its scores."""

    def probabilities(self, scores: np.ndarray, top_p: float) -> np.ndarray:
        """How probable each strategy is, [turns, 8]."""
        return probabilities(scores + self.constants, self.temperature, top_p)


def retuned_to(
    scores: np.ndarray, like: np.ndarray, gold: Sequence[str], temperature: float, top_p: float
) -> dict[str, Retuning]:
    """For each of `RETUNED`, the setting that brings the B of a planner with ``scores`` [turns, 8] nearest to another's.

    ``like`` [turns, 8]: the scores of the other, which is sampled at ``temperature`` with ``top_p``.

    The second multiplies the odds of each strategy by (its share of ``gold`` / its share of the planner's samples) to
    a power, the setting: 0 leaves them, and near 1 each is sampled as often as it is gold (Saerens et al. 2002).
    """
    truth, together = strategy.strategy_indices(gold), np.zeros(len(gold), dtype=int)
    sampled = probabilities(scores, temperature, top_p).sum(axis=0)
    lean = np.log(np.bincount(truth, minlength=8) + 1) - np.log(sampled + 1)
    ways = {
        RETUNED[0]: [Retuning(t, t, np.zeros(8)) for t in np.linspace(0.3, 3.0, 136)],
        RETUNED[1]: [Retuning(power, temperature, power * lean) for power in np.linspace(0.0, 2.0, 101)],
    }

    def bias(p: Sequence[np.ndarray]) -> np.ndarray:
        return strategy.bias(np.concatenate([expected_counts(one, truth, together, 1) for one in p]), "paper")

    target, found = bias([probabilities(like, temperature, top_p)]), {}
    for way, tried in ways.items():
        found[way] = tried[np.abs(bias([one.probabilities(scores, top_p) for one in tried]) - target).argmin()]
    return found


def conditions(
    scores: np.ndarray, gold: Sequence[str], dialogues: Sequence[str], *, top_p: float, replicates: int, seed: int
) -> Rows:
    """ "scores, decoding" -> `METRICS` of one planner, from its ``scores`` [turns, 8].

    Scores as they are, with base rates divided out, and recalibrated twice (`recalibrated`); each decoded by argmax,
    sampled at T = 0.7 with ``top_p`` (DecoupledESC's), and at T = 1.  Planners at the same dialogues can be subtracted.
    """
    group, groups = numbered(dialogues)
    weights, truth = cluster_weights(groups, replicates, seed), strategy.strategy_indices(gold)
    variants = {
        OWN: scores,
        FLAT: without_base_rates(scores),
        SURE: recalibrated(scores, gold, dialogues, seed, shares=False),
        FITTED: recalibrated(scores, gold, dialogues, seed, shares=True),
    }
    decodings = {ARGMAX: (0.0, 1.0), PAPER: (0.7, top_p), ONE: (1.0, 1.0)}
    return {
        f"{variant}, {name}": scores_of(expected_counts(probabilities(own, *how), truth, group, groups), weights)
        for variant, own in variants.items()
        for name, how in decodings.items()
    }


def parts(rows: Rows) -> dict[str, Resampled]:
    """What B loses as its sources are taken away one by one, from `conditions` of one planner.

    ``decoding``, from argmax or T = 0.7 to T = 1; ``confidence``, from there to a fitted temperature; ``shares``, all
    that is left; and, beside this sum, ``base rates``, what argmax loses when they are divided out.
    """
    b = {name: row["B"] for name, row in rows.items()}
    one, sure = b[f"{OWN}, {ONE}"], b[f"{SURE}, {ONE}"]
    return {
        "decoding, argmax": b[f"{OWN}, {ARGMAX}"] - one,
        "decoding, T = 0.7": b[f"{OWN}, {PAPER}"] - one,
        "confidence": one - sure,
        "shares": sure,
        "base rates, argmax": b[f"{OWN}, {ARGMAX}"] - b[f"{FLAT}, {ARGMAX}"],
    }


def differences(a: Rows, b: Rows) -> Rows:
    """Paired differences a - b, of `conditions` of two planners at the same dialogues."""
    return {name: {key: row[key] - b[name][key] for key in row} for name, row in a.items()}


def mean_nats(scores: np.ndarray, gold: Sequence[str]) -> float:
    """Mean -log p of the gold strategy."""
    p = probabilities(scores, 1.0, 1.0)
    return float(-np.log(np.maximum(p[np.arange(len(gold)), strategy.strategy_indices(gold)], 1e-20)).mean())


def parts_of(rows: Mapping[str, Rows]) -> Rows:
    """Planner -> its `parts`."""
    return {name: parts(own) for name, own in rows.items()}
