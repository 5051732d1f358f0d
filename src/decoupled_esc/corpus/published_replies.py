"""Replies of other published systems on ESConv, each with the turn that it answers.

The files hold a reply, a strategy and a reference, and no id of ESConv.  A row's turn is the one with the words of its
reference, after the same last message; white space, case and punctuation aside, which two of the files change.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.readers import AGAIN, read_list, read_text, text_of
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


def read(name: str, paths: Sequence[Path], turns: Sequence[Turn]) -> dict[str, list[PublishedReply]]:
    """System -> its replies, of the data set ``name``; ``turns``: all supporters' turns of ESConv.

    Raises CorpusError naming file and row for a row of another form or without a turn, and where a strategy is not the one
    with the highest score.
    """
    found: dict[str, list[PublishedReply]] = {}
    places = _places(turns)
    for system, (path, rows) in READERS[name](paths).items():
        options = [_options(row, places, path, number, name) for number, row in enumerate(rows)]
        alone = [turns[0].dialogue if len(turns) == 1 else None for turns in options]
        found[system] = []
        for number, (row, turns_of_row) in enumerate(zip(rows, options, strict=True)):
            beside = set(alone[max(0, number - 3) : number + 4])  # one file goes dialogue by dialogue
            turn = next((turn for turn in turns_of_row if turn.dialogue in beside), turns_of_row[0])
            kept = {key: value for key, value in vars(row).items() if key != "last"}
            found[system].append(PublishedReply(number, turn, len(turns_of_row) == 1, **kept))
    return found


def _kang(paths: Sequence[Path]) -> dict[str, tuple[Path, list[_Row]]]:
    (path,) = paths
    fields = ("context", "strg_gold", "res_gold", "strg_pred", "res_pred")
    rows = []
    for where, (context, *said) in _texts(path, fields, "kang2024_replies"):
        said[0], said[2] = (_strategy(name, path, where, "kang2024_replies") for name in said[::2])
        rows.append(_Row(context.rpartition("- Utterance: ")[2], *said))
    return {"Kang et al. 2024": (path, rows)}


def _cauesc(paths: Sequence[Path]) -> dict[str, tuple[Path, list[_Row]]]:
    (path,) = paths
    name, rows = "cauesc_replies", []
    ids = [(row.get("cls_strategy_id"), row.get("pred_strategy_id")) for row in read_list(path, "rows", _again(name))]
    for (where, (post, gold, reply, line)), pair in zip(
        _texts(path, ("post", "response", "generation", "pred_strategy_id_dist"), name), ids, strict=True
    ):
        if not all(type(id) is int and 0 <= id < 8 for id in pair):
            raise _odd(f"expected strategy ids 0 to 7, got {pair}", path, where, name)
        truth, said = (STRATEGIES[id] for id in pair)
        with np.errstate(divide="ignore"):
            scores = np.log(_numbers(line.split(), path, where, name))
        rows.append(_Row(post, truth, gold, said, reply, _checked(scores, said, path, where, name)))
    return {"CauESC": (path, rows)}


def _transesc(paths: Sequence[Path]) -> dict[str, tuple[Path, list[_Row]]]:
    name, found = "transesc_replies", {}
    for system, files in {"TransESC": paths[:5], "TransESC + Muffin": paths[5:]}.items():
        replies, references, logits, record, summary = files
        said = read_list(replies, "replies", _again(name))
        gold = read_list(references, "replies", _again(name))
        names = [pair for _, pair in _texts(record, ("ref strategy", "hyp strategy"), name)]
        scores = [line.split() for line in read_text(logits, _again(name)).splitlines()]
        contexts = [line.split("\t") for line in read_text(summary, _again(name)).splitlines()]
        if len({len(column) for column in (said, gold, names, scores, contexts)}) != 1:
            raise _odd("the files of one system differ in length", replies, "rows", name)
        rows = []
        for number, (reply, reference, pair, line, context) in enumerate(zip(said, gold, names, scores, contexts)):
            where = f"row {number}"
            if not isinstance(reply, str) or not isinstance(reference, str):
                raise _odd("expected text", replies, where, name)
            truth, chosen = (_strategy(tag.strip("[]"), record, where, name) for tag in pair)
            values = _numbers(line, logits, where, name)[list(TRANSESC_LOGITS)]
            last = context[-2] if len(context) > 1 else ""  # the reply stands last
            rows.append(_Row(last, truth, reference, chosen, reply, _checked(values, chosen, logits, where, name)))
        found[system] = (replies, rows)
    return found


READERS: dict[str, Callable[[Sequence[Path]], dict[str, tuple[Path, list[_Row]]]]] = {
    "kang2024_replies": _kang, "cauesc_replies": _cauesc, "transesc_replies": _transesc,
}  # fmt: skip
"""Data set -> the rows of each of its systems, with the file that an error names."""


def _again(name: str) -> str:
    return f"{AGAIN} {name}"


def _odd(problem: str, path: Path, field: str, name: str) -> CorpusError:
    return CorpusError(problem, file=path.name, field=field, remedy=_again(name))


def _texts(path: Path, fields: Sequence[str], name: str) -> Iterable[tuple[str, list[str]]]:
    """(the row's place, its texts at ``fields``) for each row of a JSON list."""
    for number, row in enumerate(read_list(path, "rows", _again(name))):
        where = f"row {number}"
        yield where, [text_of(row, field, path, where, _again(name)) for field in fields]


def _strategy(said: str, path: Path, where: str, name: str) -> str:
    if said.lower() not in _NAMES:
        raise _odd(f"{said!r} is none of the eight strategies", path, where, name)
    return _NAMES[said.lower()]


def _numbers(parts: Sequence[str], path: Path, where: str, name: str) -> np.ndarray:
    try:
        values = np.array(parts, dtype=float)
    except ValueError:
        values = np.array([np.nan])
    if values.shape != (8,) or np.isnan(values).any():
        raise _odd("expected eight numbers", path, where, name)
    return values


def _checked(scores: np.ndarray, said: str, path: Path, where: str, name: str) -> tuple[float, ...]:
    """``scores`` in the order of ``STRATEGIES``, after checking that ``said`` has the highest."""
    if scores[STRATEGIES.index(said)] < scores.max():
        raise _odd(f"{said} has not the highest score", path, where, name)
    return tuple(scores.tolist())


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _places(turns: Sequence[Turn]) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(_letters(turn.reply), []).append(turn)
    return found


def _options(row: _Row, places: dict[str, list[Turn]], path: Path, number: int, name: str) -> list[Turn]:
    """The turns that ``row`` may answer: mostly one."""
    key = _letters(row.gold_reply)
    if key not in places:
        alike = difflib.get_close_matches(key, [k for k in places if k[:4] == key[:4] or k[-6:] == key[-6:]], 1, NEAR)
        if not alike:
            raise _odd("no turn of ESConv has the words of this reference", path, f"row {number}", name)
        key = alike[0]
    last = _letters(row.last)
    options = [turn for turn in places[key] if turn.context and _letters(turn.context[-1].text) == last]
    return options or [turn for turn in places[key] if turn.strategy == row.gold_strategy] or places[key]
