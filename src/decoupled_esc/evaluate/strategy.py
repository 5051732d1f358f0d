"""Strategy metrics: F1 over the eight strategies, and the preference bias B.

Every function takes confusion counts ``w`` of shape [..., 8, 8], ``w[i, j]`` = turns with prediction i and gold j,
so that thousands of bootstrap replicates are one call.  A prediction that names none of the eight strategies is
*invalid*: it never enters ``w`` and is counted per gold strategy instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from decoupled_esc.taxonomy import STRATEGIES

Policy = Literal["wrong", "drop"]
Variant = Literal["paper", "standard"]

N = len(STRATEGIES)
INVALID = "-"
PAPER_SWEEPS = 20
TOLERANCE = 1e-10
"""Largest change of log p in one sweep at which the ``standard`` iteration stops."""
MAX_SWEEPS = 100_000
"""A test set of 1,800 turns needs 10 to 200 sweeps; thousands only if a few turns join large groups of strategies."""

_INDEX = {name: index for index, name in enumerate(STRATEGIES)}


def strategy_indices(names: Sequence[str | None]) -> np.ndarray:
    """int [len(names)]: positions in `STRATEGIES`, -1 for ``None``.

    Raises ValueError for any other name: an unparseable prediction must be ``None``, not a spelling variant.
    """
    unknown = {name for name in names if name is not None and name not in _INDEX}
    if unknown:
        raise ValueError(f"not one of the {N} strategies: {sorted(unknown)}; use None for an invalid prediction")
    return np.array([-1 if name is None else _INDEX[name] for name in names], dtype=np.int64)


def signs(names: Sequence[str | None]) -> str:
    """One character per strategy: its position in `STRATEGIES`, or ``-`` for ``None``."""
    return "".join(INVALID if place < 0 else str(place) for place in strategy_indices(names))


def places(rows: Sequence[str]) -> np.ndarray:
    """int [len(rows), length]: what `signs` wrote in each of ``rows``, -1 for ``-``.

    Raises ValueError for rows of different lengths, or a character that is no sign.
    """
    if len({len(row) for row in rows}) > 1 or set("".join(rows)) - set(f"{INVALID}01234567"):
        raise ValueError("rows of different lengths, or with a character that stands for no strategy")
    return np.array([[-1 if sign == INVALID else int(sign) for sign in row] for row in rows], dtype=np.int64)


def sampled_confusion(
    predicted: np.ndarray, gold: Sequence[str], group: np.ndarray, groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts over turns of S samples of the predictions, by group.

    Gives w int [S, groups, 8, 8] by predicted and gold, and the invalid predictions by gold, int [S, groups, 8].
    ``predicted`` int [S, turns] are positions in `STRATEGIES` or -1; ``group`` int [turns] numbers the group (the
    dialogue) of each turn from 0.  Raises ValueError on unequal lengths, an unknown name, or a gold strategy that is None.
    """
    samples, turns = predicted.shape
    if turns != len(gold):
        raise ValueError(f"{turns} predictions for {len(gold)} gold strategies")
    column = strategy_indices(gold)
    if (column < 0).any():
        raise ValueError("a gold strategy is None")
    # Invalid predictions go to a ninth row, which is then cut off.
    cell = (np.asarray(group) * (N + 1) + np.where(predicted < 0, N, predicted)) * N + column
    size = groups * (N + 1) * N
    counted = np.bincount((np.arange(samples)[:, None] * size + cell).ravel(), minlength=samples * size)
    table = counted.reshape(samples, groups, N + 1, N)
    return table[:, :, :N], table[:, :, N]


def distribution(predicted: Sequence[str | None]) -> np.ndarray:
    """float [8]: the share of each strategy among the valid predictions; all 0 when there is none."""
    indices = strategy_indices(predicted)
    counts = np.bincount(indices[indices >= 0], minlength=N)
    return counts / max(1, counts.sum())


def _support(w: np.ndarray, invalid: np.ndarray, policy: Policy) -> np.ndarray:
    """[..., 8]: turns per gold strategy that count under ``policy``."""
    if policy not in ("wrong", "drop"):
        raise ValueError(f"policy must be 'wrong' or 'drop', not {policy!r}")
    return w.sum(-2) + (invalid if policy == "wrong" else 0)


