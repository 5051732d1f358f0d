"""Judges: what the offline ones are worth, and what all of them say of the systems' replies."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from decoupled_esc import mining
from decoupled_esc.corpus.empathy import MECHANISMS
from decoupled_esc.evaluate import errors, judges, offline
from decoupled_esc.evaluate import judged as shared
from decoupled_esc.evaluate.judged import Means, ScoreTable
from decoupled_esc.evaluate.seeds import SeedMeans, mean_over_seeds
from decoupled_esc.experiments.inputs import Measured, Source, Turns
from decoupled_esc.experiments.labels import (
    EmpathyRatings,
    ErrorLabels,
    LabelledReplies,
    LLMJudges,
    TrainingLabels,
    answers_in,
)
from decoupled_esc.experiments.preferences import MinePairs
from decoupled_esc.experiments.replies import Reply
from decoupled_esc.experiments.scores import Contrast
from decoupled_esc.generate.answers import Readable
from decoupled_esc.pipeline import Missing, Step, Work, attempt

PAIRED = (("decoupled-sft", "vanilla-sft"), ("decoupled-dpo", "vanilla-dpo"))
"""Systems that LLM judges compare reply by reply."""


@dataclass(frozen=True, kw_only=True)
class ErrorClassifierWorth(offline.ErrorValidity):
    """What the classifier of RQ4 is worth, and what that is worth which mines pairs and rewards the search."""

    training: offline.OutOfSourceValidity
    learned_from: str
    """What the latter learned from."""


@dataclass(frozen=True, eq=False)
class MeasureErrorClassifier(Measured):
    """What the offline error classifiers are worth against GPT's labels.

    That of RQ4 learns from all labels, and is tested on other dialogues and writers; that which shapes training learns from
    those of FailedESConv, and is tested on replies at test dialogues.
    """

    labels: ErrorLabels
    training: TrainingLabels

    def run(self, work: Work) -> ErrorClassifierWorth | Missing:
        found = self.labels.read()
        if found.are_invented:
            return Missing(
                "the labels are invented ones of this project, and a classifier trained on them is worth nothing"
            )
        learned, others = self.training.read(), self.training.read(held_out=True)
        guess = offline.ErrorClassifier().fit(learned.replies, learned.labels).errors(others.replies)
        unseen = offline.out_of_source_validity(others.replies, others.labels, others.sources, guess, **self.resampling)
        own = offline.error_validity(found.replies, found.labels, found.sources, found.sure, **self.resampling)
        return ErrorClassifierWorth(**vars(own), training=unseen, learned_from=learned.described)


@dataclass(frozen=True)
class EmpathyScaleWorth:
    """What the offline empathy scale is worth: on other posts, and against the ratings of ESConv's own seekers."""

    posts: dict[str, offline.MechanismValidity]
    seekers: offline.SeekerValidity


@dataclass(frozen=True, eq=False)
class MeasureEmpathyScale(Measured):
    """What the offline empathy scale is worth."""

    ratings: EmpathyRatings
    esconv: Source
    failed: Source

    def run(self, work: Work) -> EmpathyScaleWorth | Missing:
        rated = self.ratings.read()
        if rated[0].post.startswith("invented"):
            return Missing(
                "the ratings are invented ones of this project, and a scale trained on them is worth nothing"
            )
        human = {"esconv": self.esconv.read().dialogues, "failed_esconv": self.failed.read().dialogues}
        seekers = offline.against_seekers(offline.EmpathyScale().fit(rated), human, **self.resampling)
        return EmpathyScaleWorth(offline.empathy_validity(rated, **self.resampling), seekers)


def replies_of(work: Work, system: str, step: Reply, turns: Sequence) -> list[shared.Reply]:
    """What ``system`` answered to ``turns``, for a judge."""
    rows = {row.id: row for row in work[step].rows}
    return [shared.Reply(f"{system}/{turn.id}", turn, rows[turn.id].strategy, rows[turn.id].reply) for turn in turns]


def error_shares(labels: LabelledReplies, written: list, seed: int) -> tuple[np.ndarray, str]:
    """(how probable each error is in each reply, float [replies, 6] in per cent; what the classifier learned from)."""
    # A turn's own dialogue is kept out of what judges it: GPT's labels of other replies to it would give it away.
    return 100 * offline.out_of_fold(labels.replies, labels.labels, written, seed=seed), labels.described


