"""Automatic evaluation: from decoded turns to scores with intervals.

`evaluate_systems` scores every system twice, as ``paper`` (what DecoupledESC's tables print) and as ``standard`` (the
textbook definitions), with 95% intervals from one bootstrap clustered by dialogue, and compares systems pairwise.

* strategy part of ``paper``: invalid predictions are dropped, the bias iteration makes 20 sweeps;
* strategy part of ``standard``: an invalid prediction is a miss, the bias iteration runs to its fixed point.

Intervals are bootstrap percentiles, except where resampling shifts a score: B (`Resampled.centred`) and corpus-level
Distinct (`jackknife_interval`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter

import numpy as np

from decoupled_esc.evaluate import strategy, text
from decoupled_esc.evaluate.bootstrap import Estimate, Resampled, bootstrap, cluster_weights, ratio_of_sums

VARIANTS = ("paper", "standard")
TEXT_METRICS = text.METRICS
STRATEGY_METRICS = ("Q_W", "Q", "B")
"""Of a system whose strategies were sampled again and again, their expectation: the mean over the samples."""
SINGLE_METRICS = {metric: f"{metric}1" for metric in STRATEGY_METRICS}
"""Those of the one sample that was printed, which is what the papers report."""
RESAMPLED = 8
"""Samples of the strategies whose bootstrap makes the interval of an expectation.

