"""Replies of other published systems on ESConv, each with the turn that it answers.

The files hold a reply, a strategy and a reference, and no id of ESConv.  A row's turn is the one with the words of its
reference, after the same last message; white space, case and punctuation aside, which two of the files change.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decoupled_esc.corpus.readers import AGAIN, DataFile
from decoupled_esc.corpus.types import Turn
from decoupled_esc.taxonomy import STRATEGIES, STRATEGY_SYNONYMS

TRANSESC_LOGITS = (0, 3, 1, 5, 6, 7, 2, 4)
"""Column of TransESC's logits for each of ``STRATEGIES``: the order that its own answers, their argmax, prove."""

NEAR = 0.8
"""Similarity from which a reference counts as a turn's with slips: one file has the letters "ymp" and "ness" cut from words."""

_NAMES = {name.lower(): name for name in STRATEGIES} | {old.lower(): new for old, new in STRATEGY_SYNONYMS.items()}


@dataclass(frozen=True)
class PublishedReply:
    """One reply of a published system."""

    row: int
    """Its number in the file, from 0."""
    turn: Turn
    """The turn of ESConv that it answers."""
    unique: bool
    """Whether reference and last message belong to one turn alone."""
    gold_strategy: str
    """The file's own, like the reference: what its authors scored against."""
    gold_reply: str
    strategy: str
    reply: str
    scores: tuple[float, ...] | None = None
    """[8] log-probabilities up to a constant, in the order of ``STRATEGIES``, where they are published."""


@dataclass(frozen=True)
class _Row:
    """One row as the file has it; ``last``: the message before the reply."""

    last: str
    gold_strategy: str
    gold_reply: str
    strategy: str
    reply: str
    scores: tuple[float, ...] | None = None


Read = dict[str, tuple[DataFile, list[_Row]]]
"""System -> its rows, and the file that an error in them names."""


def read(name: str, paths: Sequence[Path], turns: Sequence[Turn]) -> dict[str, list[PublishedReply]]:
    """System -> its replies, of the data set ``name``; ``turns``: all supporters' turns of ESConv.

    Raises CorpusError naming file and row for a row of another form or without a turn, and where a strategy is not the one
    with the highest score.
    """
    found: dict[str, list[PublishedReply]] = {}
    places = _places(turns)
    for system, (file, rows) in READERS[name]([DataFile(path, f"{AGAIN} {name}") for path in paths]).items():
        options = [_options(row, places, file, number) for number, row in enumerate(rows)]
        alone = [turns[0].dialogue if len(turns) == 1 else None for turns in options]
        found[system] = []
        for number, (row, turns_of_row) in enumerate(zip(rows, options, strict=True)):
            beside = set(alone[max(0, number - 3) : number + 4])  # one file goes dialogue by dialogue
            turn = next((turn for turn in turns_of_row if turn.dialogue in beside), turns_of_row[0])
            kept = {key: value for key, value in vars(row).items() if key != "last"}
            found[system].append(PublishedReply(number, turn, len(turns_of_row) == 1, **kept))
    return found


def _kang(files: Sequence[DataFile]) -> Read:
    (file,), rows = files, []
    for where, (context, *said) in _texts(file, ("context", "strg_gold", "res_gold", "strg_pred", "res_pred")):
        said[0], said[2] = (_strategy(name, file, where) for name in said[::2])
        rows.append(_Row(context.rpartition("- Utterance: ")[2], *said))
    return {"Kang et al. 2024": (file, rows)}


def _cauesc(files: Sequence[DataFile]) -> Read:
    (file,), rows = files, []
    texts = list(_texts(file, ("post", "response", "generation", "pred_strategy_id_dist")))
    for (where, (post, gold, reply, line)), row in zip(texts, file.rows("rows"), strict=True):
        pair = (row.get("cls_strategy_id"), row.get("pred_strategy_id"))
        if not all(type(id) is int and 0 <= id < 8 for id in pair):
            raise file.odd(f"expected strategy ids 0 to 7, got {pair}", where)
        truth, said = (STRATEGIES[id] for id in pair)
        with np.errstate(divide="ignore"):
            scores = np.log(_numbers(line.split(), file, where))
        rows.append(_Row(post, truth, gold, said, reply, _checked(scores, said, file, where)))
    return {"CauESC": (file, rows)}


