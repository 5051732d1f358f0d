"""Why systems differ (chapter 19): plans and words crossed, what gold strategies are worth, and where B comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc import corpus, taxonomy
from decoupled_esc.corpus import Turn, published_replies
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.evaluate import acceptable, bias_sources, crossed, decoding, strategy, text
from decoupled_esc.evaluate.bootstrap import Estimate, cluster_weights, numbered
from decoupled_esc.experiments.inputs import Files, Measured, Source, Turns
from decoupled_esc.experiments.labels import released_replies
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.scoreboard import BACKBONES, scored_rows
from decoupled_esc.experiments.scores import evaluated
from decoupled_esc.generate import baselines
from decoupled_esc.pipeline import Missing, Step, Work, attempt

STUDIED_SEEDS = 1
"""Under so many of the seeds chapter 19 asks why; what it studies is made under no others."""

STUDIED_PLANNERS = ("vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo")
"""Policies whose strategy scores chapter 19 takes apart."""

STUDIED_SYSTEMS = (
    "vanilla-sft", "vanilla-dpo", "decoupled-sft", "decoupled-dpo", "vanilla-sft-argmax", "decoupled-sft-argmax",
)  # fmt: skip
"""Ours among the systems whose order chapter 19 asks about."""

Table = dict[str, dict[str, Estimate]]
"""Row -> column -> estimate, over all seeds."""


@dataclass(frozen=True)
class CrossedParts:
    """Replies of two writers under the strategies of two planners (chapter 19): levels, and main effects."""

    seeds: tuple[int, ...]
    turns: int
    cells: Table
    effects: Table
    """``total`` = ``plans`` + ``words``; ``interaction``."""


@dataclass(frozen=True, eq=False)
class CrossPlansAndWords(Measured):
    """Which part of the coupled model carries its difference from the decoupled one: its strategies, or its words."""

    cells: dict[str, dict[str, Reply]]
    """Seed -> `CELLS`."""
    turns: Turns

    def run(self, work: Work) -> CrossedParts:
        turns, columns = self.turns.read(), (*text.METRICS, "words")
        group, groups = numbered([turn.dialogue for turn in turns])
        weights = cluster_weights(groups, **self.resampling)
        cells, effects = [], []
        for steps in self.cells.values():
            values = {name: _overlaps(work, step, turns) for name, step in steps.items()}
            plans_and_words = crossed.effects(*(values[name] for name in CELLS))
            titles = {"first": "plans", "second": "words"}
            changed = {titles.get(name, name): change for name, change in plans_and_words.items()}
            cells.append(crossed.means(values, columns, group, weights))
            effects.append(crossed.means(changed, columns, group, weights))
        seeds = tuple(map(int, self.cells))
        return CrossedParts(seeds, len(turns), crossed.over_seeds(cells), crossed.over_seeds(effects))


CELLS = {
    "vanilla/vanilla": "vanilla-sft",
    "planner/vanilla": "decoupled-plans-vanilla-words",
    "vanilla/generator": "vanilla-plans-generator-words",
    "planner/generator": "decoupled-sft",
}
"""Whose strategies / whose words -> the system: neither of the decoupled one, its plans, its words, both."""


def _overlaps(work: Work, step: Reply, turns: Sequence[Turn]) -> np.ndarray:
    return overlaps_and_words(replies_of(work, step, turns), turns)


def replies_of(work: Work, step: Reply, turns: Sequence[Turn]) -> list[str]:
    """What ``step`` answered at ``turns``."""
    said = {row.id: row.reply for row in work[step].rows}
    return [said[turn.id] for turn in turns]


def overlaps_and_words(replies: Sequence[str], turns: Sequence[Turn]) -> np.ndarray:
    """Float [turns, 7]: text metrics and the number of words of ``replies``."""
    lengths = np.array([[len(reply.split())] for reply in replies])
    return np.hstack([crossed.overlaps(replies, [turn.reply for turn in turns]), lengths])


@dataclass(frozen=True)
class GivenStrategies:
    """The generator's replies under planned strategies and under gold ones; and how far replies show their strategy."""

    seeds: tuple[int, ...]
    turns: int
    right: float  # Share of turns whose plan is gold, in per cent
    replies: Table
    """``plan`` or ``gold``, at all turns, at those where the plan is ``right`` or ``wrong``."""
    differences: Table
    shown: Table
    """Whose replies -> ``shown``: how often the given strategy is read from the words, in per cent; ``by chance``."""


