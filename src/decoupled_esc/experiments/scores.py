"""Scores of systems: automatic and strategy metrics under one seed, over seeds, and over temperatures."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from decoupled_esc import prompts
from decoupled_esc.corpus import Turn, windows
from decoupled_esc.evaluate import EvaluatedTurn, Evaluation, decoding, evaluate_systems, seeds
from decoupled_esc.experiments.inputs import Base, Decoding, Measured, Policy, Turns
from decoupled_esc.experiments.replies import Replies, Reply, ReplyDecoupled, counted, tag_scores, tagged
from decoupled_esc.experiments.sampling import complete, engine_of, fitted
from decoupled_esc.generate import baselines
from decoupled_esc.generate.engine import Sampling, stream
from decoupled_esc.pipeline import Missing, Step, Work

Contrast = tuple[str, str]
"""The first system minus the second."""


SAMPLES = 50
"""Of the strategies of each turn: the expectation's own error is then a seventh of one sample's."""


def evaluated(replies: Replies, gold: Mapping[str, Turn], sampling: Sampling, seed: int) -> list[EvaluatedTurn]:
    """What a system answered, beside what people did; ``sampling`` is how its strategies were sampled from its scores.

    Where the printed answer named none of the eight strategies the samples name none: scores are of the eight alone.
    """
    sampled = [None] * len(replies.rows)
    if sampling.temperature and all(getattr(row, "scores", None) for row in replies.rows):
        p = decoding.probabilities(np.array([row.scores for row in replies.rows]), sampling.temperature, sampling.top_p)
        streams = [np.random.default_rng(stream(seed, "strategies", row.id, 8)) for row in replies.rows]
        counts = decoding.counts(p, np.stack([one.random(SAMPLES) for one in streams]))
        sampled = [
            tuple(own) if row.strategy else (0,) * 8 for row, own in zip(replies.rows, counts.tolist(), strict=True)
        ]
    turns = ((gold[row.id], row, own) for row, own in zip(replies.rows, sampled, strict=True))
    return [
        EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, row.strategy, row.reply, own)
        for turn, row, own in turns
    ]


@dataclass(frozen=True, eq=False)
class Evaluate(Measured):
    """Every automatic and strategy metric of systems, both variants, with intervals and paired differences."""

    version = 2

    systems: dict[str, Reply]
    contrasts: tuple[Contrast, ...]
    turns: Turns

    def run(self, work: Work) -> Evaluation:
        gold = {turn.id: turn for turn in self.turns.read()}
        found = {
            name: evaluated(work[step], gold, step.strategy_sampling, step.seed) for name, step in self.systems.items()
        }
        return evaluate_systems(found, contrasts=self.contrasts, **self.resampling)


@dataclass(frozen=True)
class SystemCounts:
    """What one system did at a test set: `evaluate.seeds.SeedCounts`, by name."""

    id: str
    strategies: str
    text: list[list[float]]
    sampled: str = ""

    @property
    def counts(self) -> seeds.SeedCounts:
        """Without the name."""
        return seeds.SeedCounts(self.strategies, self.text, self.sampled)


@dataclass(frozen=True)
class PerSeedCounts:
    """What systems did at the test turns under one seed, in the few kilobytes that scores over seeds need."""

    systems: list[str]
    turns: int
    rows: tuple[SystemCounts, ...]


@dataclass(frozen=True, eq=False)
class CountPerSeed(Step):
    """Counts of systems under one seed; those that are Missing are left out."""

    version = 2

    systems: dict[str, Reply]
    turns: Turns

    def run(self, work: Work) -> PerSeedCounts:
        turns = self.turns.read()
        gold = {turn.id: turn for turn in turns}
        rows = []
        for name, step in self.systems.items():
            found = work.get(step)
            if not isinstance(found, Missing):
                answered = evaluated(found, gold, step.strategy_sampling, step.seed)
                rows.append(SystemCounts(name, **vars(seeds.seed_counts(answered))))
        return PerSeedCounts([row.id for row in rows], len(turns), tuple(rows))


@dataclass(frozen=True)
class TestSetAnswers:
    """How one system answered the strategy test set."""

    invalid: int
    tokens: int


@dataclass(frozen=True)
class StrategyTestCounts:
    """What systems did at the strategy test set under one seed."""

    windows: int
    strategies: dict[str, int]
    systems: dict[str, TestSetAnswers]
    rows: tuple[SystemCounts, ...]


def test_windows(turns: Turns) -> list[Turn]:
    """The strategy test set (CSO, after Kang et al. 2024)."""
    return windows.strategy_test(turns.dialogues())


@dataclass(frozen=True, eq=False)
class AnswerStrategyTest(Step):
    """What coupled models answer at the strategy test set of `corpus.windows`, sampled as at the test turns."""

    uses_model = True
    version = 2

    policies: dict[str, Policy]
    base: Base
    turns: Turns
    sampling: Sampling
    decoding: Decoding
    seed: int

    def run(self, work: Work) -> StrategyTestCounts:
        turns, rows, counts = test_windows(self.turns), [], {}
        for system, policy in self.policies.items():
            if isinstance(work.get(policy), Missing):
                continue
            with engine_of(work, self.base, policy, self.decoding, self.seed) as engine:
                asked = fitted(engine, turns, prompts.vanilla, self.sampling, self.decoding.max_length)
                written = complete(work, engine, asked, self.sampling, system, self.seed)
                scores = tag_scores(work, engine, asked, self.sampling, f"scores/{system}")
            answers = [tagged(turn.id, written[turn.id], scores=scores.get(turn.id)) for turn in turns]
            found = counted(Replies, answers, work)
            answered = evaluated(found, {turn.id: turn for turn in turns}, self.sampling, self.seed)
            rows.append(SystemCounts(system, **vars(seeds.seed_counts(answered))))
            counts[system] = TestSetAnswers(found.invalid, work.tokens)
        work.tokens = sum(one.tokens for one in counts.values())
        return StrategyTestCounts(len(turns), dict(Counter(turn.strategy for turn in turns)), counts, tuple(rows))


@dataclass(frozen=True, eq=False)
class EvaluateSeeds(Measured):
    """Scores of systems and their differences averaged over all seeds, and the differences under each."""

    version = 4

    counts: dict[str, tuple[CountPerSeed | AnswerStrategyTest, ...]]
    """Seed -> the steps that counted under it."""
    systems: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    turns: Turns
    strategy_test: bool
    """Whether they were counted at the strategy test set, not at the test turns."""

    def run(self, work: Work) -> seeds.SeedEvaluation:
        by_seed = _by_seed(work, self.counts, self.systems)
        contrasts = [pair for pair in self.contrasts if any(found.keys() >= set(pair) for found in by_seed.values())]
        turns = test_windows(self.turns) if self.strategy_test else self.turns.read()
        return seeds.evaluate_seeds(turns, by_seed, contrasts=contrasts, **self.resampling)


def _by_seed(work: Work, counts: Mapping[str, tuple[Step, ...]], systems: tuple[str, ...]) -> dict:
    """Seed -> system -> its `evaluate.seeds.SeedCounts`."""
    found = {}
    for seed, steps in counts.items():
        rows = {row.id: row.counts for step in steps for row in work[step].rows}
        found[int(seed)] = {name: rows[name] for name in rows if name in systems}
    return found


@dataclass(frozen=True, eq=False)
class ShareStrategies(Measured):
    """How often systems and the human reference use each strategy, averaged over all seeds (DecoupledESC, section 3.2)."""

    counts: dict[str, tuple[CountPerSeed, ...]]
    """Seed -> the step that counted under it."""
    systems: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    """Of ``systems`` and `evaluate.seeds.GOLD`."""
    turns: Turns

    def run(self, work: Work) -> seeds.SeedMeans:
        by_seed = _by_seed(work, self.counts, self.systems)
        return seeds.strategy_shares(self.turns.read(), by_seed, contrasts=self.contrasts, **self.resampling)


@dataclass(frozen=True)
class Sweep:
    """Strategy scores of planners over temperatures, and their calibration (chapter 14)."""

    turns: int
    sweeps: dict[str, tuple[decoding.StrategyScores, ...]]
    calibration: dict[str, decoding.Calibration]


@dataclass(frozen=True, eq=False)
class SweepTemperatures(Measured):
    """Strategy scores of every planner from argmax to high temperatures."""

    version = 2

    planners: dict[str, ReplyDecoupled]
    train: Turns
    turns: Turns
    top_p: float

    def run(self, work: Work) -> Sweep:
        turns, train = self.turns.read(), self.train.read()
        scores = {
            "word planner": baselines.word_planner(train, turns),
            "gold frequencies": baselines.frequency_planner(train, turns),
        }
        for name, replies in self.planners.items():
            rows = {row.id: row.scores for row in work[replies].rows}
            scores[name] = np.array([rows[turn.id] for turn in turns])
        gold, dialogues = [turn.strategy for turn in turns], [turn.dialogue for turn in turns]
        options = {"top_p": self.top_p, "samples": 10, "replicates": min(500, self.replicates), "seed": self.seed}
        return Sweep(
            len(turns),
            {name: decoding.sweep(values, gold, dialogues, **options) for name, values in scores.items()},
            {name: decoding.calibration(values, gold) for name, values in scores.items()},
        )
