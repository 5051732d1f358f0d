"""What every system answers at the test turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from decoupled_esc import prompts, taxonomy
from decoupled_esc.corpus import Turn, turns
from decoupled_esc.experiments.inputs import Base, Decoding, Policy, Source, Turns
from decoupled_esc.experiments.sampling import complete, engine_of, fitted, greedy, purpose, replies_under, score
from decoupled_esc.generate import baselines
from decoupled_esc.generate.engine import Engine, Sampling, stream
from decoupled_esc.pipeline import Missing, Step, Work
from decoupled_esc.prompts import Prompt


@dataclass(frozen=True)
class SystemReply:
    """What a system answered at a turn.  ``strategy`` None: none of the eight.

    ``scores`` [8]: log-probabilities of the tags of the eight, where they were sampled from, not normalised.
    """

    id: str
    strategy: str | None
    reply: str
    tokens: int
    finished: bool
    scores: list[float] | None = None


@dataclass(frozen=True)
class PlannedReply:
    """What a planner and a generator answered at a turn; ``scores`` [8]: log-probabilities of the strategies, not normalised."""

    id: str
    strategy: str | None
    plan: str
    scores: list[float]
    reply: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class Replies:
    """The replies of one system, and how many are odd."""

    turns: int
    invalid: int
    """Without one of the eight strategies."""
    unfinished: int
    """Cut at the token limit."""
    empty: int
    rows: tuple[SystemReply, ...]


@dataclass(frozen=True)
class PlannedReplies(Replies):
    """Those of a planner and a generator."""

    rows: tuple[PlannedReply, ...]


@dataclass(frozen=True)
class StepCost:
    """Tokens that one step of a prompting baseline read and wrote."""

    read: int
    written: int


@dataclass(frozen=True)
class PromptedReplies(Replies):
    """Those of a prompting baseline, what its steps cost, and three of its transcripts."""

    cost: dict[str, StepCost]
    transcripts: dict[str, dict[str, str]]


def counted(kind: type[Replies], rows: list, work: Work, **more):
    """``kind`` of ``rows``, with their counts."""
    work.tokens = sum(row.tokens for row in rows)
    return kind(
        turns=len(rows),
        invalid=sum(row.strategy is None for row in rows),
        unfinished=sum(not row.finished for row in rows),
        empty=sum(not row.reply for row in rows),
        rows=tuple(rows),
        **more,
    )


@dataclass(frozen=True, eq=False)
class Reply(Step):
    """One system's answers at the test turns."""

    uses_model = True

    base: Base
    turns: Turns
    sampling: Sampling
    decoding: Decoding
    seed: int

    @property
    def strategy_sampling(self) -> Sampling:
        """How the strategies were sampled from the scores of its rows."""
        return self.sampling

    def written(
        self, work: Work, generator: Policy | None, layout: str, planned: dict[str, str | None], sampling: Sampling | None = None, others=()
    ) -> dict[str, tuple[str, int, bool]]:  # fmt: skip
        """By turn id: what ``generator`` answers under the ``planned`` strategies; its tokens; whether it came to an end."""
        asked = (self.turns.read(), planned, layout, sampling or self.sampling, self.decoding, self.seed, others)
        rows = replies_under(work, self.base, generator, *asked)
        return {id: (row["reply"], row["tokens"], row["finished"]) for id, row in rows.items()}


def shown(policy: Policy | None, usual: str) -> prompts.Layout:
    """What ``policy`` is shown: as in its fine-tuning, where it was fine-tuned last; else the layout ``usual``."""
    return prompts.LAYOUTS[getattr(policy, "layout", usual)]


@dataclass(frozen=True, eq=False)
class ReplyCoupled(Reply):
    """A coupled model, printing ``[Strategy] reply``; ``policy`` None is the base model."""

    version = 2

    policy: Policy | None

    def run(self, work: Work) -> Replies | Missing:
        if self.policy is not None:
            work[self.policy]
        asked_at = self.turns.read()
        with engine_of(work, self.base, self.policy, self.decoding, self.seed) as engine:
            asked = fitted(engine, asked_at, shown(self.policy, "vanilla"), self.sampling, self.decoding.max_length)
            written = complete(work, engine, asked, self.sampling, "replies", self.seed)
            scores = tag_scores(work, engine, asked, self.sampling)
        rows = [tagged(turn.id, written[turn.id], scores=scores.get(turn.id)) for turn in asked_at]
        return counted(Replies, rows, work)


def tag_scores(
    work: Work, engine: Engine, asked: Sequence[Prompt], sampling: Sampling, what: str = "scores"
) -> dict[str, list[float]]:
    """By id: the log-probabilities of a coupled model's eight tags, where it is sampled."""
    names = [f"[{name}]" for name in taxonomy.STRATEGIES]
    return score(work, engine, asked, names, whole=False, what=what) if sampling.temperature else {}


def tagged(id: str, row: dict, text: str | None = None, scores: list[float] | None = None) -> SystemReply:
    """The answer of a coupled model, read from its tag."""
    strategy, reply = prompts.parse_tagged(row["text"] if text is None else text)
    return SystemReply(id, strategy, reply, row["tokens"], row["finished"], scores)