@dataclass(frozen=True, eq=False)
class CompareGivenStrategies(Measured):
    """Whether a better plan gives a better reply, turn by turn, and whether a reply does what it was told to."""

    under_plan: dict[str, Reply]
    under_gold: dict[str, Reply]
    train: Turns
    turns: Turns

    def run(self, work: Work) -> GivenStrategies:
        turns, columns = self.turns.read(), (*text.METRICS, "words")
        group, groups = numbered([turn.dialogue for turn in turns])
        weights, gold = cluster_weights(groups, **self.resampling), [turn.strategy for turn in turns]
        train = self.train.read()
        read = crossed.strategy_reader([turn.reply for turn in train], [turn.strategy for turn in train]).predict
        replies, differences, shown, right = [], [], [], []
        for seed, step in self.under_plan.items():
            plan = {row.id: row for row in work[step].rows}
            said = {row.id: row.reply for row in work[self.under_gold[seed]].rows}
            planned = [plan[turn.id].strategy for turn in turns]
            hit = np.array([one == other for one, other in zip(planned, gold, strict=True)])
            own = {"plan": _overlaps(work, step, turns), "gold": _overlaps(work, self.under_gold[seed], turns)}
            rows = crossed.means(_where(own, hit), columns, group, weights)
            changes = crossed.means(_where({"gold - plan": own["gold"] - own["plan"]}, hit), columns, group, weights)
            a, b = rows["plan, right"], rows["plan, wrong"]
            changes["right - wrong, plan"] = {key: a[key] - b[key] for key in a if key in b}
            given = {
                "people": (gold, [turn.reply for turn in turns]),
                "generator, gold strategy": (gold, [said[turn.id] for turn in turns]),
                "generator, planned strategy": (planned, [plan[turn.id].reply for turn in turns]),
            }
            shown.append(crossed.means({k: _shown(g, read(r)) for k, (g, r) in given.items()}, SHOWN, group, weights))
            replies.append(rows)
            differences.append(changes)
            right.append(100 * float(hit.mean()))
        tables = [crossed.over_seeds(found) for found in (replies, differences, shown)]
        return GivenStrategies(tuple(map(int, self.under_plan)), len(turns), float(np.mean(right)), *tables)


SHOWN = ("shown", "by chance")


def _shown(given: Sequence[str | None], read: Sequence[str]) -> np.ndarray:
    """Float [turns, 2], in per cent: whether what was ``read`` is what was ``given``; whether it would be elsewhere."""
    share = strategy.distribution(list(read))
    places = strategy.strategy_indices(given)
    same = np.array([100.0 * (one == other) for one, other in zip(given, read, strict=True)])
    return np.stack([same, np.where(places < 0, 0.0, 100 * share[places])], axis=1)


def _where(values: Mapping[str, np.ndarray], hit: np.ndarray) -> dict[str, np.ndarray]:
    """Each table at all turns, and with nan elsewhere where the plan is right, and where it is wrong."""
    found = {}
    for name, table in values.items():
        found |= {f"{name}, all": table}
        found |= {
            f"{name}, {kind}": np.where(at[:, None], table, np.nan) for kind, at in (("right", hit), ("wrong", ~hit))
        }
    return found


NEAREST = "person in the nearest context"


