"""Labelled replies that this project invented, for the smallest runs where the public labels are not at hand.

A judge trained on 48 of them shows that the steps work, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

from decoupled_esc.corpus.empathy import MECHANISMS, RatedReply
from decoupled_esc.corpus.released import LabelledReply
from decoupled_esc.corpus.types import Message, Turn

PATH = Path(__file__).parents[3] / "data" / "miniature" / "labelled_replies.json"


def read(path: Path = PATH) -> tuple[list[LabelledReply], list[RatedReply]]:
    """Each reply with its psychological error, and with its level of each mechanism of empathy."""
    labelled, rated = [], []
    for number, row in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        id, asked = f"invented/{number:02d}", (Message("seeker", row["seeker"]),)
        turn = Turn(id, id, asked, row["strategy"], row["reply"])
        labelled.append(LabelledReply("invented", turn, row["strategy"], row["reply"], row["error"], unique=True))
        rated += [RatedReply(id, name, row["reply"], row[name.replace(" ", "_")]) for name in MECHANISMS]
    return labelled, rated
