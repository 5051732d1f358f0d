"""CSO: trees grown around gold dialogues, preference pairs from them, and what is trained on these."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from decoupled_esc import corpus, prompts, taxonomy, train
from decoupled_esc.corpus import Dialogue, Turn
from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.judged import Means, Reply, ScoreTable
from decoupled_esc.experiments.inputs import Decoding, Files, Policy, Turns, weights_of
from decoupled_esc.experiments.labels import RewardModels, answers_in
from decoupled_esc.experiments.sampling import engine_of, replies_under
from decoupled_esc.experiments.sft import FineTune
from decoupled_esc.files import file_digest, read_rows
from decoupled_esc.generate.client import Endpoint
from decoupled_esc.generate.engine import Sampling
from decoupled_esc.pipeline import Missing, Step, Work, unkeyed
from decoupled_esc.search import embedded, escpro, pairs
from decoupled_esc.search.export import SearchTree, TreeSize, counted, exported, summary, task_kind
from decoupled_esc.search.grow import growing, replay
from decoupled_esc.search.roles import grow_served
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

    def read(self) -> list[Dialogue] | Missing:
        """The dialogues, in order; or why there are none."""
        if self.extes is None:
            dialogues = self.turns.dialogues()
        else:
            paths = self.extes.paths()
            if isinstance(paths, Missing):
                return paths
            dialogues = corpus.extes.read(paths[0])
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
    seeker: FineTune
    reward: RewardModels
    constants: Constants
    sampling: Sampling
    decoding: Decoding
    roles: dict[str, str] | None
    """Role -> model of a server; None: the models above, paid by ``reward``."""
    seed: int
    endpoints: Mapping[str, Endpoint] | None = unkeyed()

    def run(self, work: Work) -> SearchSummary | Missing:
        seeds = self.seeds.read()
        if isinstance(seeds, Missing):
            return seeds
        trees = _trees(seeds, self.constants)
        logs = {name: work.rows(_log_name(name)) for name in trees}
        if self.roles is None:
            reward = self.reward.fit()
            if isinstance(reward, Missing):
                return reward
            work[self.planner], work[self.generator], work[self.seeker]
            self._grow_embedded(work, trees, logs, reward)
        else:
            situations = {dialogue.id: dialogue.situation for dialogue in seeds}
            meanings = {strategy.name: strategy.meaning for strategy in taxonomy.ESCONV}
            asyncio.run(grow_served(self.endpoints, answers_in(work), situations, meanings, trees, logs))
        return SearchSummary(
            seeds=len(seeds),
            trees={name: summary(tree) for name, tree in trees.items()},
            finished=counted(tree.finished for tree in trees.values()),
            failures=counted(why for tree in trees.values() for _, why in tree.failures),
            tasks=counted(task_kind(row) for log in logs.values() for row in log.by_id.values()),
            roles=self.roles or "models of this profile",
            constants=self.constants,
            rows=tuple(exported(tree, name) for name, tree in trees.items()),
        )

    def _grow_embedded(self, work: Work, trees: dict, logs: dict, reward) -> None:
        """Grow ``trees`` by models of the profile."""

        def paid(turns: list[Turn]) -> list[Quality]:
            found = reward.scores([Reply(turn.id, turn, turn.strategy, turn.reply) for turn in turns])
            return [Quality(round(warmth, 3), None, None, round(fit, 3)) for warmth, fit in found]

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


@dataclass(frozen=True, kw_only=True)
class SearchedPairs(ProPairs):
    """Preferred turns and what is rejected for them, from the grown trees."""

    seeds: pairs.SeedStatistics
    statistics: dict[str, pairs.PathStatistics]
    """By condition: the paper's and the released code's."""
    by_stage: StrategyCounts
    strategies: PreferredRejected
    quality: ScoreTable | None
    """Percentiles of both sides by the reward models."""
    toxicity: dict[str, Estimate | None]
    examples: tuple[ProExample, ...]


@dataclass(frozen=True, eq=False)
class ExtractPairs(Step):
    """Preference pairs from the grown trees (CSO, section 3.2): ``pairs.jsonl``, and all preferred turns in ``sft.jsonl``."""

    leaves = ("pairs.jsonl", "sft.jsonl")

    search: GrowTrees
    threshold: float
    reward: RewardModels
    replicates: int
    seed: int

    def run(self, work: Work) -> SearchedPairs | Missing:
        work[self.search]
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
        escpro.write(work.folder / "pairs.jsonl", own)
        escpro.write_turns(work.folder / "sft.jsonl", [one.turn for one in distinct])
        by_human = {one.turn.id for one in distinct if one.gold}
        stages = (
            [[turn.strategy for turn in corpus.turns(dialogue)] for dialogue in seeds],
            [[one.turn.strategy for one in path] for path in used],
        )
        return SearchedPairs(
            pairs=len(own),
            digest=file_digest(work.folder / "pairs.jsonl")[:16],
            seeds=pairs.seed_statistics(seeds),
            statistics={condition: pairs.statistics(paths) for condition, paths in found.items()},
            by_stage=StrategyCounts(*map(pairs.strategies_by_stage, stages)),
            strategies=PreferredRejected(
                [sum(one.turn.strategy == name for one in distinct) for name in taxonomy.STRATEGIES],
                [sum(pair.strategy == name for pair in own) for name in taxonomy.STRATEGIES],
            ),
            quality=self._quality(own),
            toxicity={
                part: Means(where, replicates=self.replicates, seed=self.seed).of(values)
                for part, (where, values) in pairs.toxicity_by_part(seeds, used).items()
            },
            examples=tuple(
                ProExample(pair.id, pair.turn.strategy, pair.turn.reply, pair.strategy, pair.reply)
                for pair in own
                if pair.turn.id not in by_human
            )[:5],
        )

    def _quality(self, own: list[escpro.ProPair]) -> ScoreTable | None:
        reward = self.reward.fit()
        if not own or isinstance(reward, Missing):
            return None
        sides = {
            "preferred": [Reply(f"p/{pair.id}", pair.turn, pair.turn.strategy, pair.turn.reply) for pair in own],
            "rejected": [Reply(f"r/{pair.id}", pair.turn, pair.strategy, pair.reply) for pair in own],
        }
        values = {side: np.array(reward.scores(replies)) for side, replies in sides.items()}
        means = Means([pair.turn.dialogue for pair in own], replicates=self.replicates, seed=self.seed)
        return means.table(values, ["empathy", "strategy"], [("preferred", "rejected")])


@dataclass(frozen=True, eq=False)
class ReadPublishedPairs(Step):
    """A user's copy of the ESC-Pro that CSO's authors published, in the form that training reads."""

    leaves = ("pairs.jsonl", "sft.jsonl")

    files: Files

    def run(self, work: Work) -> ProPairs | Missing:
        paths = self.files.paths()
        if isinstance(paths, Missing):
            return paths
        own, preferred = escpro.read_published(paths[0])
        escpro.write(work.folder / "pairs.jsonl", own)
        escpro.write_turns(work.folder / "sft.jsonl", preferred)
        return ProPairs(len(own), file_digest(work.folder / "pairs.jsonl")[:16])


@dataclass(frozen=True, eq=False)
class SampleRandomPairs(Step):
    """ESC-Pro-Random: each turn of the pairs against a reply under another strategy, sampled at random (CSO, section 5.3)."""

    leaves = ("pairs.jsonl",)
    uses_model = True
    version = 2

    pairs: Step
    generator: FineTune
    sampling: Sampling
    decoding: Decoding
    seed: int

    def run(self, work: Work) -> ProPairs | Missing:
        work[self.pairs]
        turns = escpro.turns_of(escpro.read(work.path(self.pairs, "pairs.jsonl")))
        strategies = pairs.other_strategies(turns, taxonomy.STRATEGIES, self.seed)
        others = [replace(turn, strategy=strategy) for turn, strategy in zip(turns, strategies, strict=True)]
        written: dict[str, dict] = {}
        if others:
            work[self.generator]
            planned = {turn.id: turn.strategy for turn in others}
            with engine_of(work, self.generator.base, self.generator, self.decoding, self.seed) as engine:
                layout = prompts.LAYOUTS[self.generator.layout]
                written = replies_under(work, engine, others, planned, layout, self.sampling, self.decoding, self.seed)
        found = [
            escpro.ProPair(f"{turn.id}#random", turn, other.strategy, written[turn.id]["reply"])
            for turn, other in zip(turns, others, strict=True)
        ]
        found = [pair for pair in found if pair.reply]
        escpro.write(work.folder / "pairs.jsonl", found)
        return ProPairs(len(found), file_digest(work.folder / "pairs.jsonl")[:16])


@dataclass(frozen=True, kw_only=True)
class CSOTrained(train.Log):
    """What a training on ESC-Pro leaves.  ``loss`` None: fine-tuning on the preferred turns."""

    weights: str
    held_out_loss: float
    loss: train.Preference | None
    learning_rate: float
    pairs: int
    turns: int
    trees: int
    held_out_loss_before: float
    divergence: float


@dataclass(frozen=True, eq=False)
class TrainCSO(Policy):
    """The coupled model taught to prefer the turns that the search preferred (CSO, Eq. 7 to 9), or fine-tuned on them."""

    start: FineTune | None
    """None: the base model."""
    pairs: Step
    share: float
    """Of the trees (Figure 4)."""
    held_out: Turns
    preference: train.Preference | None
    """None: ESC-Pro-SFT."""
    training: train.Training | None
    """None where the profile has one tuning alone."""

    def run(self, work: Work) -> CSOTrained | Missing:
        if self.training is None:
            return Missing("the profile has one tuning for CSO, and no section cso.lora")
        work[self.pairs]
        if self.start is not None:
            work[self.start]
        found = escpro.some(escpro.read(work.path(self.pairs, "pairs.jsonl")), self.share)
        options = {
            "folder": work.folder, "seed": self.seed, "max_length": self.max_length, "held_out": self.held_out.read(),
            "launch": self.launch, "min_turns": 2,
        }  # fmt: skip
        policy = weights_of(work, self.base, self.start)
        if self.preference is None:
            turns = escpro.read_turns(work.path(self.pairs, "sft.jsonl"))
            trained = train.train_sft(policy, turns, prompts.vanilla, self.training, compare=True, **options)
        else:
            turns = escpro.turns_of(found)
            chosen = [train.Pair(pair.id, pair.turn, pair.rejected) for pair in found]
            trained = train.train_preference(policy, chosen, prompts.vanilla, self.preference, self.training, **options)
        work.tokens = trained.tokens
        kept = {name: value for name, value in vars(trained).items() if name in CSOTrained.__dataclass_fields__}
        counts = {
            "pairs": len(found) if self.preference else 0,
            "turns": len(turns),
            "trees": len({turn.dialogue for turn in turns}),
        }
        return CSOTrained(**kept | counts | {"loss": self.preference, "learning_rate": self.training.learning_rate})
