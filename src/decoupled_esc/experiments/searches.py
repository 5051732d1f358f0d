"""CSO: trees grown around gold dialogues, and the preference pairs from them."""

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from decoupled_esc import corpus, prompts, taxonomy
from decoupled_esc.corpus import Dialogue, Turn, statistics
from decoupled_esc.evaluate import errors, offline
from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.judged import Means, Reply, ScoreTable
from decoupled_esc.experiments.inputs import Decoding, Files, Measured, Turns
from decoupled_esc.experiments.labels import ErrorLabels, RewardModels, answers_in
from decoupled_esc.experiments.sampling import engine_of
from decoupled_esc.experiments.sft import FineTune, FineTuneSeeker
from decoupled_esc.files import file_digest, read_rows
from decoupled_esc.generate.answers import Readable
from decoupled_esc.generate.client import Endpoint
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.pipeline import Missing, Step, Work, attempt, unkeyed
from decoupled_esc.search import embedded, escpro, pairs
from decoupled_esc.search import tree as search_tree
from decoupled_esc.search.export import SearchTree, TreeSize, counted, exported, summary, task_kind
from decoupled_esc.search.grow import growing, replay
from decoupled_esc.search.roles import grow_served, readable_answers
from decoupled_esc.search.tree import Constants, Quality, Tree


@dataclass(frozen=True)
class SeedDialogues:
    """The gold dialogues that trees are grown around: sampled from those that are not too long."""

    turns: Turns
    extes: Files | None
    """A user's copy of ExTES, as in CSO; None: the training split of ESConv."""
    number: int
    max_gold_turns: int
    seed: int

    def read(self) -> list[Dialogue]:
        """The dialogues, in order.  Raises UpstreamMissing where there are none."""
        dialogues = self.turns.dialogues() if self.extes is None else corpus.extes.read(self.extes.paths()[0])[0]
        short = [dialogue for dialogue in dialogues if 2 <= len(corpus.turns(dialogue)) <= self.max_gold_turns]
        chosen = set(random.Random(self.seed).sample(range(len(short)), min(self.number, len(short))))
        return [dialogue for number, dialogue in enumerate(short) if number in chosen]


@dataclass(frozen=True)
class SearchSummary:
    """What was grown, and the trees themselves as ``rows``."""

    seeds: int
    trees: dict[str, TreeSize]
    finished: dict[str, int]
    failures: dict[str, int]
    tasks: dict[str, int]
    roles: str | dict[str, str]
    constants: Constants
    rows: tuple[SearchTree, ...]
    answers: dict[str, Readable] = field(default_factory=dict)
    """Role -> what of its answers could be read, where servers have the roles and their record is here."""


def _trees(seeds: list[Dialogue], constants: Constants) -> dict[str, Tree]:
    return {dialogue.id: Tree(corpus.chat_form(dialogue), taxonomy.STRATEGIES, constants) for dialogue in seeds}


def _log_name(tree: str) -> str:
    return f"logs/{tree.replace('/', '-')}"


@dataclass(frozen=True, eq=False)
class GrowTrees(Step):
    """A search tree for each seed dialogue (CSO, section 3.1); its log in ``logs/``, the tree as a row."""

    leaves = ("logs",)
    uses_model = True
    version = 2

    seeds: SeedDialogues
    planner: FineTune
    generator: FineTune
    seeker: FineTuneSeeker
    reward: RewardModels
    constants: Constants
    sampling: Sampling
    decoding: Decoding
    roles: dict[str, str] | None
    """Role -> model of a server; None: the models above, paid by ``reward``."""
    seed: int
    endpoints: Mapping[str, Endpoint] | None = unkeyed()

    def run(self, work: Work) -> SearchSummary:
        seeds = self.seeds.read()
        trees = _trees(seeds, self.constants)
        logs, answers = {name: work.rows(_log_name(name)) for name in trees}, {}
        if self.roles is None:
            reward = self.reward.fit()
            work[self.planner], work[self.generator], work[self.seeker]
            self._grow_embedded(work, trees, logs, reward)
        else:
            situations = {dialogue.id: dialogue.situation for dialogue in seeds}
            meanings = {strategy.name: strategy.meaning for strategy in taxonomy.ESCONV}
            served = (self.endpoints, answers_in(work), situations, meanings)
            asyncio.run(grow_served(trees, logs, *served))
            answers = asyncio.run(readable_answers(_trees(seeds, self.constants), logs, *served))
        return SearchSummary(
            seeds=len(seeds),
            trees={name: summary(tree) for name, tree in trees.items()},
            finished=counted(tree.finished for tree in trees.values()),
            failures=counted(why for tree in trees.values() for _, why in tree.failures),
            tasks=counted(task_kind(row) for log in logs.values() for row in log.by_id.values()),
            roles=self.roles or "models of this profile",
            constants=self.constants,
            rows=tuple(exported(tree, name) for name, tree in trees.items()),
            answers=answers,
        )

    def _grow_embedded(self, work: Work, trees: dict, logs: dict, reward) -> None:
        """Grow ``trees`` by models of the profile."""

        def paid(turns: list[Turn]) -> list[Quality]:
            return _qualities(reward, [Reply(turn.id, turn, turn.strategy, turn.reply) for turn in turns])

        policies = {"supporter": self.generator, "planner": self.planner, "seeker_model": self.seeker}
        with ExitStack() as stack:
            engines = {
                role: stack.enter_context(
                    engine_of(work, self.planner.base, policy, self.decoding, self.seed, list(policies.values()))
                )
                for role, policy in policies.items()
            }
            roles = embedded.roles(
                **engines,
                reward=paid,
                generator_layout=prompts.LAYOUTS[self.generator.layout],
                strategies=taxonomy.STRATEGIES,
                sampling=self.sampling,
                max_length=self.decoding.max_length,
                seed=self.seed,
            )
            asyncio.run(growing(trees, roles, logs))