@dataclass(frozen=True, kw_only=True)
class LearnedScores(ScoreTable):
    """Scores by an offline judge, and what it learned from."""

    learned_from: str


@dataclass(frozen=True)
class OfflineScores:
    """Every system's replies, and the gold ones, by the offline judges: shares of errors, levels of empathy."""

    turns: int
    errors: LearnedScores | Missing
    empathy: LearnedScores | Missing


@dataclass(frozen=True, eq=False)
class JudgeOffline(Measured):
    """Every system's replies by the offline judges."""

    systems: dict[str, Reply]
    contrasts: tuple[Contrast, ...]
    turns: Turns
    labels: ErrorLabels
    ratings: EmpathyRatings

    def run(self, work: Work) -> OfflineScores:
        labels, rated, turns = attempt(self.labels.read), attempt(self.ratings.read), self.turns.read()
        systems = {"gold": [shared.Reply(f"gold/{turn.id}", turn, turn.strategy, turn.reply) for turn in turns]}
        systems |= {name: replies_of(work, name, step, turns) for name, step in self.systems.items()}
        flat = [reply for written in systems.values() for reply in written]
        means = Means([turn.dialogue for turn in turns], **self.resampling)
        contrasts = [*self.contrasts, *((name, "gold") for name in self.systems)]

        def table(values: np.ndarray, columns: Sequence[str], learned: str) -> LearnedScores:
            by_system = dict(zip(systems, np.split(values, len(systems)), strict=True))
            return LearnedScores(**vars(means.table(by_system, columns, contrasts)), learned_from=learned)

        found: dict[str, LearnedScores | Missing] = {"errors": labels, "empathy": rated}
        if not isinstance(labels, Missing):
            probable, learned = error_shares(labels, flat, self.seed)
            found["errors"] = table(probable, errors.LABELS, learned)
        if not isinstance(rated, Missing):
            levels = offline.EmpathyScale().fit(rated).levels([reply.text for reply in flat])
            kind = "INVENTED ratings" if rated[0].post.startswith("invented") else "ratings by people"
            total = np.hstack([levels, levels.sum(axis=1, keepdims=True)])
            found["empathy"] = table(total, [*MECHANISMS, "all three"], f"{len(rated):,} {kind}")
        return OfflineScores(len(turns), **found)


@dataclass(frozen=True)
class SystemErrors:
    """Sums [dialogues][6] of one system's shares of errors."""

    id: str
    sums: list[list[float]]


@dataclass(frozen=True)
class ErrorCounts:
    """The offline classifier's shares of errors in the replies of systems under one seed, summed by dialogue."""

    systems: list[str]
    turns: int
    learned_from: str
    rows: tuple[SystemErrors, ...]


@dataclass(frozen=True, eq=False)
class CountErrors(Step):
    """Shares of errors of systems under one seed."""

    systems: dict[str, Reply]
    turns: Turns
    labels: ErrorLabels
    seed: int

    def run(self, work: Work) -> ErrorCounts:
        labels, turns = self.labels.read(), self.turns.read()
        flat = [reply for name, step in self.systems.items() for reply in replies_of(work, name, step, turns)]
        probable, learned = error_shares(labels, flat, self.seed)
        place = np.unique([turn.dialogue for turn in turns], return_inverse=True)[1]
        rows = []
        for name, shares in zip(self.systems, np.split(probable, len(self.systems)), strict=True):
            sums = np.zeros((place.max() + 1, shares.shape[1]))
            np.add.at(sums, place, shares)
            rows.append(SystemErrors(name, sums.round(4).tolist()))
        return ErrorCounts(list(self.systems), len(turns), learned, tuple(rows))


@dataclass(frozen=True, kw_only=True)
class ErrorsOverSeeds(SeedMeans):
    """Shares of errors averaged over seeds, and what the classifier learned from."""

    learned_from: str


