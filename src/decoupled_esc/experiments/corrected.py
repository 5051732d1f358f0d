"""Shares of errors by the offline classifier, corrected for what it was measured to get wrong (RQ4)."""

from dataclasses import dataclass

import numpy as np

from decoupled_esc.evaluate import corrected, offline
from decoupled_esc.evaluate.corrected import CorrectedShares, JudgedWriter, KnownShare
from decoupled_esc.experiments.inputs import Measured, Turns
from decoupled_esc.experiments.judging import CountErrors
from decoupled_esc.experiments.labels import ErrorLabels
from decoupled_esc.experiments.scores import Contrast
from decoupled_esc.pipeline import Missing, Work


@dataclass(frozen=True)
class ErrorRates:
    """How the classifier judges writers that it has not learned from, beside GPT's labels of the same replies."""

    check: dict[str, dict[str, KnownShare]]
    """Writer -> label -> its share corrected by the labels of the other writers, where it is known."""
    rows: tuple[JudgedWriter, ...]


@dataclass(frozen=True, eq=False)
class MeasureErrorRates(Measured):
    """What the classifier of RQ4 gets wrong on replies by unseen writers; out of fold by dialogue."""

    labels: ErrorLabels

    def run(self, work: Work) -> ErrorRates | Missing:
        found = self.labels.read()
        if found.are_invented:
            return Missing("the labels are invented ones of this project, and say nothing of what a judge gets wrong")
        f = offline.of_unseen_writers(found.replies, found.labels, found.sources, seed=self.seed)
        writers = []
        for name in dict.fromkeys(found.sources):
            own = [source == name for source in found.sources]
            mine = found.where(own)
            dialogues = [reply.turn.dialogue for reply in mine.replies]
            writers.append(corrected.judged_writer(name, dialogues, mine.labels, f[own]))
        return ErrorRates(corrected.check(writers, **self.resampling), tuple(writers))


@dataclass(frozen=True, eq=False)
class CorrectErrors(Measured):
    """Shares of errors of systems and their differences, corrected, averaged over all seeds."""

    counts: dict[str, CountErrors]
    """By seed."""
    rates: MeasureErrorRates
    contrasts: tuple[Contrast, ...]
    turns: Turns

    def run(self, work: Work) -> CorrectedShares:
        dialogues, turns = np.unique([turn.dialogue for turn in self.turns.read()], return_counts=True)
        sums = {
            seed: {row.id: np.array(row.sums) / 100 for row in work[step].rows} for seed, step in self.counts.items()
        }
        correction = corrected.Correction(work[self.rates].rows, dialogues.tolist(), **self.resampling)
        return corrected.corrected(correction, turns, sums, self.contrasts)