def _qualities(reward, replies: list[Reply]) -> list[Quality]:
    """What the offline judges give each of ``replies``: the other two scores they don't know."""
    return [Quality(round(warmth, 3), None, None, round(fit, 3)) for warmth, fit in reward.scores(replies)]


@dataclass(frozen=True)
class StrategyCounts:
    """Counts [6 stages][8 strategies] of supporters' turns (CSO, Figures 3 and 9)."""

    seeds: list[list[int]]
    preferred: list[list[int]]


@dataclass(frozen=True)
class PreferredRejected:
    """Counts of the eight strategies on each side of the pairs."""

    preferred: list[int]
    rejected: list[int]


@dataclass(frozen=True)
class ProExample:
    """A pair whose preferred turn was found by the search."""

    id: str
    preferred_strategy: str
    preferred: str
    rejected_strategy: str
    rejected: str


@dataclass(frozen=True)
class ProPairs:
    """What a set of pairs in ``pairs.jsonl`` holds."""

    pairs: int
    digest: str


def written_pairs(work: Work, found: list[escpro.ProPair]) -> ProPairs:
    """``found`` in the step's ``pairs.jsonl``."""
    escpro.write(work.folder / "pairs.jsonl", found)
    return ProPairs(len(found), file_digest(work.folder / "pairs.jsonl")[:16])


@dataclass(frozen=True, kw_only=True)
class SearchedPairs(ProPairs):
    """Preferred turns and what is rejected for them, from the grown trees."""

    seeds: pairs.SeedStatistics
    statistics: dict[str, pairs.PathStatistics]
    """By condition: the paper's and the released code's."""
    by_stage: StrategyCounts
    strategies: PreferredRejected
    quality: ScoreTable | None
    """Both sides by the reward models: the reward of Eq. 2, and the percentiles that it is made of."""
    other: ScoreTable | None
    """Both sides by a judge that did not reward the search, in per cent."""
    other_judge: str
    calls: int
    """Answers of all roles of the search."""
    gold_pairs: int
    """In ``gold.jsonl``: a person's turn preferred, whatever it is worth; as many as pairs, where there are."""
    toxicity: dict[str, Estimate | None]
    examples: tuple[ProExample, ...]