@dataclass(frozen=True, eq=False)
class EvaluateErrors(Measured):
    """Shares of errors by the offline classifier and their differences, averaged over all seeds, and under each (RQ4)."""

    version = 3

    counts: dict[str, CountErrors]
    """By seed."""
    contrasts: tuple[Contrast, ...]
    turns: Turns

    def run(self, work: Work) -> ErrorsOverSeeds:
        found = {int(seed): work[step] for seed, step in self.counts.items()}
        sums = {seed: {row.id: np.array(row.sums) for row in counts.rows} for seed, counts in found.items()}
        sizes = np.unique([turn.dialogue for turn in self.turns.read()], return_counts=True)[1]
        means = mean_over_seeds(sizes, sums, errors.LABELS, contrasts=self.contrasts, **self.resampling)
        return ErrorsOverSeeds(**vars(means), learned_from=next(iter(found.values())).learned_from)


@dataclass(frozen=True)
class JudgeScores:
    """What one LLM judge said."""

    resolved: list[str]
    """The models that answered under its name."""
    scores: ScoreTable
    scores_after_words: ScoreTable | None
    """Without the turns after a blank message."""
    errors: ScoreTable
    unread: dict[str, dict[str, int]]
    repeats: list[dict[str, judges.Agreement]]
    pairs: dict[str, dict[str, judges.Outcome]]
    orders: dict[str, dict[str, judges.Agreement]]
    answers: dict[str, Readable] = field(default_factory=dict)
    """By question: a dimension, one of two replies, or ``error``."""


@dataclass(frozen=True)
class PairQuality(ScoreTable):
    """An LLM judge's scores of the two sides of mined pairs (Table 2)."""

    pairs: int
    judge: str | None
    protocol: judges.Protocol
    """The judge's, but without the gold reply, which is the chosen one."""


@dataclass(frozen=True)
class JudgedReply:
    """What one judge said of one reply."""

    id: str
    judge: str
    scores: dict[str, int | None]
    error: str | None


@dataclass(frozen=True)
class Judged:
    """Every system's replies by the LLM judges of the profile: Likert scores, errors, and pairs of systems."""

    turns: int
    after_blank: int
    protocol: judges.Protocol
    judges: dict[str, JudgeScores]
    mined_pairs: PairQuality
    between: dict[str, dict[str, judges.Agreement]]
    rows: tuple[JudgedReply, ...]