Dialogues are what is resampled; eight samples leave an eighth of the variance of sampling, and fifty would take minutes.
"""
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
    sampled: tuple[int, ...] | None = None  # [8] how often each strategy came when it was sampled again, if it was


@dataclass(frozen=True)
class SystemDetails:
    """What stands behind a system's strategy scores.  Vectors follow `taxonomy.STRATEGIES`."""

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
    systems: Mapping[str, Sequence[EvaluatedTurn]], *, contrasts: Sequence[tuple[str, str]], **resampling: int
) -> Evaluation:
    """Score ``systems`` (name -> its turns, in any order) and the differences a - b of ``contrasts``.

    Text metrics are absent for a system whose replies are ``None``, and from its contrasts.  With a single dialogue
    there is nothing to resample and every interval is ``None``.

    Raises ValueError if there are no systems or turns, an id occurs twice, two systems differ in their turn ids or in
    the gold side of a turn, a system replies to some turns only, a strategy is unknown, or a contrast names
    an unknown system.
    """
    turns = _aligned(systems)
    for name in {name for pair in contrasts for name in pair} - turns.keys():
        raise ValueError(f"a contrast names {name!r}, but the systems are {sorted(turns)}")
    gold = next(iter(turns.values()))
    names, dialogue = np.unique([turn.dialogue for turn in gold], return_inverse=True)
    weights = cluster_weights(len(names), **resampling)

    resampled, details = {}, {}
    for name, system in turns.items():
        predicted, truth = [turn.predicted_strategy for turn in system], [turn.gold_strategy for turn in system]
        w, invalid = strategy.grouped_confusion(predicted, truth, dialogue, len(names))
        details[name] = system_details(w, invalid)
        text_scores = _text_scores(system, dialogue, weights) if _has_replies(name, system) else {}
        again = sampled_again([turn.sampled for turn in system], resampling["seed"])
        for v in VARIANTS:
            strategies = expected_scores(w, invalid, again, truth, dialogue, weights, v)
            resampled.setdefault(name, {})[v] = text_scores.get(v, {}) | strategies
    differences = {
        f"{a} - {b}": {
            v: {
                metric: score - resampled[b][v][metric]
                for metric, score in resampled[a][v].items()
                if metric in resampled[b][v]
            }
            for v in VARIANTS
        }
        for a, b in contrasts
    }

    def finish(scores: dict[str, dict[str, Resampled]]) -> Scores:
        interval = len(names) > 1
        return {v: {metric: score.estimate(interval=interval) for metric, score in scores[v].items()} for v in VARIANTS}

    return Evaluation(
        systems={name: finish(scores) for name, scores in resampled.items()},
        contrasts={name: finish(scores) for name, scores in differences.items()},
        details=details,
        gold_distribution=strategy.distribution([turn.gold_strategy for turn in gold]).tolist(),
        **resampling,
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
    known = [turn.id for turn in reference]
    for name, turns in aligned.items():
        ids = [turn.id for turn in turns]
        if twice := [a for a, b in zip(ids, ids[1:]) if a == b]:
            raise ValueError(f"{name!r} has turn {twice[0]!r} twice")
        if ids != known:
            lacks, more = sorted({*known} - {*ids}), sorted({*ids} - {*known})
            raise ValueError(
                f"systems must cover the same turns: {len(lacks)} only in {first!r} {lacks[:3]}, {len(more)} only in {name!r} "
                f"{more[:3]}; evaluate them on their common turns, or in separate calls"
            )
        for expected, turn in zip(reference, turns):
            if gold_side(turn) != gold_side(expected):
                raise ValueError(f"{first!r} and {name!r} disagree on the dialogue or gold of turn {turn.id!r}")
    return aligned


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


def strategy_scores(w: np.ndarray, invalid: np.ndarray, weights: np.ndarray, variant: str) -> dict[str, Resampled]:
    """Q_W, Q and B from confusion counts per dialogue, [D, 8, 8] and [D, 8]."""

    def f1(score: Callable[..., np.ndarray]) -> Resampled:
        return bootstrap(weights, lambda times: score(np.tensordot(times, w, 1), times @ invalid, POLICY[variant]))

    bias = bootstrap(weights, lambda times: strategy.bias(np.tensordot(times, w, 1), variant))
    return {"Q_W": f1(strategy.weighted_f1), "Q": f1(strategy.macro_f1), "B": bias.centred()}


def sampled_again(counts: Sequence[Sequence[int] | None], seed: int) -> np.ndarray | None:
    """int [S, turns]: the samples of a system's strategies, from [8] counts a turn; None where it was not sampled again."""
    if any(row is None for row in counts) or not np.any(counts):
        return None
    return strategy.shuffled(np.array(counts), seed)


def expected_scores(
    w: np.ndarray, invalid: np.ndarray, again: np.ndarray | None, truth: Sequence[str], dialogue: np.ndarray,
    weights: np.ndarray, variant: str,
) -> dict[str, Resampled]:  # fmt: skip
    """`STRATEGY_METRICS` as expectations over the samples ``again`` [S, turns], and `SINGLE_METRICS` of the printed one.

    ``w`` and ``invalid``: confusion counts per dialogue of the printed sample.  An expectation's value is over all samples,
    its copies are those of the first ``RESAMPLED``, moved to it.  A system that was not sampled again is its own expectation.
    """
    single = strategy_scores(w, invalid, weights, variant)
    found = single
    if again is not None:
        tables = list(zip(*strategy.sampled_confusion(again, truth, dialogue, weights.shape[1]), strict=True))
        whole = {key: np.mean(values) for key, values in _on_the_whole(*map(np.array, zip(*tables)), variant).items()}
        few = [strategy_scores(*table, weights, variant) for table in tables[:RESAMPLED]]
        found = {}
        for key, value in whole.items():
            apart = value - np.mean([one[key].value for one in few])
            found[key] = Resampled(float(value), np.mean([one[key].copies for one in few], axis=0) + apart)
        found["B"] = found["B"].centred()
    return found | {SINGLE_METRICS[key]: score for key, score in single.items()}


def _on_the_whole(w: np.ndarray, invalid: np.ndarray, variant: str) -> dict[str, np.ndarray]:
    """[S] Q_W, Q and B of all dialogues together; ``w`` [S, D, 8, 8], ``invalid`` [S, D, 8]."""
    w, invalid = w.sum(1), invalid.sum(1)
    f1 = {"Q_W": strategy.weighted_f1, "Q": strategy.macro_f1}
    found = {key: score(w, invalid, POLICY[variant]) for key, score in f1.items()}
    return found | {"B": strategy.bias(w, variant)}


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
