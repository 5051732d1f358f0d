"""What judges learn from: labels of errors by GPT, ratings of empathy by people; and the judges made from them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from decoupled_esc.corpus import Turn, empathy, invented
from decoupled_esc.corpus import released as outputs
from decoupled_esc.evaluate import judges, offline, ranks
from decoupled_esc.evaluate.judged import Reply
from decoupled_esc.experiments.inputs import Files, Source, Turns
from decoupled_esc.generate.client import Client, Endpoint
from decoupled_esc.generate.record import Record
from decoupled_esc.pipeline import Missing, UpstreamMissing, Work, attempt, unkeyed


@dataclass(frozen=True)
class LabelledReplies:
    """Replies with their errors by GPT; who wrote each, and whether its turn is known for sure."""

    replies: list[Reply]
    labels: list[str]
    sources: list[str]
    sure: list[bool]

    @property
    def are_invented(self) -> bool:
        """Whether they are this project's own, which make the steps work and teach nothing."""
        return set(self.sources) == {"invented"}

    @property
    def described(self) -> str:
        """How many labels, by whom and of what, in words."""
        kind = "INVENTED labels" if self.are_invented else "labels by GPT"
        return f"{len(self.labels):,} {kind}{' on FailedESConv' * (set(self.sources) == {'failed'})}"

    def where(self, kept: Sequence[bool]) -> LabelledReplies:
        """Those that are ``kept`` [replies]."""
        columns = (self.replies, self.labels, self.sources, self.sure)
        return LabelledReplies(*(list(compress(column, kept)) for column in columns))


def released_replies(release: Files, esconv: Source, failed: Source) -> list[outputs.LabelledReply]:
    """The outputs that DecoupledESC's authors released.  Raises UpstreamMissing without them, or without the real ESConv."""
    paths, whole = release.paths(), esconv.read()
    if whole.name != "esconv":
        raise UpstreamMissing(
            f"{release.name} belongs to the real ESConv, and the synthetic miniature stands in for it"
        )
    return outputs.read(paths[0].parent, whole.split("test"), failed.read().dialogues)


@dataclass(frozen=True)
class ErrorLabels:
    """Where labels of psychological errors come from: all that there are, those of replies at test dialogues among them."""

    esconv: Source
    failed: Source
    release: Files
    scale: str
    """Under ``smoke`` invented labels stand in for absent ones."""

    def read(self) -> LabelledReplies:
        """The labelled replies.  Raises UpstreamMissing where there are none."""
        try:
            found = released_replies(self.release, self.esconv, self.failed)
        except UpstreamMissing:
            if self.scale != "smoke":
                raise
            found, _ = invented.read()
        found = [row for row in found if row.error is not None]
        replies = [Reply(f"{row.source}/{row.turn.id}", row.turn, row.strategy, row.reply) for row in found]
        return LabelledReplies(
            replies, [row.error for row in found], [row.source for row in found], [row.unique for row in found]
        )


@dataclass(frozen=True)
class TrainingLabels:
    """The labels that may shape a model, by mining or as a reward: of no reply at a dialogue of validation or test."""

    every: ErrorLabels

    def read(self, *, held_out: bool = False) -> LabelledReplies:
        """The labelled replies, which of the published ones are those of FailedESConv.  Raises UpstreamMissing without any.

        ``held_out``: the others, on which a judge that learned from these is tested.
        """
        found, esconv = self.every.read(), self.every.esconv.read()
        names = {dialogue.id for split in ("validation", "test") for dialogue in esconv.split(split)}
        return found.where([(reply.turn.dialogue in names) == held_out for reply in found.replies])


@dataclass(frozen=True)
class EmpathyRatings:
    """Where people's ratings of empathy come from."""

    ratings: Files
    scale: str

    def read(self) -> list[empathy.RatedReply]:
        """The rated replies.  Raises UpstreamMissing where there are none."""
        if self.scale == "smoke" and not self.ratings.are_here:
            return invented.read()[1]
        return empathy.read(self.ratings.paths()[0].parent)


@dataclass(frozen=True)
class LLMJudges:
    """The LLM judges of a profile: who they are and what they are asked; address, price, budget and pace change no answer."""

    models: tuple[str, ...]
    protocol: judges.Protocol
    endpoints: tuple[Endpoint, ...] = unkeyed()
    mode: str = unkeyed()

    def open(self, answers: Path) -> list[judges.LLMJudge]:
        """The judges, asking by the record in ``answers``."""
        record = Record(answers)
        return [judges.LLMJudge(Client(endpoint, record, self.mode), self.protocol) for endpoint in self.endpoints]


def answers_in(work: Work) -> Path:
    """The record of everything that servers were asked, one for all profiles and outside any step's folder: it was paid."""
    return work.shared / "answers.sqlite"


def error_judge(work: Work, judge: LLMJudges | None, labels: TrainingLabels) -> tuple[str, Callable]:
    """(id of the judge that mines, a function of turns and {turn id: (strategy, reply)} to {turn id: (human reference's label, the reply's)}).

    Raises UpstreamMissing where there is none.
    """
    if judge is not None:
        llm = judge.open(answers_in(work))[0]
        name, ask = llm.id, llm.labels_of_pairs
    else:
        found = attempt(labels.read)
        if isinstance(found, Missing):
            raise UpstreamMissing(f"{found.reason}; or give the profile a judge section")
        classifier = offline.ErrorClassifier().fit(found.replies, found.labels)
        name = f"{classifier.id} ({found.described})"

        def ask(pairs: list[tuple[Reply, Reply]]) -> list[tuple[str, str]]:
            return list(zip(*map(classifier.errors, zip(*pairs, strict=True)), strict=True))

    def labelled(turns: Sequence[Turn], sampled: Mapping[str, tuple[str | None, str]]) -> dict[str, tuple]:
        pairs = [
            (Reply(f"gold/{t.id}", t, t.strategy, t.reply), Reply(f"drawn/{t.id}", t, *sampled[t.id])) for t in turns
        ]
        return dict(zip([t.id for t in turns], ask(pairs), strict=True))

    return name, labelled


@dataclass(frozen=True)
class RewardModels:
    """The offline judges, whose scores are percentiles among human references of the training split."""

    labels: TrainingLabels
    ratings: EmpathyRatings
    human: Turns
    seed: int

    def fit(self) -> ranks.PercentileReward:
        """The judges.  Raises UpstreamMissing where there are none."""
        labels, rated, turns = self.labels.read(), self.ratings.read(), self.human.read()
        some = random.Random(self.seed).sample(turns, min(4000, len(turns)))
        classifier = offline.ErrorClassifier().fit(labels.replies, labels.labels)
        references = [Reply(turn.id, turn, turn.strategy, turn.reply) for turn in some]
        return ranks.PercentileReward(classifier, offline.EmpathyScale().fit(rated), references)
