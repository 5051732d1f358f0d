"""Automatic evaluation: from decoded turns to scores with intervals.

`evaluate_systems` scores every system twice, as ``paper`` (what DecoupledESC's tables print) and as ``standard`` (the
textbook definitions), with 95% intervals from one bootstrap clustered by dialogue, and compares systems pairwise.

* strategy part of ``paper``: invalid predictions are dropped, the bias iteration makes 20 sweeps;
* strategy part of ``standard``: an invalid prediction is a miss, the bias iteration runs to its fixed point.

Intervals are bootstrap percentiles, except where resampling shifts a score: B (`Resampled.centred`) and corpus-level
Distinct (`jackknife_interval`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np

from decoupled_esc.evaluate import strategy, text
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, bootstrap, cluster_weights, ratio_of_sums

__all__ = [
    "SINGLE_METRICS",
    "STRATEGY_METRICS",
    "TEXT_METRICS",
    "VARIANTS",
    "Estimate",
    "EvaluatedTurn",
    "Evaluation",
    "SystemDetails",
    "evaluate_systems",
]

VARIANTS = ("paper", "standard")
TEXT_METRICS = text.METRICS
STRATEGY_METRICS = ("Q_W", "Q", "B")
"""Expected over samples of a system's strategies, where it has any (`strategy_scores`)."""
SINGLE_METRICS = ("Q_W1", "Q1", "B1")
"""The same of the one sample that was printed, as papers report them."""
RESAMPLED = 8
"""How many of a system's samples the bootstrap takes."""
POLICY: dict[str, strategy.Policy] = {"paper": "drop", "standard": "wrong"}

Scores = dict[str, dict[str, Estimate]]
"""variant -> metric -> estimate.  All metrics are x100, except B (0 to sqrt(7))."""


@dataclass(frozen=True)
class EvaluatedTurn:
    """One supporter turn of the test set and what one system made of it."""

    id: str
    dialogue: str
    gold_strategy: str
    gold_reply: str
    predicted_strategy: str | None  # ``None``: the system's output named none of the eight strategies
    reply: str | None  # ``None``: this system makes no replies at all (a planner); an empty reply is ``""``
    samples: str = ""
    """Further samples of the predicted strategy, as `strategy.signs`; as many at every turn of a system."""


@dataclass(frozen=True)
class SystemDetails:
    """What stands behind the strategy scores of what a system printed.  Vectors follow `taxonomy.STRATEGIES`."""

    turns: int
    dialogues: int
    invalid_rate: float  # Share of turns, 0..1, whose prediction is no strategy
    distribution: list[float]  # [8] share of each strategy among the valid predictions
    preference: dict[str, list[float]]  # variant -> [8] strategy preferences, with sum 8
    strategy_f1: dict[str, list[float]]  # variant -> [8] F1 of each strategy, x100
    confusion: list[list[int]]  # [8][8] turns with prediction i (row) and gold j (column)
    invalid: list[int]  # [8] turns without a valid prediction, per gold strategy


@dataclass(frozen=True)
class Evaluation:
    """Scores of several systems on the same turns; plain data."""

    systems: dict[str, Scores]
    contrasts: dict[str, Scores]  # ``"a - b"`` -> the paired difference, in the metric's unit
    details: dict[str, SystemDetails]
    gold_distribution: list[float]  # [8] share of each strategy among the gold turns
    replicates: int
    seed: int


def evaluate_systems(
    systems: Mapping[str, Sequence[EvaluatedTurn]], *, contrasts: Sequence[tuple[str, str]], replicates: int, seed: int
) -> Evaluation:
    """Score ``systems`` (name -> its turns, in any order) and the differences a - b of ``contrasts``.

    ``STRATEGY_METRICS`` are expected over a system's samples, ``SINGLE_METRICS`` those of what was printed.  Text metrics are
    absent for a system whose replies are ``None``, and from its contrasts.  With a single dialogue there is nothing to
    resample and every interval is ``None``.

    Raises ValueError if there are no systems or turns, an id occurs twice, two systems differ in their turn ids or in
    the gold side of a turn, a system replies to some turns only or has more samples at one turn than at another, a
    strategy is unknown, or a contrast names an unknown system.
    """
    turns = _aligned(systems)
    for name in {name for pair in contrasts for name in pair} - turns.keys():
        raise ValueError(f"a contrast names {name!r}, but the systems are {sorted(turns)}")
    gold = next(iter(turns.values()))
    names, dialogue = np.unique([turn.dialogue for turn in gold], return_inverse=True)
    weights = cluster_weights(len(names), replicates, seed)

    resampled, details = {}, {}
    for name, system in turns.items():
        printed, truth = signs_of(system), [turn.gold_strategy for turn in system]
        one, more = (
            strategy.sampled_confusion(strategy.places(rows), truth, dialogue, len(names))
            for rows in ([printed], samples_of(system) or [printed])
        )
        details[name] = system_details(*(counts[0] for counts in one))
        text_scores = _text_scores(system, dialogue, weights) if _has_replies(name, system) else {}
        resampled[name] = {v: text_scores.get(v, {}) | both_scores(one, more, weights, v) for v in VARIANTS}
    differences = {f"{a} - {b}": _difference(resampled[a], resampled[b]) for a, b in contrasts}

    def finish(scores: dict[str, dict[str, Resampled]]) -> Scores:
        interval = len(names) > 1
        return {v: {metric: score.estimate(interval=interval) for metric, score in scores[v].items()} for v in VARIANTS}

    return Evaluation(
        systems={name: finish(scores) for name, scores in resampled.items()},
        contrasts={name: finish(scores) for name, scores in differences.items()},
        details=details,
        gold_distribution=strategy.distribution([turn.gold_strategy for turn in gold]).tolist(),
        replicates=replicates,
        seed=seed,
    )


