"""What published judges are worth: people, crowds and large models against experts, and simple rules against people's preferences."""

from dataclasses import dataclass

from decoupled_esc.corpus.judgements import read_empathic, read_ieval, read_mentalalign
from decoupled_esc.evaluate.power import PairedSpread, paired_spreads
from decoupled_esc.evaluate.published_judges import AgreementTable, PairAccuracy, expert_agreement, pair_accuracy
from decoupled_esc.experiments.inputs import Files, Measured
from decoupled_esc.pipeline import Missing, Work, attempt


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
