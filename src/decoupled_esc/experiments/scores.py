"""Scores of systems: automatic and strategy metrics under one seed, over seeds, and over temperatures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from decoupled_esc import prompts
from decoupled_esc.corpus import Turn, windows
from decoupled_esc.evaluate import EvaluatedTurn, Evaluation, decoding, evaluate_systems, seeds, strategy
from decoupled_esc.experiments.inputs import Base, Decoding, Policy, Turns
from decoupled_esc.experiments.replies import PlannedReplies, Replies, Reply, ReplyDecoupled
from decoupled_esc.experiments.sampling import complete, engine_of, fitted, tags
from decoupled_esc.generate import baselines
from decoupled_esc.generate.engine import Sampling, stream
from decoupled_esc.pipeline import Missing, Step, Work

Contrast = tuple[str, str]
"""The first system minus the second."""


PLAN_SAMPLES = 50
"""Samples of a planner's strategy at each turn, from its scores: they cost no generation."""


def evaluated(step: Reply, replies: Replies, gold: Mapping[str, Turn]) -> list[EvaluatedTurn]:
    """What the system of ``step`` answered, beside what people did, with samples of its strategies."""
    samples = plan_samples(step, replies) if isinstance(step, ReplyDecoupled) else [row.tags for row in replies.rows]
    found = []
    for row, signs in zip(replies.rows, samples, strict=True):
        turn = gold[row.id]
        found.append(
            EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, row.strategy, row.reply, samples=signs)
        )
    return found


def plan_samples(step: ReplyDecoupled, replies: PlannedReplies) -> list[str]:
    """For each reply, ``PLAN_SAMPLES`` strategies sampled from the planner's scores as it decodes, as `strategy.signs`.

    The scores are of the eight strategies and say nothing of other answers: where the printed plan is invalid, so are its
    samples.  Greedy decoding has nothing to sample: no signs.
    """
    rows, plan = replies.rows, step.plan
    if plan.temperature == 0:
        return [""] * len(rows)
    streams = [np.random.default_rng(stream(step.seed, "ReplyDecoupled/samples", row.id, 8)) for row in rows]
    p = decoding.probabilities(np.array([row.scores for row in rows]), plan.temperature, plan.top_p)
    sampled = decoding.samples(p, np.array([one.random(PLAN_SAMPLES) for one in streams])).T
    return [
        strategy.INVALID * PLAN_SAMPLES if row.strategy is None else "".join(map(str, places))
        for row, places in zip(rows, sampled, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Evaluate(Step):
    """Every automatic and strategy metric of systems, both variants, with intervals and paired differences."""

    version = 2

    systems: dict[str, Reply]
    contrasts: tuple[Contrast, ...]
    turns: Turns
    replicates: int
    seed: int

    def run(self, work: Work) -> Evaluation | Missing:
        gold = {turn.id: turn for turn in self.turns.read()}
        found = {name: evaluated(step, work[step], gold) for name, step in self.systems.items()}
        return evaluate_systems(found, contrasts=self.contrasts, replicates=self.replicates, seed=self.seed)


@dataclass(frozen=True)
class SystemCounts:
    """What one system did at a test set: `evaluate.seeds.SeedCounts`, by name."""

    id: str
    strategies: str
    text: list[list[float]]
    samples: list[str]

    @property
    def counts(self) -> seeds.SeedCounts:
        """Without the name."""
        return seeds.SeedCounts(self.strategies, self.text, self.samples)


@dataclass(frozen=True)
class PerSeedCounts:
    """What systems did at the test turns under one seed, in the little that scores over seeds need."""

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
                rows.append(SystemCounts(name, **vars(seeds.seed_counts(evaluated(step, found, gold)))))
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
                written = complete(work, engine, asked, self.sampling, f"{system}/replies", self.seed)
                more = tags(work, engine, asked, self.sampling, f"{system}/tags", self.seed)
            answers = {turn.id: prompts.parse_tagged(written[turn.id]["text"]) for turn in turns}
            found = [
                EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, *answers[turn.id], more[turn.id])
                for turn in turns
            ]
            rows.append(SystemCounts(system, **vars(seeds.seed_counts(found))))
            invalid = sum(said is None for said, _ in answers.values())
            counts[system] = TestSetAnswers(invalid, work.tokens - sum(one.tokens for one in counts.values()))
        return StrategyTestCounts(len(turns), dict(Counter(turn.strategy for turn in turns)), counts, tuple(rows))


@dataclass(frozen=True, eq=False)
class EvaluateSeeds(Step):
    """Scores of systems and their differences averaged over all seeds, and the differences under each."""

    version = 4

    counts: dict[str, tuple[CountPerSeed | AnswerStrategyTest, ...]]
    """Seed -> the steps that counted under it."""
    systems: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    turns: Turns
    strategy_test: bool
    """Whether they were counted at the strategy test set, not at the test turns."""
    replicates: int
    seed: int

    def run(self, work: Work) -> seeds.SeedEvaluation:
        by_seed: dict[int, dict[str, seeds.SeedCounts]] = {}
        for seed, steps in self.counts.items():
            rows = {row.id: row.counts for step in steps for row in work[step].rows}
            by_seed[int(seed)] = {name: rows[name] for name in rows if name in self.systems}
        made = set.intersection(*map(set, by_seed.values()))
        contrasts = [pair for pair in self.contrasts if made.issuperset(pair)]
        turns = test_windows(self.turns) if self.strategy_test else self.turns.read()
        return seeds.evaluate_seeds(turns, by_seed, contrasts=contrasts, replicates=self.replicates, seed=self.seed)


@dataclass(frozen=True)
class Sweep:
    """Strategy scores of planners over temperatures, and their calibration (chapter 14)."""

    turns: int
    sweeps: dict[str, tuple[decoding.StrategyScores, ...]]
    calibration: dict[str, decoding.Calibration]


@dataclass(frozen=True, eq=False)
class SweepTemperatures(Step):
    """Strategy scores of every planner from argmax to high temperatures, with the top-p that it decodes with."""

    version = 2

    planners: dict[str, ReplyDecoupled]
    train: Turns
    turns: Turns
    top_p: float
    replicates: int
    seed: int

    def run(self, work: Work) -> Sweep | Missing:
        turns, train = self.turns.read(), self.train.read()
        scores = {
            "word planner": baselines.word_planner(train, turns),
            "gold frequencies": baselines.frequency_planner(train, turns),
        }
        for name, replies in self.planners.items():
            rows = {row.id: row.scores for row in work[replies].rows}
            scores[name] = np.array([rows[turn.id] for turn in turns])
        gold, dialogues = [turn.strategy for turn in turns], [turn.dialogue for turn in turns]
        options = {
            "top_p": self.top_p, "number": 10, "replicates": min(500, self.replicates), "seed": self.seed
        }  # fmt: skip
        return Sweep(
            len(turns),
            {name: decoding.sweep(values, gold, dialogues, **options) for name, values in scores.items()},
            {name: decoding.calibration(values, gold) for name, values in scores.items()},
        )
