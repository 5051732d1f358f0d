"""What judges learn from: labels of errors by GPT, ratings of empathy by people; and the judges made from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
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
from decoupled_esc.pipeline import Missing, Work, unkeyed


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


@dataclass(frozen=True)
class ErrorLabels:
    """Where labels of psychological errors come from: all that there are, those of replies at test dialogues among them."""

    esconv: Source
    failed: Source
    release: Files
    scale: str
    """Under ``smoke`` invented labels stand in for absent ones."""

    def read(self) -> LabelledReplies | Missing:
        """The labelled replies, or why there are none."""
        paths, whole = self.release.paths(), self.esconv.read()
        if not isinstance(paths, Missing) and whole.name == "esconv":
            found = outputs.read(paths[0].parent, whole.split("test"), self.failed.read().dialogues)
        elif self.scale == "smoke":
            found, _ = invented.read()
        elif isinstance(paths, Missing):
            return paths
        else:
            return Missing(
                f"{self.release.name} belongs to the real ESConv, and the synthetic miniature stands in for it"
            )
        found = [row for row in found if row.error is not None]
        replies = [Reply(f"{row.source}/{row.turn.id}", row.turn, row.strategy, row.reply) for row in found]
        return LabelledReplies(
            replies, [row.error for row in found], [row.source for row in found], [row.unique for row in found]
        )


@dataclass(frozen=True)
class TrainingLabels:
    """The labels that may shape a model, by mining or as a reward: of no reply at a dialogue of validation or test."""

    every: ErrorLabels

    def read(self) -> LabelledReplies | Missing:
        """The labelled replies, which of the published ones are those of FailedESConv; or why there are none."""
        return _apart(self.every, held_out=False)

    def read_held_out(self) -> LabelledReplies | Missing:
        """The others: what a judge that learned from `read` is tested on."""
        return _apart(self.every, held_out=True)


def _apart(labels: ErrorLabels, *, held_out: bool) -> LabelledReplies | Missing:
    found = labels.read()
    if isinstance(found, Missing):
        return found
    esconv = labels.esconv.read()
    names = {dialogue.id for split in ("validation", "test") for dialogue in esconv.split(split)}
    return found.where([(reply.turn.dialogue in names) == held_out for reply in found.replies])


@dataclass(frozen=True)
class EmpathyRatings:
    """Where people's ratings of empathy come from."""

    ratings: Files
    scale: str

    def read(self) -> list | Missing:
        """The rated replies, or why there are none."""
        paths = self.ratings.paths()
        if not isinstance(paths, Missing):
            return empathy.read(paths[0].parent)
        return invented.read()[1] if self.scale == "smoke" else paths


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


def error_judge(work: Work, judge: LLMJudges | None, labels: TrainingLabels):
    """(id of the judge that mines, a function of turns and {turn id: (strategy, reply)} to {turn id: (human reference's label, the reply's)});
    or why there is none."""

    def both(turns: Sequence[Turn], sampled: dict) -> list[tuple[Reply, Reply]]:
        return [
            (
                Reply(f"gold/{t.id}", t, t.strategy, t.reply),
                Reply(f"drawn/{t.id}", t, sampled[t.id][0], sampled[t.id][1]),
            )
            for t in turns
        ]

    if judge is not None:
        llm = judge.open(answers_in(work))[0]

        def asked(turns, sampled) -> dict:
            return dict(zip([t.id for t in turns], llm.labels_of_pairs(both(turns, sampled)), strict=True))

        return llm.id, asked
    found = labels.read()
    if isinstance(found, Missing):
        return Missing(f"{found.reason}; or give the profile a judge section")
    classifier = offline.ErrorClassifier().fit(found.replies, found.labels)

    def classified(turns, sampled) -> dict:
        gold, other = zip(*both(turns, sampled), strict=True)
        pairs = zip(classifier.errors(gold), classifier.errors(other), strict=True)
        return dict(zip([t.id for t in turns], pairs, strict=True))

    return f"{classifier.id} ({found.described})", classified


@dataclass(frozen=True)
class RewardModels:
    """The offline judges, whose scores are percentiles among human references of the training split."""

    labels: TrainingLabels
    ratings: EmpathyRatings
    human: Turns
    seed: int

    def fit(self) -> ranks.PercentileReward | Missing:
        """The judges, or why there are none."""
        labels, rated = self.labels.read(), self.ratings.read()
        for one in (labels, rated):
            if isinstance(one, Missing):
                return one
        turns = self.human.read()
        some = random.Random(self.seed).sample(turns, min(4000, len(turns)))
        classifier = offline.ErrorClassifier().fit(labels.replies, labels.labels)
        references = [Reply(turn.id, turn, turn.strategy, turn.reply) for turn in some]
        return ranks.PercentileReward(classifier, offline.EmpathyScale().fit(rated), references)
