"""Labelled replies that this project invented, for the smallest runs where the public labels are not at hand.

A judge trained on 48 of them shows that the steps work, and nothing else.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from decoupled_esc.corpus.empathy import MECHANISMS, RatedReply
from decoupled_esc.corpus.readers import DataFile
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.corpus.types import Message, Turn

PATH = Path(__file__).parents[3] / "data" / "miniature" / "labelled_replies.json"


class _Row(BaseModel):
    seeker: str
    strategy: str
    reply: str
    error: str
    emotional_reactions: Literal[0, 1, 2]
    interpretations: Literal[0, 1, 2]
    explorations: Literal[0, 1, 2]


def read(path: Path = PATH) -> tuple[list[LabelledReply], list[RatedReply]]:
    """Each reply with its psychological error, and with its level of each mechanism of empathy.

    Raises CorpusError naming file, row and field where the file is damaged.
    """
    labelled, rated, file = [], [], DataFile(path, "restore it with git")
    try:
        rows = TypeAdapter(list[_Row]).validate_python(file.rows("replies"))
    except ValidationError as error:
        first = error.errors()[0]
        raise file.odd(first["msg"], "row " + ", ".join(map(str, first["loc"]))) from None
    for number, row in enumerate(rows):
        id = f"invented/{number:02d}"
        turn = Turn(id, id, (Message("seeker", row.seeker),), row.strategy, row.reply)
        labelled.append(LabelledReply("invented", turn, row.strategy, row.reply, row.error, unique=True))
        rated += [RatedReply(id, name, row.reply, getattr(row, name.replace(" ", "_"))) for name in MECHANISMS]
    return labelled, rated