@dataclass(frozen=True, eq=False)
class ReplyPrompted(Reply):
    """The base model under a prompting baseline; the baseline's steps are in the step's folder."""

    version = 2

    baseline: str
    """A function of `generate.baselines`."""
    esconv: Source

    def run(self, work: Work) -> PromptedReplies | Missing:
        steps: dict[str, dict] = {}
        read: dict[str, int] = {}
        asked_at = self.turns.read()
        with engine_of(work, self.base, None, self.decoding, self.seed) as engine:

            def ask(step: str, layout) -> dict[str, str]:
                asked = fitted(engine, asked_at, layout, self.sampling, self.decoding.max_length)
                read[step] = sum(engine.count(prompt) for prompt in asked)
                steps[step] = complete(work, engine, asked, self.sampling, step, self.seed)
                return {id: row["text"] for id, row in steps[step].items()}

            shown = (self._examples(work),) if self.baseline == "with_example" else ()
            answers = getattr(baselines, self.baseline)(ask, *shown)
        rows = [tagged(turn.id, steps["refined"][turn.id], answers[turn.id]) for turn in asked_at]
        written = {step: sum(row["tokens"] for row in done.values()) for step, done in steps.items()}
        transcripts = {turn.id: {step: done[turn.id]["text"] for step, done in steps.items()} for turn in asked_at[1:4]}
        cost = {step: StepCost(read[step], written[step]) for step in steps}
        return counted(PromptedReplies, rows, work, cost=cost, transcripts=transcripts)

    def _examples(self, work: Work) -> Callable[[Turn], Turn]:
        """The turn of a training dialogue that *w/ Example* shows, sampled for every turn that is asked about."""
        dialogues = self.esconv.read().split("train")

        def example(turn: Turn) -> Turn:
            random = np.random.default_rng(stream(self.seed, purpose(work, "example"), turn.id, 8))
            known = turns(dialogues[random.integers(len(dialogues))])
            return known[min(random.integers(1, 4), len(known) - 1)]  # an early one, which fits beside the talk

        return example


@dataclass(frozen=True, eq=False)
class ReplyGold(Reply):
    """A generator under the gold strategy (Table 4)."""

    version = 2

    generator: Policy
    layout: str

    def run(self, work: Work) -> Replies | Missing:
        work[self.generator]
        gold = {turn.id: turn.strategy for turn in self.turns.read()}
        written = self.written(work, self.generator, self.layout, gold)
        return counted(Replies, [SystemReply(id, gold[id], *written[id]) for id in gold], work)


@dataclass(frozen=True, eq=False)
class ReplyDecoupled(Reply):
    """A planner, and a generator under the planner's strategies; None is the base model."""

    version = 2

    planner: Policy | None
    generator: Policy | None
    plan: Sampling
    layout: str

    @property
    def strategy_sampling(self) -> Sampling:
        """Of the planner."""
        return self.plan

    def run(self, work: Work) -> PlannedReplies | Missing:
        for policy in (self.planner, self.generator):
            if policy is not None:
                work[policy]
        asked_at, others = self.turns.read(), (self.planner, self.generator)
        with engine_of(work, self.base, self.planner, self.decoding, self.seed, others) as engine:
            asked = fitted(engine, asked_at, shown(self.planner, "planner"), self.plan, self.decoding.max_length)
            plans = complete(work, engine, asked, self.plan, "plans", self.seed)
            scores = score(work, engine, asked, taxonomy.STRATEGIES)
        planned = {turn.id: prompts.parse_strategy(plans[turn.id]["text"]) for turn in asked_at}
        written = self.written(work, self.generator, self.layout, planned, others=others)
        rows = [PlannedReply(id, planned[id], plans[id]["text"], scores[id], *written[id]) for id in planned]
        return counted(PlannedReplies, rows, work)


@dataclass(frozen=True, eq=False)
class ReplyArgmax(Reply):
    """The most probable strategy by the scores of ``sampled``, and the most probable tokens under it."""

    sampled: ReplyDecoupled

    def run(self, work: Work) -> Replies | Missing:
        scores = {row.id: row.scores for row in work[self.sampled].rows}
        best = {id: taxonomy.STRATEGIES[max(range(8), key=own.__getitem__)] for id, own in scores.items()}
        planned = {turn.id: best[turn.id] for turn in self.turns.read()}
        written = self.written(work, self.sampled.generator, self.sampled.layout, planned, greedy(self.sampling))
        return counted(Replies, [SystemReply(id, planned[id], *written[id]) for id in planned], work)


@dataclass(frozen=True, eq=False)
class ReplyUnder(Reply):
    """The words of one policy under the strategies of another system (chapter 19)."""

    plans: Reply
    writer: Policy
    layout: str

    def run(self, work: Work) -> Replies | Missing:
        work[self.writer]
        planned = {row.id: row.strategy for row in work[self.plans].rows}
        written = self.written(work, self.writer, self.layout, planned)
        return counted(Replies, [SystemReply(id, planned[id], *written[id]) for id in planned], work)