def _aligned(systems: Mapping[str, Sequence[EvaluatedTurn]]) -> dict[str, list[EvaluatedTurn]]:
    """Every system's turns in the order of their ids, after checking that all cover the same turns."""
    if not systems:
        raise ValueError("there is no system to evaluate")
    aligned = {name: sorted(turns, key=lambda turn: turn.id) for name, turns in systems.items()}
    first, reference = next(iter(aligned.items()))
    if not reference:
        raise ValueError(f"{first!r} has no turns")
    gold_side = attrgetter("dialogue", "gold_strategy", "gold_reply")
    for name, turns in aligned.items():
        ids = [turn.id for turn in turns]
        twice = next((a for a, b in zip(ids, ids[1:]) if a == b), None)
        if twice is not None:
            raise ValueError(f"{name!r} has turn {twice!r} twice")
        if ids != [turn.id for turn in reference]:
            raise ValueError(_uncovered(first, [turn.id for turn in reference], name, ids))
        for expected, turn in zip(reference, turns):
            if gold_side(turn) != gold_side(expected):
                raise ValueError(f"{first!r} and {name!r} disagree on the dialogue or gold of turn {turn.id!r}")
    return aligned


def _uncovered(a: str, a_ids: list[str], b: str, b_ids: list[str]) -> str:
    """Which turns two systems do not share, with examples."""
    only_a, only_b = sorted({*a_ids} - {*b_ids}), sorted({*b_ids} - {*a_ids})
    return (
        f"systems must cover the same turns: {len(only_a)} only in {a!r} {only_a[:3]}, "
        f"{len(only_b)} only in {b!r} {only_b[:3]}; evaluate them on their common turns, or in separate calls"
    )


def _has_replies(name: str, turns: Sequence[EvaluatedTurn]) -> bool:
    """Whether this system writes replies; raises ValueError if it does so for some turns only."""
    missing = [turn.id for turn in turns if turn.reply is None]
    if missing and len(missing) < len(turns):
        raise ValueError(
            f"{name!r} has no reply to {len(missing)} of {len(turns)} turns {missing[:3]}; "
            'an empty reply is "", and None everywhere means that the system makes no replies'
        )
    return not missing


def system_details(w: np.ndarray, invalid: np.ndarray) -> SystemDetails:
    """Sums over dialogues: confusion counts [D, 8, 8] and invalid predictions [D, 8]."""
    dialogues, w, invalid = len(w), w.sum(0), invalid.sum(0)
    turns = int(w.sum() + invalid.sum())
    return SystemDetails(
        turns=turns,
        dialogues=dialogues,
        invalid_rate=int(invalid.sum()) / turns,
        distribution=(w.sum(1) / max(1, w.sum())).tolist(),
        preference={v: strategy.preference(w, v).tolist() for v in VARIANTS},
        strategy_f1={v: strategy.strategy_f1(w, invalid, POLICY[v]).tolist() for v in VARIANTS},
        confusion=w.tolist(),
        invalid=invalid.tolist(),
    )


def signs_of(turns: Sequence[EvaluatedTurn]) -> str:
    """The printed strategies, a sign per turn."""
    return strategy.signs([turn.predicted_strategy for turn in turns])


def samples_of(turns: Sequence[EvaluatedTurn]) -> list[str]:
    """Sample by sample, a sign per turn; none where the system has no samples.

    Raises ValueError where there are more at one turn than at another.
    """
    return ["".join(signs) for signs in zip(*(turn.samples for turn in turns), strict=True)]