def _transesc(files: Sequence[DataFile]) -> Read:
    found = {}
    for system, own in {"TransESC": files[:5], "TransESC + Muffin": files[5:]}.items():
        replies, references, logits, record, summary = own
        said, gold = replies.rows("replies"), references.rows("replies")
        names = [pair for _, pair in _texts(record, ("ref strategy", "hyp strategy"))]
        scores = [line.split() for line in logits.text().splitlines()]
        contexts = [line.split("\t") for line in summary.text().splitlines()]
        if len({len(column) for column in (said, gold, names, scores, contexts)}) != 1:
            raise replies.odd("the files of one system differ in length", "rows")
        rows = []
        for number, (reply, reference, pair, line, context) in enumerate(zip(said, gold, names, scores, contexts)):
            where = f"row {number}"
            if not isinstance(reply, str) or not isinstance(reference, str):
                raise replies.odd("expected text", where)
            truth, chosen = (_strategy(tag.strip("[]"), record, where) for tag in pair)
            values = _numbers(line, logits, where)[list(TRANSESC_LOGITS)]
            last = context[-2] if len(context) > 1 else ""  # the reply stands last
            rows.append(_Row(last, truth, reference, chosen, reply, _checked(values, chosen, logits, where)))
        found[system] = (replies, rows)
    return found


READERS = {"kang2024_replies": _kang, "cauesc_replies": _cauesc, "transesc_replies": _transesc}
"""Data set -> the rows of each of its systems."""


def _texts(file: DataFile, fields: Sequence[str]) -> Iterable[tuple[str, list[str]]]:
    """(the row's place, its texts at ``fields``) for each row of a JSON list."""
    for number, row in enumerate(file.rows("rows")):
        where = f"row {number}"
        yield where, [file.text_of(row, field, where) for field in fields]


def _strategy(said: str, file: DataFile, where: str) -> str:
    if said.lower() not in _NAMES:
        raise file.odd(f"{said!r} is none of the eight strategies", where)
    return _NAMES[said.lower()]


def _numbers(parts: Sequence[str], file: DataFile, where: str) -> np.ndarray:
    try:
        values = np.array(parts, dtype=float)
    except ValueError:
        values = np.array([np.nan])
    if values.shape != (8,) or np.isnan(values).any():
        raise file.odd("expected eight numbers", where)
    return values


def _checked(scores: np.ndarray, said: str, file: DataFile, where: str) -> tuple[float, ...]:
    """``scores`` in the order of ``STRATEGIES``, after checking that ``said`` has the highest."""
    if scores[STRATEGIES.index(said)] < scores.max():
        raise file.odd(f"{said} has not the highest score", where)
    return tuple(scores.tolist())


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _places(turns: Sequence[Turn]) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(_letters(turn.reply), []).append(turn)
    return found


def _options(row: _Row, places: dict[str, list[Turn]], file: DataFile, number: int) -> list[Turn]:
    """The turns that ``row`` may answer: mostly one."""
    key = _letters(row.gold_reply)
    if key not in places:
        alike = difflib.get_close_matches(key, [k for k in places if k[:4] == key[:4] or k[-6:] == key[-6:]], 1, NEAR)
        if not alike:
            raise file.odd("no turn of ESConv has the words of this reference", f"row {number}")
        key = alike[0]
    last = _letters(row.last)
    options = [turn for turn in places[key] if turn.context and _letters(turn.context[-1].text) == last]
    return options or [turn for turn in places[key] if turn.strategy == row.gold_strategy] or places[key]