@dataclass(frozen=True, eq=False)
class ExtractPairs(Measured):
    """Preference pairs from the grown trees (CSO, section 3.2): ``pairs.jsonl``, and all preferred turns in ``sft.jsonl``.

    ``gold.jsonl`` has as many pairs in which a person's turn is preferred because it is a person's.
    """

    leaves = ("pairs.jsonl", "sft.jsonl", "gold.jsonl")

    search: GrowTrees
    threshold: float
    reward: RewardModels
    other: ErrorLabels
    """Labels of replies at test dialogues: a judge learns from them that did not reward the search, and measures only."""

    def run(self, work: Work) -> SearchedPairs:
        calls = sum(work[self.search].tasks.values())
        seeds, logs = self.search.seeds.read(), work.path(self.search, "logs")
        trees = _trees(seeds, self.search.constants)
        for name, tree in trees.items():
            path = logs.parent / f"{_log_name(name)}.jsonl"
            replay(name, tree, path, read_rows(path, "a search log"), whole=True)
        found = {
            condition: [
                path for name, tree in trees.items() for path in pairs.dialogues(tree, name, condition, self.threshold)
            ]
            for condition in ("paper", "released")
        }
        used = found["released"]
        distinct = pairs.distinct(used)
        own = escpro.pairs(distinct)
        learned = [one for one in distinct if not self.search.constants.own_turn or (one.value or 0) > self.threshold]
        by_people = escpro.pairs(one for name, tree in trees.items() for one in pairs.gold_pairs(tree, name))
        kept = set(random.Random(self.seed).sample(range(len(by_people)), min(len(own), len(by_people))))
        gold = [pair for n, pair in enumerate(by_people) if n in kept]
        escpro.write(work.folder / "gold.jsonl", gold)
        escpro.write_turns(work.folder / "sft.jsonl", [one.turn for one in learned])
        quality, (other, other_judge) = self._quality(own), self._other(own)
        by_human = {one.turn.id for one in distinct if one.gold}
        stages = (
            [[turn.strategy for turn in corpus.turns(dialogue)] for dialogue in seeds],
            [[one.turn.strategy for one in path] for path in used],
        )
        return SearchedPairs(
            **vars(written_pairs(work, own)),
            seeds=pairs.seed_statistics(seeds),
            statistics={condition: pairs.statistics(paths) for condition, paths in found.items()},
            by_stage=StrategyCounts(*map(statistics.strategy_by_stage, stages)),
            strategies=PreferredRejected(
                [sum(one.turn.strategy == name for one in distinct) for name in taxonomy.STRATEGIES],
                [sum(pair.strategy == name for pair in own) for name in taxonomy.STRATEGIES],
            ),
            quality=quality,
            other=other,
            other_judge=other_judge,
            calls=calls,
            gold_pairs=len(gold),
            toxicity={
                part: Means(where, **self.resampling).of(values)
                for part, (where, values) in pairs.toxicity_by_part(seeds, used).items()
            },
            examples=tuple(
                ProExample(pair.id, pair.turn.strategy, pair.turn.reply, pair.strategy, pair.reply)
                for pair in own
                if pair.turn.id not in by_human
            )[:5],
        )

    def _quality(self, own: list[escpro.ProPair]) -> ScoreTable | None:
        model = attempt(self.reward.fit)
        if not own or isinstance(model, Missing):
            return None

        def scored(replies: list[Reply]) -> list[tuple[float, ...]]:
            constants = self.search.constants
            found = _qualities(model, replies)
            return [(search_tree.reward(one, constants), one.empathy, one.strategy) for one in found]

        return self._compared(own, scored, ["reward", "empathy", "strategy"])

    def _other(self, own: list[escpro.ProPair]) -> tuple[ScoreTable | None, str]:
        """(both sides by a judge whose labels no part of the search has seen, its name)."""
        labels = attempt(self.other.read)
        if isinstance(labels, Missing):
            return None, f"none: {labels.reason}"
        kept = labels.where([source != "failed" for source in labels.sources])
        judge = offline.ErrorClassifier().fit(kept.replies, kept.labels)
        kind = "INVENTED labels" if labels.are_invented else "labels by GPT at test dialogues"
        name = f"{judge.id} ({len(kept.labels):,} {kind})"
        if not own:
            return None, name
        none, mismatch = (errors.LABELS.index(label) for label in (taxonomy.NO_ERROR, "Strategy Mismatch"))

        def scored(replies: list[Reply]) -> np.ndarray:
            found = judge.probabilities(replies)
            return 100 * np.stack([found[:, none], 1 - found[:, mismatch]], axis=1)

        return self._compared(own, scored, ["no error", "no strategy mismatch"]), name

    def _compared(self, own: list[escpro.ProPair], scored: Callable, columns: list[str]) -> ScoreTable:
        """Both sides of the pairs, and their difference.  ``scored``: of replies, [replies, columns]."""
        sides = {
            "preferred": [Reply(f"p/{pair.id}", pair.turn, pair.turn.strategy, pair.turn.reply) for pair in own],
            "rejected": [Reply(f"r/{pair.id}", pair.turn, pair.strategy, pair.reply) for pair in own],
        }
        values = {side: np.array(scored(replies), dtype=float) for side, replies in sides.items()}
        means = Means([pair.turn.dialogue for pair in own], **self.resampling)
        return means.table(values, columns, [("preferred", "rejected")])


@dataclass(frozen=True)
class SearchFound:
    """What one search gave, in the released code's reading of what is valid."""

    pairs: int
    searched: float | None
    """The share of pairs whose preferred turn was found by the search."""
    reward: Estimate | None
    """Preferred minus rejected, by the reward models."""
    other: Estimate | None
    """The same by a judge that did not reward the search: probability of no error, in points."""
    calls: int


@dataclass(frozen=True)
class SearchesFound:
    """What the searches gave, by seed."""

    searches: dict[str, SearchFound]


@dataclass(frozen=True, eq=False)
class CompareSearches(Step):
    """The searches under several seeds, side by side."""

    searches: dict[str, ExtractPairs]

    def run(self, work: Work) -> SearchesFound:
        def difference(table: ScoreTable | None, column: str) -> Estimate | None:
            return table and table.contrasts["preferred - rejected"].get(column)

        found = {seed: work[step] for seed, step in self.searches.items()}
        return SearchesFound({
            seed: SearchFound(
                one.pairs, one.statistics["released"].searched, difference(one.quality, "reward"),
                difference(one.other, "no error"), one.calls,
            )
            for seed, one in found.items()
        })  # fmt: skip
