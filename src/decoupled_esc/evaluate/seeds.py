"""Scores of systems that were trained under several seeds, and what their intervals cover.

An interval over dialogues alone says how *these* models would do on other dialogues, not what another training would give.
`evaluate_seeds` averages over seeds; its intervals hold for other dialogues and other trainings (`bootstrap.over_trainings`,
whose coverage ``bench/coverage.py`` measures).  The scores under each seed are kept as well.

Scored is variant ``paper``, from the few kilobytes that say what a system did at a test set (`SeedCounts`).
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from decoupled_esc.corpus import Turn
from decoupled_esc.evaluate import (
    Estimate,
    EvaluatedTurn,
    Evaluation,
    expected_scores,
    mean_scores,
    sampled_again,
    strategy,
    system_details,
    text,
)
from decoupled_esc.evaluate.bootstrap import Resampled, cluster_weights, over_trainings
from decoupled_esc.evaluate.judged import ScoreTable
from decoupled_esc.taxonomy import STRATEGIES

INVALID = "-"
DIGITS = string.digits + string.ascii_letters
DECIMALS = 6

BySeed = dict[str, dict[str, dict[str, float]]]
"""Seed -> ``"a - b"`` -> metric -> the difference under that seed."""


@dataclass(frozen=True)
class SeedCounts:
    """What one system did at a test set under one seed, for scores over seeds."""

    strategies: str
    """One character per turn, in the order of ids: the strategy's place in `taxonomy.STRATEGIES`, or ``-``."""
    text: list[list[float]]  # [dialogues][6] sums of `TEXT_METRICS` over a dialogue's replies, dialogues by name
    sampled: str = ""
    """Eight characters per turn, a digit of ``DIGITS`` each: how often each strategy came when it was sampled again."""


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
    places = strategy.strategy_indices([turn.predicted_strategy for turn in turns])
    return SeedCounts(
        strategies="".join(INVALID if place < 0 else str(place) for place in places),
        text=[np.round(sums[name], DECIMALS).tolist() for name in sorted(sums)],
        sampled="".join(DIGITS[n] for turn in turns for n in turn.sampled or ()),
    )


def evaluate_seeds(
    gold: Sequence[Turn],
    by_seed: Mapping[int, Mapping[str, SeedCounts]],
    *,
    contrasts: Sequence[tuple[str, str]],
    **resampling: int,
) -> SeedEvaluation:
    """Every metric under each seed and averaged; ``by_seed``: seed -> system -> its counts at the turns ``gold``.

    A system that was made under some of the seeds is averaged over those, and so is a difference over the seeds of both.
    Confusion counts in the details are of all seeds.  With one seed these are `evaluate_systems`'s scores.  Raises
    ValueError where counts are not of these turns, or two systems of a contrast share no seed.
    """
    gold = sorted(gold, key=lambda turn: turn.id)
    truth = [turn.strategy for turn in gold]
    names, dialogue = np.unique([turn.dialogue for turn in gold], return_inverse=True)
    _check(by_seed, len(gold), len(names))
    weights, turns = cluster_weights(len(names), **resampling), np.bincount(dialogue)
    single, details = {}, {}
    for name in dict.fromkeys(name for counts in by_seed.values() for name in counts):
        single[name], tables = {}, []
        for number, counts in by_seed.items():
            if name not in counts:
                continue
            w, invalid = strategy.grouped_confusion(_said(counts[name]), truth, dialogue, len(names))
            means = mean_scores(text.METRICS, np.array(counts[name].text), turns, weights)
            again = _again(counts[name], resampling["seed"])
            single[name][number] = means | expected_scores(w, invalid, again, truth, dialogue, weights, "paper")
            tables.append((w, invalid))
        details[name] = system_details(*(sum(parts) for parts in zip(*tables, strict=True)))
    averages, values = _together(single, contrasts, list(by_seed), intervals=len(names) > 1)
    together = Evaluation(
        systems={name: {"paper": scores} for name, scores in averages.systems.items()},
        contrasts={name: {"paper": scores} for name, scores in averages.contrasts.items()},
        details=details,
        gold_distribution=strategy.distribution(truth).tolist(),
        **resampling,
    )
    return SeedEvaluation(tuple(by_seed), together, values)


GOLD = "gold"
"""What `strategy_shares` calls the human reference."""


