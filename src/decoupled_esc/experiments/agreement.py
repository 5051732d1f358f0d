"""What published judges are worth: people, crowds and large models against experts, and simple rules against people's preferences."""

from __future__ import annotations

from dataclasses import dataclass

from decoupled_esc.corpus import judgements
from decoupled_esc.evaluate.power import PairedSpread, paired_spreads
from decoupled_esc.evaluate.published_judges import AgreementTable, PairAccuracy, expert_agreement, pair_accuracy
from decoupled_esc.experiments.inputs import Files
from decoupled_esc.pipeline import Missing, Step, Work


@dataclass(frozen=True)
class JudgementAgreement:
    """Agreement on conversations (21 dimensions), on nine models' replies (7 attributes), and baselines of pairwise preference."""

    conversations: AgreementTable | Missing
    replies: AgreementTable | Missing
    preferences: PairAccuracy | Missing


@dataclass(frozen=True, eq=False)
class MeasureAgreement(Step):
    """Agreement among the raters of the published judgements; needs no model."""

    ieval: Files
    empathic: Files
    mentalalign: Files
    replicates: int
    seed: int

    def run(self, work: Work) -> JudgementAgreement | Missing:
        ieval, empathic, mentalalign = (files.paths() for files in (self.ieval, self.empathic, self.mentalalign))
        if all(isinstance(paths, Missing) for paths in (ieval, empathic, mentalalign)):
            return ieval
        resampling = {"replicates": self.replicates, "seed": self.seed}

        def agreement(paths, read) -> AgreementTable | Missing:
            if isinstance(paths, Missing):
                return paths
            found = read(paths)
            return expert_agreement(found.rows, found.left_out, **resampling)

        preferences = ieval
        if not isinstance(ieval, Missing):
            preferences = pair_accuracy(judgements.read_ieval(ieval[0]), **resampling)
        return JudgementAgreement(
            agreement(empathic, lambda paths: judgements.read_empathic(paths[0])),
            agreement(mentalalign, judgements.read_mentalalign),
            preferences,
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
class MeasureJudgedSpread(Step):
    """The papers' two backbones, rated by experts and LLMs: what differences a judged comparison can see."""

    mentalalign: Files
    replicates: int
    seed: int

    def run(self, work: Work) -> JudgedSpread | Missing:
        paths = self.mentalalign.paths()
        if isinstance(paths, Missing):
            return paths
        first, second = "Llama-3.1-8B", "Qwen2.5-7B"
        rows = judgements.read_mentalalign(paths).rows
        return JudgedSpread(
            first, second, 4.0, paired_spreads(rows, first, second, replicates=self.replicates, seed=self.seed)
        )