@dataclass(frozen=True)
class AcceptedStrategies:
    """Strategy scores under several definitions of an acceptable strategy, and what GPT made of other strategies."""

    seeds: tuple[int, ...]
    turns: int
    size: dict[str, float]
    """Definition -> acceptable strategies per turn, on average."""
    scores: dict[str, Table]
    """Definition -> system -> metric."""
    orders: dict[str, dict[str, acceptable.Order]]
    """Definition -> metric, of the first seed."""
    labels: Table | Missing
    """Share of released replies with an error label, in per cent: strategy gold, acceptable, or neither."""
    labelled: dict[str, int]


@dataclass(frozen=True, eq=False)
class AcceptStrategies(Measured):
    """Plans scored with several acceptable strategies, and whether that changes the order of systems."""

    systems: dict[str, dict[str, Reply]]
    """Seed -> system."""
    train: Turns
    turns: Turns
    failed: Source
    release: Files

    def run(self, work: Work) -> AcceptedStrategies:
        turns, train = self.turns.read(), self.train.read()
        gold, (group, groups) = [turn.strategy for turn in turns], numbered([turn.dialogue for turn in turns])
        weights = cluster_weights(groups, **self.resampling)
        near = acceptable.neighbours(train, turns)
        definitions = self._definitions(train, turns, near)
        rows = attempt(lambda: released_replies(self.release, self.turns.esconv, self.failed))
        others = self._others(train, turns, near, [] if isinstance(rows, Missing) else rows)
        tables = []
        for systems in self.systems.values():
            asked = {name: _chosen(work, step, turns) for name, step in systems.items()} | others
            tables.append(acceptable.scored(asked, definitions, gold, group, weights))
        # The neighbours are what one definition is made of: they are no system whose place it could decide.
        first = {name: {one: row for one, row in rows.items() if one != NEAREST} for name, rows in tables[0].items()}
        labels, labelled = (rows, {}) if isinstance(rows, Missing) else self._labels(rows, turns, definitions)
        return AcceptedStrategies(
            tuple(map(int, self.systems)), len(turns),
            {name: float(accepted.sum(axis=1).mean()) for name, accepted in definitions.items()},
            {name: crossed.over_seeds([table[name] for table in tables]) for name in definitions},
            {
                name: {key: acceptable.order(first[name], first[acceptable.GOLD], key) for key in ("accuracy", "Q")}
                for name in definitions
            },
            labels, labelled,
        )  # fmt: skip

    def _definitions(self, train: Sequence[Turn], turns: Sequence[Turn], near: np.ndarray) -> dict[str, np.ndarray]:
        lengths = {one.id: len(one.utterances) for part in (self.train, self.turns) for one in part.dialogues()}
        return {
            acceptable.GOLD: acceptable.only_gold(turns),
            acceptable.RUN: acceptable.in_the_same_run(turns),
            acceptable.NEAR: acceptable.in_similar_contexts(train, turns, near),
            acceptable.MOMENT: acceptable.at_the_same_moment(train, turns, lengths),
        }

    def _others(
        self, train: Sequence[Turn], turns: Sequence[Turn], near: np.ndarray, rows: Sequence[LabelledReply]
    ) -> dict[str, np.ndarray]:
        """Planners that are no policy of ours: how probable each strategy is, [turns, 8]."""
        words = baselines.word_planner(train, turns)
        found = {
            "word planner, argmax": decoding.probabilities(words, 0.0, 1.0),
            "word planner, T = 1": decoding.probabilities(words, 1.0, 1.0),
            "gold frequencies, T = 1": decoding.probabilities(baselines.frequency_planner(train, turns), 1.0, 1.0),
            NEAREST: acceptable.only_gold(train)[near[:, 0]].astype(float),
        }
        at = {turn.id: place for place, turn in enumerate(turns)}
        for row in rows:
            if row.source in BACKBONES and row.turn.id in at and row.strategy:
                table = found.setdefault(BACKBONES[row.source], np.zeros((len(turns), 8)))
                table[at[row.turn.id], taxonomy.STRATEGIES.index(row.strategy)] = 1.0
        return found

    def _labels(
        self, rows: Sequence[LabelledReply], turns: Sequence[Turn], definitions: Mapping[str, np.ndarray]
    ) -> tuple[Table, dict[str, int]]:
        """Error labels of the released replies whose turn is sure, by whether their strategy is gold, or acceptable."""
        at = {turn.id: place for place, turn in enumerate(turns)}
        known = [
            row
            for row in rows
            if row.source in BACKBONES and row.unique and row.turn.id in at and row.strategy and row.error
        ]
        if not known:
            return {}, {}
        place = [(at[row.turn.id], taxonomy.STRATEGIES.index(row.strategy)) for row in known]
        accepts = {name: np.array([accepted[one] for one in place]) for name, accepted in definitions.items()}
        errors = np.array([[100.0 * (row.error == name) for name in taxonomy.ERRORS] for row in known])
        values = np.hstack([errors, errors.sum(axis=1, keepdims=True)])
        other = ~accepts[acceptable.GOLD]
        groups = {"gold strategy": ~other, "another strategy": other}
        groups |= {f"another, in: {name}": other & yes for name, yes in accepts.items() if name != acceptable.GOLD}
        groups |= {f"another, not in: {name}": ~yes for name, yes in accepts.items() if name != acceptable.GOLD}
        group, size = numbered([row.turn.dialogue for row in known])
        tables = {name: np.where(here[:, None], values, np.nan) for name, here in groups.items()}
        found = crossed.means(tables, (*taxonomy.ERRORS, "any"), group, cluster_weights(size, **self.resampling))
        pairs = {"another - gold": ("another strategy", "gold strategy")}
        pairs |= {
            f"not in - in: {n}": (f"another, not in: {n}", f"another, in: {n}") for n in accepts if n != acceptable.GOLD
        }
        for name, (a, b) in pairs.items():
            found[name] = {key: found[a][key] - found[b][key] for key in found[a] if key in found[b]}
        return crossed.over_seeds([found]), {name: int(here.sum()) for name, here in groups.items()}