def strategy_f1(w: np.ndarray, invalid: np.ndarray, policy: Policy) -> np.ndarray:
    """F1 of each strategy, x100, [..., 8]; 0 for a strategy that is neither predicted nor gold.

    ``policy`` for the ``invalid`` [..., 8] predictions: ``"wrong"`` counts each as a miss of its gold strategy,
    ``"drop"`` leaves the turn out, which flatters a system that often fails to name a strategy.
    """
    hits = np.diagonal(w, axis1=-2, axis2=-1)
    predicted_and_gold = w.sum(-1) + _support(w, invalid, policy)
    return 200 * hits / np.maximum(predicted_and_gold, 1)


def macro_f1(w: np.ndarray, invalid: np.ndarray, policy: Policy) -> np.ndarray:
    """Q: the mean of `strategy_f1` over all eight strategies, x100, [...].

    A strategy absent from a sample counts with F1 = 0, as in scikit-learn with ``labels=`` all eight and
    ``zero_division=0``: averaging over the strategies present would compare means of different things.
    """
    return strategy_f1(w, invalid, policy).mean(-1)


def weighted_f1(w: np.ndarray, invalid: np.ndarray, policy: Policy) -> np.ndarray:
    """Q_W: the mean of `strategy_f1` weighted by gold frequency, x100, [...]; 0 without turns."""
    support = _support(w, invalid, policy)
    return (strategy_f1(w, invalid, policy) * support).sum(-1) / np.maximum(support.sum(-1), 1)


def preference(w: np.ndarray, variant: Variant) -> np.ndarray:
    """Strategy preference p of Kang et al. (2024), eq. 7 of DecoupledESC: float [..., 8] >= 0 with sum 8.

    A turn with prediction i and gold j != i is a match that i won against j; p is the strength of each strategy
    in the Bradley-Terry model of these matches, and the update is Newman's (2023):

        p_i <- sum_j w[i,j] p_j / (p_i + p_j)  /  sum_j w[j,i] / (p_i + p_j),    j != i, in place, i = 0..7

    ``paper`` makes 20 sweeps from p = 1; ``standard`` iterates to the fixed point, the maximum-likelihood strengths.
    Correct predictions (the diagonal) never matter.

    Where a strength has no finite, positive value this returns the limit, never NaN:

    * never wrongly predicted, but missed (row 0, column not): p_i = 0.  Terms with w = 0 count 0, so several such
      strategies do no harm.
    * wrongly predicted, never missed (column 0, row not): p_i is infinite; after scaling, all mass is shared
      equally by these strategies and every other has 0.  A constant predictor has B = sqrt(7).
    * neither (row and column 0): no evidence; p_i = 1 where the geometric mean of the other positive p is 1.
      Hence a perfect predictor, and no data at all, give p = 1 everywhere and B = 0.
    * ``standard`` only: strategies form groups such that wins never go back from one to another.  The groups that
      nobody outside beats keep all mass, each at geometric mean 1, since their ratio is not determined.  After 20
      sweeps the others still have small finite values, which is what ``paper`` reports.

    Raises ValueError for another shape or variant, ArithmeticError if `MAX_SWEEPS` do not settle ``standard``.
    """
    w = np.asarray(w, dtype=float)
    if w.shape[-2:] != (N, N):
        raise ValueError(f"confusion counts must have shape [..., {N}, {N}], not {w.shape}")
    if variant not in ("paper", "standard"):
        raise ValueError(f"variant must be 'paper' or 'standard', not {variant!r}")
    wins = w.reshape(-1, N, N) * (1 - np.eye(N))
    beats_any, beaten = wins.sum(-1) > 0, wins.sum(-2) > 0
    p = _twenty_sweeps(wins) if variant == "paper" else _fixed_point(wins)
    dominant = beats_any & ~beaten
    p = np.where(dominant.any(-1, keepdims=True), dominant, p)
    return (p * N / p.sum(-1, keepdims=True)).reshape(w.shape[:-1])


