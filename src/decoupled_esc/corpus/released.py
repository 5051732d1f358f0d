"""What DecoupledESC's authors released: replies of their two SFT models, psychological errors labelled by GPT.

Read for checking only: the files have no licence, and nothing of their text is committed.  A row has the seeker's last
words, a strategy, a reply and a label, and no id; ``read`` finds the turn of ESConv or FailedESConv that it answers.
"""

import bisect
import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from decoupled_esc import taxonomy
from decoupled_esc.corpus.chat import turns
from decoupled_esc.corpus.readers import DataFile, fold
from decoupled_esc.corpus.types import Dialogue, Turn

FILES = {
    "failed": "Statistic_FailedESCon.json",
    "qwen-sft": "Statistic_SFT_Qwen2.5.json",
    "llama-sft": "Statistic_SFT_llama3.1.json",
}
"""Source -> file: people of FailedESConv, and Qwen2.5-7B and Llama-3.1-8B after vanilla SFT."""

# The names of the labels drifted from those of the paper.
_LABELS = {
    "mismatched strategy": "Strategy Mismatch",
    "lack of empathetic content": "Lack of Empathy",
    "premature emotional transition": "Early Emotion Shift",
    "repetitive or template-like response": "Template Response",
    "emotional misunderstanding": "Emotion Misread",
}


@dataclass(frozen=True)
class LabelledReply:
    """One reply, the turn it answers, and the error that GPT saw in it."""

    source: str
    """A key of ``FILES``."""
    turn: Turn
    """The turn that it answers; its own ``strategy`` and ``reply`` are what the person there said."""
    strategy: str | None
    """The strategy that came with the reply; None where it is none of the eight."""
    reply: str
    error: str | None
    """One of ``taxonomy.ERRORS``, ``taxonomy.NO_ERROR``, or None where the label is none of these."""
    unique: bool
    """Whether the row's words alone decide which turn it is."""


def read(folder: Path, test: Sequence[Dialogue], failed: Sequence[Dialogue]) -> list[LabelledReply]:
    """All labelled replies in ``folder``, each with its turn: of ``test`` for the models, of ``failed`` for people.

    A model's reply is found by the words of the seeker that it answers, a person's by its own.  Where several turns
    have these words, rows are matched by order: they stand nearly in the order of the dialogues.
    Raises CorpusError naming file, row and field for a row of another form, or one that has no turn.
    """
    found = []
    for source, name in FILES.items():
        people = source == "failed"
        answered = [turn for dialogue in (failed if people else test) for turn in turns(dialogue)]
        file = DataFile(folder / name, "fetch the files again: decoupled-esc data fetch decoupledesc_release")
        rows = _rows(file)
        if people:
            aligned = _align(file, [row["response"] for row in rows], answered, [turn.reply for turn in answered])
        else:
            asked = [turn.context[-1].text for turn in answered]
            aligned = _align(file, [row["user_input"] for row in rows], answered, asked)
        for row, (turn, unique) in zip(rows, aligned, strict=True):
            strategy = row["strategy"] if row["strategy"] in taxonomy.STRATEGIES else None
            reply = fold(row["response"]).removeprefix(f"[{row['strategy']}]").strip()
            found.append(LabelledReply(source, turn, strategy, reply, _error(row), unique))
    return found


def dealt_at_random(rows: Sequence[LabelledReply], seed: int) -> list[LabelledReply]:
    """``rows`` with their turns exchanged at random among those of one source after the same words of the seeker.

    What the order of the rows is worth shows against this.
    """
    rng = random.Random(seed)
    groups: dict[tuple[str, str], list[LabelledReply]] = {}
    for row in rows:
        groups.setdefault((row.source, fold(row.turn.context[-1].text).lower()), []).append(row)
    found = []
    for group in groups.values():
        turns = rng.sample([row.turn for row in group], len(group))
        found += [replace(row, turn=turn) for row, turn in zip(group, turns, strict=True)]
    return found


def _rows(file: DataFile) -> list[dict]:
    rows = file.rows("rows")
    for number, row in enumerate(rows):
        for key in ("user_input", "strategy", "response", "Contains Empathy Error", "Error Type"):
            file.text_of(row, key, f"row {number}")
    return rows


def _error(row: dict) -> str | None:
    said, kind = row["Contains Empathy Error"].lower(), row["Error Type"].lower()
    for text in (kind, said):  # in some rows the type stands in the field for yes or no
        for label, name in _LABELS.items():
            if label in text:
                return name
    return taxonomy.NO_ERROR if said == "no" else None


def _align(
    file: DataFile, words: Sequence[str], answered: Sequence[Turn], theirs: Sequence[str]
) -> list[tuple[Turn, bool]]:
    """For each row, known by its ``words``, the turn that has them in ``theirs``, and whether no other turn has."""
    from scipy.optimize import linear_sum_assignment

    rows, places = _places(words), _places(theirs)
    for key in [key for key in rows if key not in places]:  # a slip of the pen was put right in one of the two files
        near = difflib.get_close_matches(key, places, n=1, cutoff=0.9)
        if not near:
            raise file.odd("no turn has the words of this row", f"row {rows[key][0]}")
        rows.setdefault(near[0], []).extend(rows.pop(key))
    sure = {rows[key][0]: places[key][0] for key in rows if len(rows[key]) == len(places[key]) == 1}
    anchors = sorted(sure)
    found: dict[int, tuple[Turn, bool]] = {}
    for key, mine in rows.items():
        options = places[key]
        if len(mine) > len(options):
            raise file.odd(f"{len(mine)} rows have the words of {len(options)} turns", f"row {mine[0]}")
        expected = [_expected(row, anchors, sure) for row in mine]
        shift = np.abs(np.subtract.outer(np.array(expected, dtype=float), np.array(options, dtype=float)))
        for row, place in zip(*linear_sum_assignment(shift), strict=True):
            found[mine[row]] = (answered[options[place]], len(options) == 1)
    return [found[number] for number in range(len(words))]


def _expected(row: int, anchors: list[int], sure: dict[int, int]) -> int:
    """Where ``row`` should lie, going by the nearest row whose place is known."""
    if not anchors:
        return row
    at = bisect.bisect(anchors, row)
    nearest = min(anchors[max(0, at - 1) : at + 1], key=lambda anchor: abs(anchor - row))
    return sure[nearest] + row - nearest


def _places(texts: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        found.setdefault(fold(text).lower(), []).append(number)
    return found
