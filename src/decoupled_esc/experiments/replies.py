"""What every system answers at the test turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from decoupled_esc import prompts, taxonomy
from decoupled_esc.corpus import Turn, turns
from decoupled_esc.experiments.inputs import Base, Decoding, Policy, Source, Turns
from decoupled_esc.experiments.sampling import complete, engine_of, fitted, greedy, purpose, replies_under, tags
from decoupled_esc.generate import baselines
from decoupled_esc.generate.engine import Sampling, stream
from decoupled_esc.pipeline import Missing, Step, Work


@dataclass(frozen=True)
class SystemReply:
    """What a system answered at a turn.  ``strategy`` None: none of the eight."""

    id: str
    strategy: str | None
    reply: str
    tokens: int
    finished: bool
    tags: str = ""
    """The strategies of further answers, `strategy.signs`: of coupled models that sample (`sampling.tags`)."""


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


def counted(kind: type[Replies], rows: list, **more):
    """``kind`` of ``rows``, with their counts."""
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
            asked = fitted(engine, asked_at, prompts.vanilla, self.sampling, self.decoding.max_length)
            written = complete(work, engine, asked, self.sampling, "replies", self.seed)
            more = tags(work, engine, asked, self.sampling, "tags", self.seed)
        rows = [replace(tagged(turn.id, written[turn.id]), tags=more[turn.id]) for turn in asked_at]
        return counted(Replies, rows)


def tagged(id: str, row: dict, text: str | None = None) -> SystemReply:
    """The answer of a coupled model, read from its tag."""
    strategy, reply = prompts.parse_tagged(row["text"] if text is None else text)
    return SystemReply(id, strategy, reply, row["tokens"], row["finished"])


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

            shown = (self._example(work),) if self.baseline == "with_example" else ()
            answers = getattr(baselines, self.baseline)(ask, *shown)
        rows = [tagged(turn.id, steps["refined"][turn.id], answers[turn.id]) for turn in asked_at]
        written = {step: sum(row["tokens"] for row in done.values()) for step, done in steps.items()}
        transcripts = {turn.id: {step: done[turn.id]["text"] for step, done in steps.items()} for turn in asked_at[1:4]}
        cost = {step: StepCost(read[step], written[step]) for step in steps}
        return counted(PromptedReplies, rows, cost=cost, transcripts=transcripts)

    def _example(self, work: Work) -> Callable[[Turn], Turn]:
        """What *w/ Example* shows for a turn: a training turn sampled for it, of those with a reply, and none's first."""
        some = [turn for talk in self.esconv.read().split("train") for turn in turns(talk)[1:] if turn.reply.strip()]

        def sampled(turn: Turn) -> Turn:
            return random.Random(stream(self.seed, purpose(work, "example"), turn.id, 8)).choice(some)

        return sampled


@dataclass(frozen=True, eq=False)
class ReplyGold(Reply):
    """A generator under the gold strategy (Table 4)."""

    version = 2

    generator: Policy
    layout: str

    def run(self, work: Work) -> Replies | Missing:
        work[self.generator]
        asked_at = self.turns.read()
        gold = {turn.id: turn.strategy for turn in asked_at}
        with engine_of(work, self.base, self.generator, self.decoding, self.seed) as engine:
            layout = prompts.LAYOUTS[self.layout]
            written = replies_under(work, engine, asked_at, gold, layout, self.sampling, self.decoding, self.seed)
        return counted(Replies, [_under(turn.id, gold, written) for turn in asked_at])


def _under(id: str, planned: dict[str, str | None], written: dict[str, dict]) -> SystemReply:
    row = written[id]
    return SystemReply(id, planned[id], row["reply"], row["tokens"], row["finished"])


@dataclass(frozen=True, eq=False)
class ReplyDecoupled(Reply):
    """A planner, and a generator under the planner's strategies; None is the base model."""

    version = 2

    planner: Policy | None
    generator: Policy | None
    plan: Sampling
    layout: str

    def run(self, work: Work) -> PlannedReplies | Missing:
        for policy in (self.planner, self.generator):
            if policy is not None:
                work[policy]
        asked_at, others = self.turns.read(), (self.planner, self.generator)
        with engine_of(work, self.base, self.planner, self.decoding, self.seed, others) as engine:
            asked = fitted(engine, asked_at, prompts.planner, self.plan, self.decoding.max_length)
            plans = complete(work, engine, asked, self.plan, "plans", self.seed)
            scored = work.rows("scores")
            left = [prompt for prompt in asked if prompt.id not in scored.by_id]
            for ids, scores in engine.score_choices(left, taxonomy.STRATEGIES):
                scored.append({"id": id, "scores": row} for id, row in zip(ids, scores.round(4).tolist(), strict=True))
        planned = {turn.id: prompts.parse_strategy(plans[turn.id]["text"]) for turn in asked_at}
        with engine_of(work, self.base, self.generator, self.decoding, self.seed, others) as engine:
            layout = prompts.LAYOUTS[self.layout]
            written = replies_under(work, engine, asked_at, planned, layout, self.sampling, self.decoding, self.seed)
        rows = [
            PlannedReply(
                turn.id, planned[turn.id], plans[turn.id]["text"], scored.by_id[turn.id]["scores"],
                written[turn.id]["reply"], written[turn.id]["tokens"], written[turn.id]["finished"],
            )
            for turn in asked_at
        ]  # fmt: skip
        return counted(PlannedReplies, rows)


@dataclass(frozen=True, eq=False)
class ReplyArgmax(Reply):
    """The most probable strategy by the scores of ``sampled``, and the most probable tokens under it."""

    sampled: ReplyDecoupled

    def run(self, work: Work) -> Replies | Missing:
        scores = {row.id: row.scores for row in work[self.sampled].rows}
        asked_at = self.turns.read()
        planned = {turn.id: taxonomy.STRATEGIES[max(range(8), key=scores[turn.id].__getitem__)] for turn in asked_at}
        layout = prompts.LAYOUTS[self.sampled.layout]
        with engine_of(work, self.base, self.sampled.generator, self.decoding, self.seed) as engine:
            written = replies_under(
                work, engine, asked_at, planned, layout, greedy(self.sampling), self.decoding, self.seed
            )
        return counted(Replies, [_under(turn.id, planned, written) for turn in asked_at])
