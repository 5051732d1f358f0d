"""What published judges are worth: people, crowds and large models against experts, and simple rules against people's preferences."""

from dataclasses import dataclass

from decoupled_esc.corpus.judgements import (
    EXPERTS,
    read_conversations,
    read_empathic,
    read_ieval,
    read_mentalalign,
)  # fmt: skip
from decoupled_esc.evaluate import judge_worth
from decoupled_esc.evaluate.judges import LLMJudge
from decoupled_esc.evaluate.power import PairedSpread, paired_spreads
from decoupled_esc.evaluate.published_judges import AgreementTable, PairAccuracy, expert_agreement, pair_accuracy
from decoupled_esc.experiments.inputs import Files, Measured
from decoupled_esc.experiments.labels import ErrorLabels, LabelledReplies, LLMJudges, answers_in
from decoupled_esc.generate.answers import Readable
from decoupled_esc.pipeline import Missing, UpstreamMissing, Work, attempt


@dataclass(frozen=True)
class JudgementAgreement:
    """Agreement on conversations (21 dimensions), on nine models' replies (7 attributes), and baselines of pairwise preference."""

    conversations: AgreementTable | Missing
    replies: AgreementTable | Missing
    preferences: PairAccuracy | Missing


@dataclass(frozen=True, eq=False)
class MeasureAgreement(Measured):
    """Agreement among the raters of the published judgements; needs no model."""

    ieval: Files
    empathic: Files
    mentalalign: Files

    def run(self, work: Work) -> JudgementAgreement | Missing:
        if not any(files.are_here for files in (self.ieval, self.empathic, self.mentalalign)):
            self.ieval.paths()

        def agreement(found) -> AgreementTable:
            return expert_agreement(found.rows, found.left_out, **self.resampling)

        return JudgementAgreement(
            conversations=attempt(lambda: agreement(read_empathic(self.empathic.paths()[0]))),
            replies=attempt(lambda: agreement(read_mentalalign(self.mentalalign.paths()))),
            preferences=attempt(lambda: pair_accuracy(read_ieval(self.ieval.paths()[0]), **self.resampling)),
        )


@dataclass(frozen=True)
class JudgedSpread:
    """How scores of two writers' replies to the same posts differ and vary, by rater and dimension."""

    first: str
    second: str
    scale: float
    """Of the scores: highest minus lowest."""
    spreads: tuple[PairedSpread, ...]


@dataclass(frozen=True, eq=False)
class MeasureJudgedSpread(Measured):
    """The papers' two backbones, rated by experts and LLMs: what differences a judged comparison can see."""

    mentalalign: Files

    def run(self, work: Work) -> JudgedSpread | Missing:
        first, second = "Llama-3.1-8B", "Qwen2.5-7B"
        rows = read_mentalalign(self.mentalalign.paths()).rows
        return JudgedSpread(first, second, 4.0, paired_spreads(rows, first, second, **self.resampling))


@dataclass(frozen=True)
class LLMJudgeWorth:
    """What one LLM judge is worth beside experts and beside GPT's labels, and what of its answers could be read."""

    resolved: list[str]
    """The models that answered under its name."""
    ratings: AgreementTable | Missing
    unread: int
    """Of the ratings."""
    errors: judge_worth.JudgedErrors | Missing
    answers: dict[str, Readable]
    """By dimension; and ``error``."""


@dataclass(frozen=True)
class LLMJudgesWorth:
    """Every LLM judge of a profile on the conversations that experts rated and whose texts are published."""

    conversations: int
    judges: dict[str, LLMJudgeWorth]


@dataclass(frozen=True, eq=False)
class MeasureLLMJudges(Measured):
    """The LLM judges of the profile on published conversations that experts rated, and on replies that GPT labelled."""

    judge: LLMJudges | None
    empathic: Files
    labels: ErrorLabels
    profile: str

    def run(self, work: Work) -> LLMJudgesWorth | Missing:
        if self.judge is None:
            return Missing(f"profile {self.profile} has no LLM judge")
        said = attempt(lambda: read_conversations(self.empathic.paths()))
        labels, found, work.tokens = attempt(self._labelled), {}, 0
        for judge in self.judge.open(answers_in(work)):
            ratings, unread = (said, 0) if isinstance(said, Missing) else self._ratings(judge, said)
            errors = labels if isinstance(labels, Missing) else self._errors(judge, labels)
            found[judge.id] = LLMJudgeWorth(sorted(judge.resolved), ratings, unread, errors, judge.readable())
            work.tokens += judge.tokens
        return LLMJudgesWorth(0 if isinstance(said, Missing) else len(said), found)

    def _ratings(self, judge: LLMJudge, said: judge_worth.Conversations) -> tuple[AgreementTable, int]:
        rows = read_empathic(self.empathic.paths()[0]).rows
        experts = [row for row in rows if row.rater in ("experts", *EXPERTS) and (row.sample, row.conversation) in said]
        made, unread = judge_worth.judge_ratings(judge, experts, said)
        return expert_agreement([*experts, *made], {}, **self.resampling), unread

    def _labelled(self) -> LabelledReplies:
        """Replies of DecoupledESC's two models, as many of each label.  Raises UpstreamMissing where there are none."""
        found = self.labels.read()
        if found.are_invented:
            raise UpstreamMissing("the labels are invented ones of this project, and agreement with them says nothing")
        found = found.where([source != "failed" for source in found.sources])
        kept = set(judge_worth.balanced(found.labels, self.seed))
        return found.where([place in kept for place in range(len(found.labels))])

    def _errors(self, judge: LLMJudge, labels: LabelledReplies) -> judge_worth.JudgedErrors:
        dialogues = [reply.turn.dialogue for reply in labels.replies]
        return judge_worth.error_agreement(judge.errors(labels.replies), labels.labels, dialogues, **self.resampling)