def _chosen(work: Work, step: Reply, turns: Sequence[Turn]) -> np.ndarray:
    """Float [turns, 8]: share of each strategy when a system was sampled again and again; 0 where it named none."""
    gold = {turn.id: turn for turn in turns}
    answers = {row.id: row for row in evaluated(work[step], gold, step.strategy_sampling, step.seed)}
    found = np.zeros((len(turns), 8))
    for place, turn in enumerate(turns):
        row = answers[turn.id]
        if row.sampled is not None and sum(row.sampled):
            found[place] = np.array(row.sampled) / sum(row.sampled)
        elif row.predicted_strategy:
            found[place, taxonomy.STRATEGIES.index(row.predicted_strategy)] = 1.0
    return found


@dataclass(frozen=True)
class BiasSources:
    """Preference bias of planners, its sources taken away one by one (chapter 19)."""

    seeds: tuple[int, ...]
    turns: dict[str, int]
    scores: dict[str, Table]
    """Planner -> "scores, decoding" -> metric."""
    parts: Table
    """Planner -> part of B."""
    contrasts: dict[str, Table]
    """``"a - b"`` -> "scores, decoding" -> metric."""
    nats: dict[str, tuple[float, float]]
    """Planner -> mean -log p of the gold strategy as scored, and recalibrated; of the first seed."""