Counts = tuple[np.ndarray, np.ndarray]
"""Confusion counts int [S, D, 8, 8] and invalid predictions int [S, D, 8] of S samples per dialogue (`sampled_confusion`)."""


def strategy_scores(w: np.ndarray, invalid: np.ndarray, weights: np.ndarray, variant: str) -> dict[str, Resampled]:
    """Expected Q_W, Q and B: means over S samples of the strategies, from their `Counts`.

    A value is the mean over all S.  Its replicates are means over the first ``RESAMPLED`` samples under the same weights,
    moved by how far these few are from all: dialogues are what is resampled, eight samples take most of the sampling noise
    out of a replicate, and fifty would take minutes.
    """

    def expected(score: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Resampled:
        values, few = score(w.sum(1), invalid.sum(1)), min(RESAMPLED, len(w))
        copies = np.mean([score(np.tensordot(weights, w[k], 1), weights @ invalid[k]) for k in range(few)], axis=0)
        return Resampled(float(values.mean()), copies + (values.mean() - values[:few].mean()))

    return {
        "Q_W": expected(lambda w, invalid: strategy.weighted_f1(w, invalid, POLICY[variant])),
        "Q": expected(lambda w, invalid: strategy.macro_f1(w, invalid, POLICY[variant])),
        "B": expected(lambda w, _: strategy.bias(w, variant)).centred(),
    }


def both_scores(printed: Counts, samples: Counts, weights: np.ndarray, variant: str) -> dict[str, Resampled]:
    """`strategy_scores` of the samples, and under the names of ``SINGLE_METRICS`` those of the one that was printed."""
    single = strategy_scores(*printed, weights, variant)
    return strategy_scores(*samples, weights, variant) | dict(zip(SINGLE_METRICS, single.values(), strict=True))


def mean_scores(
    columns: Sequence[str], sums: np.ndarray, counts: np.ndarray, weights: np.ndarray
) -> dict[str, Resampled]:
    """Means over items from sums per dialogue [D, columns] and items per dialogue [D]."""
    return {
        column: bootstrap(weights, partial(ratio_of_sums, sums=sums[:, k], counts=counts))
        for k, column in enumerate(columns)
    }


def _text_scores(
    turns: Sequence[EvaluatedTurn], dialogue: np.ndarray, weights: np.ndarray
) -> dict[str, dict[str, Resampled]]:
    """The six text metrics in both variants; ``dialogue`` int [turns] numbers each turn's dialogue."""
    dialogues = weights.shape[1]
    counts = np.bincount(dialogue, minlength=dialogues)
    pairs = [text.reply_scores(turn.reply, turn.gold_reply) for turn in turns]
    scores: dict[str, dict[str, Resampled]] = {}
    for variant, metrics in text.PER_REPLY.items():
        sums = _sum_by(dialogue, np.array([pair[variant] for pair in pairs]), dialogues)
        scores[variant] = mean_scores(metrics, sums, counts, weights)

    words = [text.tokens_of(turn.reply).words for turn in turns]
    gold = [text.tokens_of(turn.gold_reply).words for turn in turns]
    statistics = _sum_by(dialogue, np.array([text.bleu_statistics(*pair) for pair in zip(words, gold)]), dialogues)
    by_dialogue: list[list[tuple[str, ...]]] = [[] for _ in range(dialogues)]
    for index, tokens in zip(dialogue, words):
        by_dialogue[index].append(tokens)
    corpus = {}
    for n in (1, 2):
        distinct = text.distinct_counts(by_dialogue, n)
        corpus[f"D-{n}"] = Resampled(
            100 * text.corpus_distinct(distinct), 100 * text.corpus_distinct_without(distinct), jackknife=True
        )
        corpus[f"B-{n}"] = bootstrap(weights, lambda times, n=n: 100 * text.corpus_bleu(times @ statistics, n))
    scores["standard"] = {metric: (corpus | scores["standard"])[metric] for metric in TEXT_METRICS}
    return scores


def _sum_by(group: np.ndarray, values: np.ndarray, groups: int) -> np.ndarray:
    """Column sums per group: [items], [items, k] -> [groups, k]."""
    sums = np.zeros((groups, values.shape[1]), dtype=values.dtype)
    np.add.at(sums, group, values)
    return sums


def _difference(
    a: dict[str, dict[str, Resampled]], b: dict[str, dict[str, Resampled]]
) -> dict[str, dict[str, Resampled]]:
    """a - b for the metrics that both systems have."""
    return {v: {m: a[v][m] - b[v][m] for m in a[v] if m in b[v]} for v in VARIANTS}
