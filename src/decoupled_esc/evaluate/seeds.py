"""Scores of systems that were trained under several seeds, and what their intervals cover.

Training with another seed gives another model.  An interval over dialogues alone says how *these* models would do on
other dialogues; whether another training run would do the same it can't say.  `evaluate_seeds` takes every score under
every seed and averages; its intervals hold for other dialogues and other trainings (`bootstrap.over_trainings`, whose coverage
``bench/coverage.py`` measures).  The scores under each seed are kept as well.

Only what needs no whole corpus of replies is scored here, variant ``paper``: what a system did at a test set is then at
most a hundred kilobytes (`SeedCounts`), and seeds that were trained on different days or machines can be put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate import (
    Estimate,
    EvaluatedTurn,
    Evaluation,
    both_scores,
    mean_scores,
    samples_of,
    signs_of,
    strategy,
    system_details,
    text,
)
from decoupled_esc.evaluate.bootstrap import Resampled, cluster_weights, over_trainings
from decoupled_esc.evaluate.judged import ScoreTable

DECIMALS = 6

BySeed = dict[str, dict[str, dict[str, float]]]
"""Seed -> ``"a - b"`` -> metric -> the difference under that seed."""


@dataclass(frozen=True)
class SeedCounts:
    """What one system did at a test set under one seed, for scores over seeds."""

    strategies: str
    """What was printed: a sign per turn (`strategy.signs`), in the order of ids."""
    text: list[list[float]]  # [dialogues][6] sums of `TEXT_METRICS` over a dialogue's replies, dialogues by name
    samples: list[str]
    """Further samples of the same; none where a system never samples its strategies."""


@dataclass(frozen=True)
class SeedEvaluation:
    """Scores averaged over ``seeds`` with 95% intervals, and the differences under each seed."""

    seeds: tuple[int, ...]
    together: Evaluation
    by_seed: BySeed


@dataclass(frozen=True)
class SeedMeans(ScoreTable):
    """Means averaged over ``seeds`` with 95% intervals, and the differences under each seed."""

    seeds: tuple[int, ...]
    by_seed: BySeed


def seed_counts(turns: Sequence[EvaluatedTurn]) -> SeedCounts:
    """What one system did at ``turns``.  Raises ValueError for a turn without a reply."""
    turns = sorted(turns, key=lambda turn: turn.id)
    if silent := [turn.id for turn in turns if turn.reply is None]:
        raise ValueError(f"no reply to {len(silent)} of {len(turns)} turns: {silent[:3]}")
    sums: dict[str, np.ndarray] = {}
    for turn in turns:
        scores = np.array(text.reply_scores(turn.reply, turn.gold_reply)["paper"])
        sums[turn.dialogue] = sums.get(turn.dialogue, 0) + scores
    text_sums = [np.round(sums[name], DECIMALS).tolist() for name in sorted(sums)]
    return SeedCounts(signs_of(turns), text_sums, samples_of(turns))


def evaluate_seeds(
    gold: Sequence[Turn],
    by_seed: Mapping[int, Mapping[str, SeedCounts]],
    *,
    contrasts: Sequence[tuple[str, str]],
    replicates: int,
    seed: int,
) -> SeedEvaluation:
    """Every metric under each seed and averaged; ``by_seed``: seed -> system -> its counts at the turns ``gold``.

    Confusion counts in the details are of what was printed under all seeds.  With one seed these are
    `evaluate_systems`'s scores.  Raises ValueError where seeds differ in their systems or counts are not of these turns.
    """
    gold = sorted(gold, key=lambda turn: turn.id)
    truth = [turn.strategy for turn in gold]
    names, dialogue = np.unique([turn.dialogue for turn in gold], return_inverse=True)
    _check(by_seed, len(gold), len(names))
    weights, turns = cluster_weights(len(names), replicates, seed), np.bincount(dialogue)
    single, details = {}, {}
    for name in next(iter(by_seed.values())):
        single[name], tables = [], []
        for counts in by_seed.values():
            printed = [counts[name].strategies]
            one, more = (
                strategy.sampled_confusion(strategy.places(rows), truth, dialogue, len(names))
                for rows in (printed, counts[name].samples or printed)
            )
            means = mean_scores(text.METRICS, np.array(counts[name].text), turns, weights)
            single[name].append(means | both_scores(one, more, weights, "paper"))
            tables.append([table[0] for table in one])
        details[name] = system_details(*(sum(parts) for parts in zip(*tables, strict=True)))
    averages, values = _together(single, contrasts, list(by_seed), intervals=len(names) > 1)
    together = Evaluation(
        systems={name: {"paper": scores} for name, scores in averages.systems.items()},
        contrasts={name: {"paper": scores} for name, scores in averages.contrasts.items()},
        details=details,
        gold_distribution=strategy.distribution(truth).tolist(),
        replicates=replicates,
        seed=seed,
    )
    return SeedEvaluation(tuple(by_seed), together, values)


def _check(by_seed: Mapping[int, Mapping[str, SeedCounts]], turns: int, dialogues: int) -> None:
    systems = sorted(next(iter(by_seed.values())))
    for number, counts in by_seed.items():
        if sorted(counts) != systems:
            raise ValueError(f"seed {number} has the systems {sorted(counts)}, and another one {systems}")
        for name, found in counts.items():
            for signs in (found.strategies, *found.samples):
                if (len(signs), len(found.text)) != (turns, dialogues):
                    raise ValueError(
                        f"{name} under seed {number}: {len(signs)} turns of {len(found.text)} dialogues, "
                        f"and the test set has {turns} of {dialogues}"
                    )


def mean_over_seeds(
    counts: np.ndarray,
    by_seed: Mapping[int, Mapping[str, np.ndarray]],
    columns: Sequence[str],
    *,
    contrasts: Sequence[tuple[str, str]],
    replicates: int,
    seed: int,
) -> SeedMeans:
    """Means over turns under each seed and averaged, from sums by dialogue.

    ``counts`` [dialogues]: turns in each; ``by_seed``: seed -> system -> sums over the turns of each dialogue
    [dialogues, columns], in the unit of the means.  With one seed these are `judged.Means`'s (without missing values).
    Raises KeyError where seeds differ in their systems.
    """
    weights = cluster_weights(len(counts), replicates, seed)
    single = {
        name: [mean_scores(columns, sums[name], counts, weights) for sums in by_seed.values()]
        for name in next(iter(by_seed.values()))
    }
    averages, values = _together(single, contrasts, list(by_seed), intervals=len(counts) > 1)
    return SeedMeans(averages.systems, averages.contrasts, tuple(by_seed), values)


def _together(
    single: Mapping[str, Sequence[dict[str, Resampled]]],
    contrasts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    *,
    intervals: bool,
) -> tuple[ScoreTable, BySeed]:
    """Averages and the differences under each seed; ``single``: system -> its scores under each of ``seeds``."""
    differences = {
        f"{a} - {b}": [{key: one[key] - two[key] for key in one} for one, two in zip(single[a], single[b], strict=True)]
        for a, b in contrasts
    }

    def averaged(scores: Sequence[dict[str, Resampled]]) -> dict[str, Estimate]:
        """Means over the seeds; of one seed, its own scores."""
        if len(scores) == 1:
            return {key: score.estimate(interval=intervals) for key, score in scores[0].items()}
        found = {key: over_trainings([score[key] for score in scores]) for key in scores[0]}
        return found if intervals else {key: Estimate(mean.value) for key, mean in found.items()}

    def level(mean: Estimate) -> Estimate:
        """Without a p-value: that a score is 0 is nobody's question."""
        return Estimate(mean.value, mean.low, mean.high)

    table = ScoreTable(
        systems={name: {key: level(mean) for key, mean in averaged(scores).items()} for name, scores in single.items()},
        contrasts={name: averaged(scores) for name, scores in differences.items()},
    )
    values = {
        str(number): {
            name: {key: score.value for key, score in scores[place].items()} for name, scores in differences.items()
        }
        for place, number in enumerate(seeds)
    }
    return table, values
