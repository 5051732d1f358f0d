"""Automatic evaluation: from decoded turns to scores with intervals.

`evaluate_systems` scores every system twice, as ``paper`` (what DecoupledESC's tables print) and as ``standard`` (the
textbook definitions), with 95% intervals from one bootstrap clustered by dialogue, and compares systems pairwise.

* strategy part of ``paper``: invalid predictions are dropped, the bias iteration makes 20 sweeps;
* strategy part of ``standard``: an invalid prediction is a miss, the bias iteration runs to its fixed point.

A sampled strategy is one of many that could have been.  Where more samples of it are known, strategy scores are their
mean over the samples: the expectation of what one sample scores (`strategy_scores`).  The score of the one sample
whose replies were evaluated, which is what papers print, stands in the details.

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
    samples: str = ""  # More samples of the strategy, as `strategy.signs`: as many at every turn of a system


@dataclass(frozen=True)
class SystemDetails:
    """What the one sample of a system holds whose replies were evaluated.  Vectors follow `taxonomy.STRATEGIES`."""

    turns: int
    dialogues: int
    invalid_rate: float  # Share of turns, 0..1, whose prediction is no strategy
    distribution: list[float]  # [8] share of each strategy among the valid predictions
    preference: dict[str, list[float]]  # variant -> [8] strategy preferences, with sum 8
    strategy_f1: dict[str, list[float]]  # variant -> [8] F1 of each strategy, x100
    confusion: list[list[int]]  # [8][8] turns with prediction i (row) and gold j (column)
    invalid: list[int]  # [8] turns without a valid prediction, per gold strategy
    one_sample: dict[str, dict[str, float]]  # variant -> strategy metric -> its value in this sample
    samples: int  # Whose mean the system's strategy scores are; 0: this sample is all there is


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

    Strategy metrics are means over a system's ``samples`` where it has any.  Text metrics are absent for a system whose
    replies are ``None``, and from its contrasts.  With a single dialogue there is nothing to resample and every
    interval is ``None``.

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
        predicted, truth = [turn.predicted_strategy for turn in system], [turn.gold_strategy for turn in system]
        one = strategy.sampled_confusion(strategy.strategy_indices(predicted)[None], truth, dialogue, len(names))
        more = strategy.places([turn.samples for turn in system]).T
        many = strategy.sampled_confusion(more, truth, dialogue, len(names)) if len(more) else one
        details[name] = system_details(*one, samples=len(more), variants=VARIANTS)
        text_scores = _text_scores(system, dialogue, weights) if _has_replies(name, system) else {}
        resampled[name] = {v: text_scores.get(v, {}) | strategy_scores(*many, weights, v) for v in VARIANTS}
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


def system_details(w: np.ndarray, invalid: np.ndarray, *, samples: int, variants: Sequence[str]) -> SystemDetails:
    """Of confusion counts [K, D, 8, 8] and invalid predictions [K, D, 8]: their sums, and the mean scores of the K."""
    one_sample = {
        v: {name: float(score(w.sum(1), invalid.sum(1), v).mean()) for name, score in SCORES.items()} for v in variants
    }
    dialogues, w, invalid = w.shape[1], w.sum((0, 1)), invalid.sum((0, 1))
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
        one_sample=one_sample,
        samples=samples,
    )


SCORES: dict[str, Callable[[np.ndarray, np.ndarray, str], np.ndarray]] = {
    "Q_W": lambda w, invalid, variant: strategy.weighted_f1(w, invalid, POLICY[variant]),
    "Q": lambda w, invalid, variant: strategy.macro_f1(w, invalid, POLICY[variant]),
    "B": lambda w, invalid, variant: strategy.bias(w, variant),
}
"""(confusion counts [..., 8, 8], invalid predictions [..., 8], variant) -> scores [...]."""


def strategy_scores(w: np.ndarray, invalid: np.ndarray, weights: np.ndarray, variant: str) -> dict[str, Resampled]:
    """Q_W, Q and B, means over S samples of the strategies, from their counts by dialogue [S, D, 8, 8] and [S, D, 8].

    In a replicate every sample is of the same resampled dialogues.  The metrics are averaged and not the counts: none
    is linear in the counts, and B of mean counts is far below the mean B, because the noise of a sample raises B
    (`strategy.bias`), and what a paper prints holds that noise.
    """

    def mean(score: Callable[..., np.ndarray], times: np.ndarray) -> np.ndarray:
        resampled = ((np.tensordot(times, counts, 1), times @ none) for counts, none in zip(w, invalid, strict=True))
        return sum(score(counts, none, variant) for counts, none in resampled) / len(w)

    w, invalid, weights = w.astype(float), invalid.astype(float), weights.astype(float)  # which BLAS multiplies
    found = {name: bootstrap(weights, partial(mean, score)) for name, score in SCORES.items()}
    return found | {"B": found["B"].centred()}


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