@dataclass(frozen=True, eq=False)
class AskJudges(Measured):
    """Every system's replies by the LLM judges of the profile."""

    version = 2

    judge: LLMJudges | None
    systems: dict[str, Reply]
    contrasts: tuple[Contrast, ...]
    pairs: MinePairs
    train: Turns
    turns: Turns
    profile: str

    def run(self, work: Work) -> Judged | Missing:
        if self.judge is None:
            return Missing(f"profile {self.profile} has no LLM judge")
        turns = judges.sample_turns(self.turns.read(), self.judge.protocol, self.seed)
        systems = {name: replies_of(work, name, step, turns) for name, step in self.systems.items()}
        found, scores, rows, work.tokens = {}, {}, [], 0
        asked = self.judge.open(answers_in(work))
        for judge in asked:
            found[judge.id], scores[judge.id], own = self._judged_by(judge, systems, turns)
            rows += own
            work.tokens += judge.tokens
        quality, tokens = self._pair_quality(work, asked[0])
        work.tokens += tokens
        first, *others = scores
        dialogues = [turn.dialogue for turn in turns] * len(systems)
        return Judged(
            turns=len(turns),
            after_blank=sum(not turn.context[-1].text.strip() for turn in turns),
            protocol=self.judge.protocol,
            judges=found,
            mined_pairs=quality,
            between={
                f"{first} ~ {other}": judges.agreement(
                    scores[first], scores[other], dialogues, judges.SCALE, **self.resampling
                )
                for other in others
            },
            rows=tuple(rows),
        )

    def _judged_by(self, judge, systems: dict[str, list], turns: list) -> tuple[JudgeScores, list, list[JudgedReply]]:
        """(what one judge said, its scores of all replies, rows)."""
        flat = [reply for written in systems.values() for reply in written]
        dialogues = [turn.dialogue for turn in turns]
        against = PAIRED if judge.protocol.pairs else ()
        pairs = {f"{a} - {b}": list(zip(systems[a], systems[b], strict=True)) for a, b in against}
        estimate = judge.estimate(flat, sum(pairs.values(), []))
        print(f"in all, without what is recorded: {estimate}", file=sys.stderr, flush=True)
        scores, labels = judge.scores(flat), judge.errors(flat)
        again = [judge.scores(flat, repeat) for repeat in range(1, judge.protocol.repeats)]
        chosen = {name: judge.choices(both) for name, both in pairs.items()}
        every = dialogues * len(systems)
        found = JudgeScores(
            resolved=sorted(judge.resolved),
            **self._tables(scores, labels, systems, turns),
            repeats=[judges.agreement(scores, other, every, judges.SCALE, **self.resampling) for other in again],
            pairs={name: judges.outcomes(choices, dialogues, **self.resampling) for name, choices in chosen.items()},
            orders={
                name: judges.agreement(*_orders(choices), dialogues, (-1, 0, 1), **self.resampling)
                for name, choices in chosen.items()
            },
            answers=judge.readable(),
        )
        return (
            found,
            scores,
            [JudgedReply(reply.id, judge.id, *said) for reply, *said in zip(flat, scores, labels, strict=True)],
        )

    def _tables(self, scores: list, labels: list, systems: dict[str, list], turns: list) -> dict:
        """Means of scores and errors, and how many answers could not be read."""

        def split(values) -> dict:
            return {name: values[k * len(turns) : (k + 1) * len(turns)] for k, name in enumerate(systems)}

        numbers, columns = judges.as_numbers(scores), [dimension.key for dimension in judges.DIMENSIONS]
        spoken = np.array([bool(turn.context[-1].text.strip()) for turn in turns])
        shares = np.array(
            [[np.nan if label is None else 100.0 * (label == one) for one in errors.LABELS] for label in labels]
        )
        means = Means([turn.dialogue for turn in turns], **self.resampling)
        after_words = None
        if spoken.any():
            some = Means([turn.dialogue for turn, says in zip(turns, spoken, strict=True) if says], **self.resampling)
            after_words = some.table(
                {name: values[spoken] for name, values in split(numbers).items()}, columns, self.contrasts
            )
        unread = {
            name: {
                **dict(zip(columns, np.isnan(values).sum(axis=0).tolist(), strict=True)),
                "error": split(labels)[name].count(None),
            }
            for name, values in split(numbers).items()
        }
        return {
            "scores": means.table(split(numbers), columns, self.contrasts),
            "scores_after_words": after_words,
            "errors": means.table(split(shares), errors.LABELS, self.contrasts),
            "unread": unread,
        }

    def _pair_quality(self, work: Work, judge) -> tuple[PairQuality, int]:
        """The first judge's scores of the chosen and rejected replies of 100 response pairs, the gold not shown; and the tokens."""
        work[self.pairs]
        by_id = {turn.id: turn for turn in self.train.read()}
        mined = mining.read(work.path(self.pairs, "response.jsonl"))
        some = random.Random(self.seed).sample(mined, min(100, len(mined)))
        protocol = judge.protocol.model_copy(update={"gold": "hidden"})
        if not some:
            return PairQuality({}, {}, 0, None, protocol), 0
        blind = judges.LLMJudge(judge.client, protocol)
        texts = {"chosen": lambda pair: by_id[pair.turn].reply, "rejected": lambda pair: pair.reply}
        sides = {
            side: [shared.Reply(f"{side}/{p.id}", by_id[p.turn], by_id[p.turn].strategy, text(p)) for p in some]
            for side, text in texts.items()
        }
        values = {side: judges.as_numbers(blind.scores(replies)) for side, replies in sides.items()}
        means = Means([by_id[pair.turn].dialogue for pair in some], **self.resampling)
        table = means.table(values, [dimension.key for dimension in judges.DIMENSIONS], [("chosen", "rejected")])
        return PairQuality(**vars(table), pairs=len(some), judge=judge.id, protocol=protocol), blind.tokens


def _orders(chosen: list) -> tuple[list, list]:
    """The choices in either order of the two replies."""
    return tuple([{key: both[k] for key, both in row.items()} for row in chosen] for k in (0, 1))
