"""Other backbones of ours beside a chapter's own: the papers' tables (chapters 07, 08, 90), and where they start (16)."""

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from decoupled_esc.evaluate import Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments.run import Book
from decoupled_esc.experiments.sft import BaseModel, FineTuned, HeldOutAnswers
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import cso_tables, replication
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import ComparisonTable

PROMPTED = ("direct-refine", "self-refine", "emotion-cot")


def tables_3(
    books: Sequence[Book], every: Mapping[str, Evaluation], paradigm: str, **more
) -> dict[str, ComparisonTable]:
    """Backbone -> its `replication.table_3`, of the ``books`` beside a chapter's, for `ComparisonTable.beside`."""
    unasked, found = Missing("no judge was asked there"), [book for book in books if book.backbone in every]
    said = {book.backbone: " ".join(book.profile.deviations) for book in found}
    return {
        name: replication.table_3(every[name], unasked, paradigm, name, note, **more) for name, note in said.items()
    }


def cells(
    books: Sequence[Book], every: Mapping[str, Evaluation], cso: Mapping[str, SeedEvaluation]
) -> dict[str, pd.DataFrame]:
    """Backbone of ``books`` -> a line per cell of the papers' tables that its systems are compared with (`ComparisonTable.to_frame`)."""
    found = {}
    for book in books:
        tables = [one[book.backbone] for one in (
            *(tables_3([book], every, paradigm) for paradigm in ("vanilla", "decoupled")),
            tables_3([book], every, "vanilla", methods=PROMPTED),
        ) if one]  # fmt: skip
        if book.backbone in cso and book.backbone in every:
            tables += _cso(book, cso[book.backbone].together, every[book.backbone])
        if tables:
            found[book.backbone] = pd.concat([table.to_frame() for table in tables], ignore_index=True)
    return found


def summary(own: pd.DataFrame, beside: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`replication.summary` of the report by the papers' names of tables, and below it of each other backbone's `cells`."""
    names = {key: table.name for key, table in load_tables().items()}
    frames = [own.rename(index=names)]
    for backbone, lines in beside.items():
        found = replication.summary(lines)
        frames.append(found.rename(index={key: f"{name}, {backbone}" for key, name in names.items()}))
    return pd.concat(frames).fillna(0).astype(int) if len(frames) > 1 else frames[0]


def _cso(book: Book, measured: Evaluation, prompted: Evaluation) -> list[ComparisonTable]:
    tuning = cso_tables.tuning_of(book.profile)
    return [
        cso_tables.table_2(measured, prompted, tuning, book.backbone),
        cso_tables.table_4(measured, tuning, book.backbone),
        *(cso_tables.losses(measured, table, tuning, book.backbone) for table in cso_tables.BACKBONES),
    ]


def start(
    base: BaseModel, answers: HeldOutAnswers | None, tuned: FineTuned | None, minutes: float | None
) -> dict[str, str]:
    """What a training starts from and what fine-tuning adds to it: a column of chapter 16, a dash for what is unknown.

    ``answers``: the base model at held-out answers; ``tuned``: the coupled model, at the same, trained in ``minutes``.
    """

    def bits(nats: float | None) -> str:
        return "–" if nats is None or answers is None else f"{nats / math.log(2) / answers.bytes:.3f}"

    known = tuned is not None and answers is not None and tuned.held_out_turns == answers.turns
    return {
        "parameters": f"{base.parameters:,}" if base.parameters else "–",
        "vocabulary": f"{base.vocabulary:,}" if base.vocabulary else "–",
        "conversations, bits per byte": f"{base.held_out['bits_per_byte']:.3f}" if base.held_out else "–",
        "answers before fine-tuning, bits per byte": bits(answers and answers.nats_per_token * answers.tokens),
        "answers after it, bits per byte": bits(tuned.held_out_loss * tuned.held_out_tokens if known else None),
        "dialogues of fine-tuning": f"{tuned.dialogues:,}" if tuned else "–",
        "tokens of fine-tuning": f"{tuned.tokens:,}" if tuned else "–",
        "minutes of fine-tuning (other jobs beside it)": f"{minutes:.0f}" if minutes is not None else "–",
    }
