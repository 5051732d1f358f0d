"""Scores of systems that were trained under several seeds, and what their intervals cover.

A training with another seed is another model.  An interval that draws dialogues alone says how *these* models would do
in other talks; whether another training would do the same it can't say.  `evaluate_seeds` takes every score under every
seed and averages, and draws dialogues and seeds both, independently of each other (the pigeonhole bootstrap, Owen 2007,
which errs on the wide side).  Three seeds are few to draw from, so the scores under each are kept beside the average.

Only what needs no whole corpus of replies is scored here, variant ``paper``: what a system did at a test set is then a few
kilobytes (`record`), and seeds that were trained on different days or machines can be put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate import Estimate, EvaluatedTurn, Evaluation, _details, strategy, text
from decoupled_esc.evaluate.bootstrap import Resampled, bootstrap, cluster_weights, ratio_of_sums
from decoupled_esc.taxonomy import STRATEGIES

INVALID = "-"
DECIMALS = 6


def record(turns: Sequence[EvaluatedTurn]) -> dict:
    """What one system did, as plain data: the strategy of every turn, and per dialogue the sums of its replies' scores.

    ``strategies``: one character a turn, in the order of the turns' ids: the strategy's place in `taxonomy.STRATEGIES`, or
    ``-``; ``text``: [dialogues][6] sums of `TEXT_METRICS`, dialogues by name.  Raises ValueError for a turn without a reply.
    """
    turns = sorted(turns, key=lambda turn: turn.id)
    if silent := [turn.id for turn in turns if turn.reply is None]:
        raise ValueError(f"no reply to {len(silent)} of {len(turns)} turns: {silent[:3]}")
    sums: dict[str, np.ndarray] = {}
    for turn in turns:
        scores = np.array(text.reply_scores(turn.reply, turn.gold_reply)["paper"])
        sums[turn.dialogue] = sums.get(turn.dialogue, 0) + scores
    places = strategy.strategy_indices([turn.predicted_strategy for turn in turns])
    return {
        "strategies": "".join(INVALID if place < 0 else str(place) for place in places),
        "text": [np.round(sums[name], DECIMALS).tolist() for name in sorted(sums)],
    }


def evaluate_seeds(
    gold: Sequence[Turn],
    by_seed: Mapping[int, Mapping[str, dict]],
    *,
    contrasts: Sequence[tuple[str, str]],
    replicates: int,
    seed: int,
) -> tuple[Evaluation, dict[int, dict[str, dict[str, float]]]]:
    """(scores averaged over the seeds with 95% intervals, seed -> ``"a - b"`` -> metric -> the difference under that seed).

    ``by_seed``: seed -> system -> its `record` of the turns ``gold``.  Every metric is taken under each seed and then
    averaged; confusion counts in the details are of all seeds.  With one seed these are `evaluate_systems`'s scores and
    intervals.  Raises ValueError where seeds differ in their systems or a record is not of these turns.
    """
    gold = sorted(gold, key=lambda turn: turn.id)
    names = sorted({turn.dialogue for turn in gold})
    dialogue = np.searchsorted(names, [turn.dialogue for turn in gold])
    systems = list(next(iter(by_seed.values())))
    for number, records in by_seed.items():
        if set(records) != set(systems):
            raise ValueError(f"seed {number} has the systems {sorted(records)}, and another one {sorted(systems)}")
        for name, found in records.items():
            if len(found["strategies"]) != len(gold) or len(found["text"]) != len(names):
                raise ValueError(
                    f"{name} under seed {number}: {len(found['strategies'])} turns of {len(found['text'])} dialogues, "
                    f"and the test set has {len(gold)} of {len(names)}"
                )
    weights = cluster_weights(len(names), replicates, seed)
    drawn = cluster_weights(len(by_seed), replicates, seed + 1) / len(by_seed)
    single, details = {}, {}
    for name in systems:
        counted = [_counts(gold, dialogue, records[name]["strategies"], len(names)) for records in by_seed.values()]
        details[name] = _details(sum(w.sum(0) for w, _ in counted), sum(missed.sum(0) for _, missed in counted), len(names))
        single[name] = [
            _scores(w, missed, np.array(records[name]["text"]), np.bincount(dialogue), weights)
            for (w, missed), records in zip(counted, by_seed.values(), strict=True)
        ]
    averages, values = _together(single, contrasts, list(by_seed), drawn, intervals=len(names) > 1)
    evaluation = Evaluation(
        **{part: {name: {"paper": scores} for name, scores in found.items()} for part, found in averages.items()},
        details=details,
        gold_distribution=strategy.distribution([turn.strategy for turn in gold]).tolist(),
        replicates=replicates,
        seed=seed,
    )
    return evaluation, values


def mean_over_seeds(
    counts: np.ndarray,
    by_seed: Mapping[int, Mapping[str, np.ndarray]],
    columns: Sequence[str],
    *,
    contrasts: Sequence[tuple[str, str]],
    replicates: int,
    seed: int,
) -> tuple[dict[str, dict[str, dict[str, Estimate]]], dict[int, dict[str, dict[str, float]]]]:
    """(``systems`` and ``contrasts`` -> name -> column -> mean over turns, averaged over the seeds; the differences under each seed).

    ``counts`` [dialogues]: turns in each; ``by_seed``: seed -> system -> sums over the turns of each dialogue [dialogues, columns],
    in the unit of the means.  With one seed these are `judged.Means`'s (without missing values).  Raises KeyError where seeds
    differ in their systems.
    """
    weights = cluster_weights(len(counts), replicates, seed)
    drawn = cluster_weights(len(by_seed), replicates, seed + 1) / len(by_seed)
    single = {
        name: [
            {column: bootstrap(weights, partial(ratio_of_sums, sums=sums[name][:, k], counts=counts)) for k, column in enumerate(columns)}
            for sums in by_seed.values()
        ]
        for name in next(iter(by_seed.values()))
    }
    return _together(single, contrasts, list(by_seed), drawn, intervals=len(counts) > 1)


def _counts(gold: Sequence[Turn], dialogue: np.ndarray, written: str, dialogues: int) -> tuple[np.ndarray, np.ndarray]:
    """Confusion counts [D, 8, 8] and invalid predictions [D, 8] of one system."""
    predicted = [None if sign == INVALID else STRATEGIES[int(sign)] for sign in written]
    return strategy.grouped_confusion(predicted, [turn.strategy for turn in gold], dialogue, dialogues)


def _scores(w: np.ndarray, missed: np.ndarray, sums: np.ndarray, turns: np.ndarray, weights: np.ndarray) -> dict[str, Resampled]:
    def f1(score) -> Resampled:
        return bootstrap(weights, lambda draws: score(np.tensordot(draws, w, 1), draws @ missed, "drop"))

    return {
        **{key: bootstrap(weights, partial(ratio_of_sums, sums=sums[:, place], counts=turns)) for place, key in enumerate(text.METRICS)},
        "Q_W": f1(strategy.weighted_f1),
        "Q": f1(strategy.macro_f1),
        "B": bootstrap(weights, lambda draws: strategy.bias(np.tensordot(draws, w, 1), "paper")).centred(),
    }


def _together(
    single: Mapping[str, Sequence[dict[str, Resampled]]], contrasts: Sequence[tuple[str, str]], seeds: Sequence[int], drawn: np.ndarray, intervals: bool
) -> tuple[dict[str, dict[str, dict[str, Estimate]]], dict[int, dict[str, dict[str, float]]]]:  # fmt: skip
    """(averages of systems and contrasts, the differences under each seed); ``single``: system -> its scores under each of ``seeds``."""
    differences = {
        f"{a} - {b}": [{key: one[key] - other[key] for key in one} for one, other in zip(single[a], single[b], strict=True)]
        for a, b in contrasts
    }
    averages = {
        part: {name: _averaged(scores, drawn, intervals) for name, scores in found.items()}
        for part, found in (("systems", single), ("contrasts", differences))
    }
    values = {
        number: {name: {key: score.value for key, score in scores[place].items()} for name, scores in differences.items()}
        for place, number in enumerate(seeds)
    }
    return averages, values


def _averaged(scores: Sequence[dict[str, Resampled]], drawn: np.ndarray, intervals: bool) -> dict[str, Estimate]:
    """Means over the seeds; a draw's copy is the mean over the seeds that were drawn."""
    found = {}
    for key in scores[0]:
        of = [one[key] for one in scores]
        copies = sum(share * one.copies for share, one in zip(drawn.T, of, strict=True))
        mean = Resampled(float(np.mean([one.value for one in of])), copies, least=of[0].least)
        found[key] = mean.estimate() if intervals else Estimate(mean.value)
    return found