def strategy_shares(
    gold: Sequence[Turn],
    by_seed: Mapping[int, Mapping[str, SeedCounts]],
    *,
    contrasts: Sequence[tuple[str, str]],
    **resampling: int,
) -> SeedMeans:
    """Share of the turns at which each strategy was chosen, in per cent, averaged over seeds; the system ``gold`` is the human
    reference.  An answer without a strategy is none of the eight.  Arguments and errors as in `evaluate_seeds`."""
    gold = sorted(gold, key=lambda turn: turn.id)
    dialogue = np.unique([turn.dialogue for turn in gold], return_inverse=True)[1]
    turns = np.bincount(dialogue)
    _check(by_seed, len(gold), len(turns))

    def sums(chosen: Sequence[str]) -> np.ndarray:
        """Float [dialogues, 8], in per cent of a turn."""
        found = np.zeros((len(turns), len(STRATEGIES)))
        places = strategy.strategy_indices(chosen)
        np.add.at(found, (dialogue[places >= 0], places[places >= 0]), 100.0)
        return found

    own = {
        number: {name: sums(_said(counts)) for name, counts in systems.items()}
        | {GOLD: sums([turn.strategy for turn in gold])}
        for number, systems in by_seed.items()
    }
    return mean_over_seeds(turns, own, STRATEGIES, contrasts=contrasts, **resampling)


def _said(counts: SeedCounts) -> list[str | None]:
    """The strategy at each turn, in the order of ids; None: none of the eight."""
    return [None if sign == INVALID else STRATEGIES[int(sign)] for sign in counts.strategies]


def _again(counts: SeedCounts, seed: int) -> np.ndarray | None:
    """int [S, turns]: the samples of the strategies, if there are any."""
    digits = [DIGITS.index(digit) for digit in counts.sampled]
    return sampled_again(np.array(digits).reshape(-1, 8), seed) if digits else None


def _check(by_seed: Mapping[int, Mapping[str, SeedCounts]], turns: int, dialogues: int) -> None:
    for number, counts in by_seed.items():
        for name, found in counts.items():
            own = (len(found.strategies), len(found.text))
            if own != (turns, dialogues) or len(found.sampled) not in (0, 8 * turns):
                what = f"{own[0]} turns of {own[1]} dialogues, and the test set has {turns} of {dialogues}"
                raise ValueError(f"{name} under seed {number}: {what}")


def mean_over_seeds(
    counts: np.ndarray,
    by_seed: Mapping[int, Mapping[str, np.ndarray]],
    columns: Sequence[str],
    *,
    contrasts: Sequence[tuple[str, str]],
    **resampling: int,
) -> SeedMeans:
    """Means over turns under each seed and averaged, from sums by dialogue.

    ``counts`` [dialogues]: turns in each; ``by_seed``: seed -> system -> sums over the turns of each dialogue
    [dialogues, columns], in the unit of the means.  With one seed these are `judged.Means`'s (without missing values).
    Raises KeyError where seeds differ in their systems.
    """
    weights = cluster_weights(len(counts), **resampling)
    single = {
        name: {number: mean_scores(columns, sums[name], counts, weights) for number, sums in by_seed.items()}
        for name in next(iter(by_seed.values()))
    }
    averages, values = _together(single, contrasts, list(by_seed), intervals=len(counts) > 1)
    return SeedMeans(averages.systems, averages.contrasts, tuple(by_seed), values)


def _together(
    single: Mapping[str, Mapping[int, dict[str, Resampled]]],
    contrasts: Sequence[tuple[str, str]],
    seeds: Sequence[int],
    *,
    intervals: bool,
) -> tuple[ScoreTable, BySeed]:
    """Averages and the differences under each of ``seeds``; ``single``: system -> seed -> its scores under that seed."""
    differences: dict[str, dict[int, dict[str, Resampled]]] = {}
    for a, b in contrasts:
        both = [number for number in seeds if number in single[a] and number in single[b]]
        if not both:
            raise ValueError(f"{a} and {b} were made under no seed together")
        differences[f"{a} - {b}"] = {
            number: {key: single[a][number][key] - single[b][number][key] for key in single[a][number]}
            for number in both
        }

    def averaged(scores: Mapping[int, dict[str, Resampled]]) -> dict[str, Estimate]:
        """Means over the seeds; of one seed, its own scores."""
        first, *others = scores.values()
        if not others:
            return {key: score.estimate(interval=intervals) for key, score in first.items()}
        found = {key: over_trainings([score[key] for score in scores.values()]) for key in first}
        return found if intervals else {key: Estimate(mean.value) for key, mean in found.items()}

    levels = {name: averaged(scores) for name, scores in single.items()}
    table = ScoreTable(
        # Without a p-value: that a score is 0 is nobody's question.
        systems={name: {key: replace(one, p=None) for key, one in own.items()} for name, own in levels.items()},
        contrasts={name: averaged(scores) for name, scores in differences.items()},
    )
    values = {
        str(number): {
            name: {key: score.value for key, score in scores[number].items()}
            for name, scores in differences.items()
            if number in scores
        }
        for number in seeds
    }
    return table, values