@dataclass(frozen=True, eq=False)
class SplitBias(Measured):
    """B of planners at fixed decodings, with and without base rates, before and after recalibration."""

    planners: dict[str, dict[str, Reply]]
    """Seed -> planners whose replies have strategy scores."""
    contrasts: tuple[tuple[str, str], ...]
    train: Turns
    turns: Turns
    published: dict[str, Files]
    """Data sets with published strategy scores."""
    top_p: float

    def run(self, work: Work) -> BiasSources:
        turns, options = self.turns.read(), self.resampling | {"top_p": self.top_p}
        where = [turn.strategy for turn in turns], [turn.dialogue for turn in turns]
        fixed = {name: (scores, *where) for name, scores in self._word_planners(turns).items()} | self._published()
        shared = {name: bias_sources.conditions(*own, **options) for name, own in fixed.items()}
        by_seed, differences, first = [], [], dict(fixed)
        for steps in self.planners.values():
            own = {name: (strategy_scores(work, step, turns), *where) for name, step in steps.items()}
            first = own | first
            rows = {name: bias_sources.conditions(*one, **options) for name, one in own.items()}
            differences.append({f"{a} - {b}": bias_sources.differences(rows[a], rows[b]) for a, b in self.contrasts})
            by_seed.append(rows | shared)
        names = list(by_seed[0])
        return BiasSources(
            tuple(map(int, self.planners)),
            {name: len(first[name][1]) for name in names},
            {name: crossed.over_seeds([rows[name] for rows in by_seed]) for name in names},
            crossed.over_seeds([bias_sources.parts_of(rows) for rows in by_seed]),
            {name: crossed.over_seeds([found[name] for found in differences]) for name in differences[0]},
            {name: self._nats(*first[name]) for name in names},
        )

    def _word_planners(self, turns: Sequence[Turn]) -> dict[str, np.ndarray]:
        train = self.train.read()
        return {
            "word planner": baselines.word_planner(train, turns),
            "gold frequencies": baselines.frequency_planner(train, turns),
        }

    def _published(self) -> dict[str, tuple]:
        """System -> (scores, gold strategies, dialogues), of the published systems that are on this machine."""
        whole = self.turns.esconv.read()
        if whole.name != "esconv":
            return {}
        every = [turn for dialogue in whole.dialogues for turn in corpus.turns(dialogue)]
        found = {}
        for name, files in self.published.items():
            paths = attempt(files.paths)
            if not isinstance(paths, Missing):
                for system, rows in published_replies.read(name, paths, every).items():
                    found[system] = scored_rows(rows)
        return found

    def _nats(self, scores: np.ndarray, gold: Sequence[str], dialogues: Sequence[str]) -> tuple[float, float]:
        fitted = bias_sources.recalibrated(scores, gold, dialogues, self.seed, shares=True)
        return bias_sources.mean_nats(scores, gold), bias_sources.mean_nats(fitted, gold)


def strategy_scores(work: Work, step: Reply, turns: Sequence[Turn]) -> np.ndarray:
    """Float [turns, 8]: log-probabilities of the strategies in the replies of ``step``."""
    rows = {row.id: row.scores for row in work[step].rows}
    return np.array([rows[turn.id] for turn in turns])


def studies(by_seed: Mapping, contrasts: Sequence[tuple[str, str]]) -> dict[str, Step]:
    """The studies of chapter 19, under as many seeds as `STUDIED_SEEDS` says; ``by_seed``: seed -> `book.Rows`."""
    studied = dict(list(by_seed.items())[:STUDIED_SEEDS])
    own, *_ = studied.values()
    files, resampling = own.inputs.files, own.resampling

    def replies(system: str) -> dict[str, Reply]:
        return {seed: rows.steps[f"replies-{system}"] for seed, rows in studied.items()}

    cells = {
        seed: {name: rows.steps[f"replies-{system}"] for name, system in CELLS.items()}
        for seed, rows in studied.items()
    }
    return {
        "plans-and-words": CrossPlansAndWords(cells, own.test, **resampling),
        "given-strategies": CompareGivenStrategies(
            replies("decoupled-sft"), replies("gold-sft"), own.train, own.test, **resampling
        ),
        "accepted-strategies": AcceptStrategies(
            {seed: rows.replies(STUDIED_SYSTEMS) for seed, rows in studied.items()}, own.train, own.test,
            own.inputs.corpora["failed_esconv"], files["decoupledesc_release"], **resampling,
        ),
        "bias-sources": SplitBias(
            {seed: rows.replies(STUDIED_PLANNERS) for seed, rows in studied.items()},
            tuple(contrasts), own.train, own.test,
            {name: files[name] for name in ("transesc_replies", "cauesc_replies")}, own.profile.generation.plan.top_p,
            **resampling,
        ),
    }  # fmt: skip
