"""ESConv and FailedESConv counted, and the authors' own outputs scored again."""

from collections import Counter
from dataclasses import dataclass

from decoupled_esc import corpus
from decoupled_esc.corpus import released as outputs
from decoupled_esc.corpus import statistics
from decoupled_esc.evaluate import EvaluatedTurn, Evaluation, errors, evaluate_systems
from decoupled_esc.experiments.inputs import Files, Measured, Source
from decoupled_esc.experiments.labels import released_replies
from decoupled_esc.pipeline import Step, Work

EXAMPLE = "esconv/0071"
"""The dialogue whose first four messages the book quotes: ordinary, and without anything that names a person."""

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Excerpt:
    """The first messages of a dialogue in chat form."""

    id: str
    messages: list[dict[str, str | None]]


@dataclass(frozen=True)
class FailedCounts:
    """Counts of FailedESConv."""

    corpus: str
    dialogues: int
    strategy_counts: dict[str, int]


@dataclass(frozen=True)
class DataCounts:
    """Counts of ESConv and FailedESConv: Tables 1 and 6, Figure 8, the split, what the data sets have wrong."""

    corpus: str
    digest: str
    dialogues: dict[str, int]
    turns: dict[str, int]
    example: Excerpt
    blank_turns: dict[str, int]
    size: dict[str, dict[str, int | float]]
    strategy_counts: dict[str, int]
    strategy_by_stage: list[list[int]]
    survey: dict[str, dict[str, dict[str, int | float | None]]]
    failed: FailedCounts
    flaws: dict[str, dict[str, int]]


@dataclass(frozen=True, eq=False)
class CountData(Step):
    """All counts of the data."""

    esconv: Source
    failed: Source

    def run(self, work: Work) -> DataCounts:
        whole, failed = self.esconv.read(), self.failed.read()
        train = whole.split("train")
        example = example_dialogue(train)
        blank = {split: statistics.blank_contexts(whole.split(split)) for split in SPLITS}
        corpora = {"esconv": whole, "failed_esconv": failed}
        return DataCounts(
            corpus=whole.name,
            digest=whole.digest,
            dialogues={split: len(whole.split(split)) for split in SPLITS},
            turns={split: blank[split][1] for split in SPLITS},
            example=Excerpt(example.id, [vars(message) for message in corpus.chat_form(example)[:4]]),
            blank_turns={split: blank[split][0] for split in ("train", "test")},
            size=statistics.size(train),
            strategy_counts=statistics.strategy_counts(train),
            strategy_by_stage=statistics.strategy_by_stage([said.strategy for said in one.utterances] for one in train),
            survey={name: statistics.survey(found.dialogues) for name, found in corpora.items()},
            failed=FailedCounts(failed.name, len(failed.dialogues), statistics.strategy_counts(failed.dialogues)),
            flaws={
                name: dict(sorted(Counter(flaw.what for flaw in found.flaws).items()))
                for name, found in corpora.items()
            },
        )


def example_dialogue(train) -> corpus.Dialogue:
    """The dialogue that the book quotes."""
    return next((dialogue for dialogue in train if dialogue.id == EXAMPLE), train[0])


@dataclass(frozen=True)
class ReleasedScores:
    """The authors' outputs: errors that GPT labelled (Figure 2), and their SFT replies scored again (Table 3)."""

    errors: dict[str, errors.ErrorShares]
    repeats: errors.RepeatedLabels
    scores: dict[str, Evaluation]
    """By how replies were matched to turns."""
    order_against_chance: Evaluation


@dataclass(frozen=True, eq=False)
class ScoreReleased(Measured):
    """The authors' own outputs, read and scored."""

    esconv: Source
    failed: Source
    release: Files

    def run(self, work: Work) -> ReleasedScores:
        found, resampling = released_replies(self.release, self.esconv, self.failed), self.resampling
        replies = [row for row in found if row.source != "failed"]
        by_order = [row for row in replies if not row.unique]
        some = {
            "all": replies,
            "by words alone": [row for row in replies if row.unique],
            "by order, after a blank message": [row for row in by_order if not row.turn.context[-1].text.strip()],
            "by order, others": [row for row in by_order if row.turn.context[-1].text.strip()],
        }
        return ReleasedScores(
            errors=errors.shares(found, **resampling),
            repeats=errors.repeats(found, **resampling),
            scores={name: _scored(rows, [], resampling) for name, rows in some.items()},
            order_against_chance=_scored(by_order, outputs.dealt_at_random(by_order, self.seed), resampling),
        )


def _scored(rows: list, others: list, resampling: dict) -> Evaluation:
    """Scores by source, and the differences from the same replies matched at random (``others``)."""
    systems: dict[str, list] = {}
    for row, name in [*((row, row.source) for row in rows), *((row, f"{row.source} at random") for row in others)]:
        turn = row.turn
        evaluated = EvaluatedTurn(turn.id, turn.dialogue, turn.strategy, turn.reply, row.strategy, row.reply)
        systems.setdefault(name, []).append(evaluated)
    contrasts = [(name, f"{name} at random") for name in systems if f"{name} at random" in systems]
    return evaluate_systems(systems, contrasts=contrasts, **resampling)