def bias_of_chance(shares: Sequence[float], turns: int, replicates: int, seed: int) -> float:
    """The mean B (variant ``paper``) of a predictor without any preference, on ``turns`` turns: what noise alone makes.

    It samples each strategy with its gold share (``shares`` [8]) whatever the gold strategy is.  Raises ValueError
    without turns or replicates.
    """
    if turns < 1 or replicates < 1:
        raise ValueError(f"need at least one turn and one replicate, not {turns} and {replicates}")
    joint = np.outer(shares, shares).ravel()
    sampled = np.random.default_rng(seed).multinomial(turns, joint / joint.sum(), size=replicates)
    return float(bias(sampled.reshape(-1, N, N), "paper").mean())


def bias(w: np.ndarray, variant: Variant) -> np.ndarray:
    """Preference bias B, eq. 8 of DecoupledESC: the population standard deviation of `preference`.

    ``w`` [..., 8, 8] -> float [...], from 0 (no bias) to sqrt(7) = 2.6458, the 2.65 that CSO prints: a constant
    predictor reaches it, and so does any with one over-used strategy that it never misses.  Errors as `preference`.

    Sampling noise alone makes B positive: a predictor that prefers nothing shows about 0.1 on 1,792 turns and more
    on fewer, so values on test sets of different size are not comparable.
    """
    return preference(w, variant).std(-1)


def _sweep(wins: np.ndarray, p: np.ndarray) -> np.ndarray:
    """One pass of the update over the eight strategies; ``wins`` [R, 8, 8], ``p`` [R, 8] -> new p [R, 8].

    A strategy that nobody with p > 0 beats keeps its p.  A p of 0 stays 0.
    """
    p = p.copy()
    for i in range(N):
        pair = p[:, i, None] + p
        inverse = np.divide(1.0, pair, out=np.zeros_like(pair), where=pair > 0)
        won = (wins[:, i, :] * p * inverse).sum(-1)
        lost = (wins[:, :, i] * inverse).sum(-1)
        np.divide(won, lost, out=p[:, i], where=lost > 0)
    return p


def _unit_geometric_mean(p: np.ndarray, together: np.ndarray) -> np.ndarray:
    """Scale p [R, 8] so that the positive p of each group of strategies have geometric mean 1.

    ``together`` bool [R, 8, 8]: which strategies are in one group.
    """
    positive = p > 0
    log_p = np.log(np.where(positive, p, 1.0))
    members = together & positive[:, None, :]
    mean = (members * log_p[:, None, :]).sum(-1) / np.maximum(members.sum(-1), 1)
    return np.where(positive, np.exp(log_p - mean), 0.0)


def _twenty_sweeps(wins: np.ndarray) -> np.ndarray:
    """The published iteration; strategies without evidence form no group with the others and keep p = 1."""
    seen = (wins.sum(-1) + wins.sum(-2)) > 0
    together = seen[:, :, None] & seen[:, None, :]
    p = np.ones(wins.shape[:-1])
    for _ in range(PAPER_SWEEPS):
        p = _unit_geometric_mean(_sweep(wins, p), together)
    return p


def _fixed_point(wins: np.ndarray) -> np.ndarray:
    """The maximum-likelihood strengths, with the limit 0 for whoever some group beats for good."""
    better = np.eye(N, dtype=bool) | (wins > 0)
    for _ in range(3):  # paths of up to 2, 4, 8 wins
        better = np.matmul(better.astype(np.float32), better.astype(np.float32)) > 0
    together = better & better.swapaxes(-1, -2)
    unbeaten = (together | ~better.swapaxes(-1, -2)).all(-1)
    wins = wins * (together & unbeaten[:, :, None])
    p = unbeaten.astype(float)
    running = np.arange(len(p))
    for _ in range(MAX_SWEEPS):
        old = p[running]
        new = _unit_geometric_mean(_sweep(wins[running], old), together[running])
        p[running] = new
        change = np.abs(np.log(np.where(new > 0, new, 1.0)) - np.log(np.where(old > 0, old, 1.0))).max(-1)
        running = running[change > TOLERANCE]
        if not running.size:
            return p
    raise ArithmeticError(f"strategy preference did not settle in {MAX_SWEEPS} sweeps")
