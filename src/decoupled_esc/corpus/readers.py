"""Readers for ESConv (both published formats) and FailedESConv.

Both yield the same typed dialogues.  White space is folded, because the two formats of ESConv differ in it: the hub
copy has every run of blanks folded to one space.  Per-turn feedback exists in the raw format only.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from decoupled_esc import taxonomy
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.types import Dialogue, Flaw, Survey, Utterance

_ROLES = {
    "seeker": "seeker", "usr": "seeker", "speaker": "seeker",
    "supporter": "supporter", "sys": "supporter", "listener": "supporter",
}  # fmt: skip


def fold(text: str) -> str:
    """``text`` with every run of white space folded to one blank, and none at either end."""
    return re.sub(r"\s+", " ", text).strip()


def read_raw(path: Path, prefix: str) -> tuple[list[Dialogue], list[Flaw]]:
    """Dialogues of a raw file (``ESConv.json``, ``FailedESConv.json``): one JSON list.

    Ids are ``prefix/0000`` in file order; :mod:`decoupled_esc.corpus.split` renumbers ESConv.

    Raises CorpusError naming file, dialogue and field for anything that is not as published.
    """
    rows = _parse(path, _text(path))
    if not isinstance(rows, list):
        raise CorpusError("expected a JSON list of dialogues", file=path.name, remedy=_AGAIN)
    return _read(rows, path.name, prefix)


def read_hub(paths: Sequence[Path], prefix: str) -> tuple[list[Dialogue], list[Flaw]]:
    """Dialogues of the hub format (``train.txt``, ``valid.txt``, ``test.txt``): one JSON object a line.

    The hub's own 7:1.5:1.5 split is not the paper's and is not kept.  Raises CorpusError as :func:`read_raw`.
    """
    dialogues: list[Dialogue] = []
    flaws: list[Flaw] = []
    for path in paths:
        rows = []
        for number, line in enumerate(_text(path).split("\n"), start=1):
            if line.strip():
                rows.append(_parse(path, line, f"line {number}"))
        read, found = _read(rows, path.name, prefix, start=len(dialogues))
        dialogues += read
        flaws += found
    return dialogues, flaws


_AGAIN = "fetch the file again: decoupled-esc data fetch"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"not UTF-8 (byte {error.start})", file=path.name, remedy=_AGAIN) from None
    except OSError as error:
        raise CorpusError(f"cannot be read: {error.strerror}", file=str(path), remedy=_AGAIN) from None


def _parse(path: Path, text: str, where: str | None = None):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # beside bad syntax: a number or a nesting beyond Python's limits
        place = where or f"line {getattr(error, 'lineno', 1)}"
        problem = f"not valid JSON ({getattr(error, 'msg', error)}; the file may be cut short)"
        raise CorpusError(problem, file=path.name, field=place, remedy=_AGAIN) from None


def _read(rows: list, file: str, prefix: str, start: int = 0) -> tuple[list[Dialogue], list[Flaw]]:
    dialogues, flaws = [], []
    for number, row in enumerate(rows):
        dialogue, found = _dialogue(row, file, number, f"{prefix}/{start + number:04d}")
        dialogues.append(dialogue)
        flaws += [Flaw(file, dialogue.id, what) for what in found]
    return dialogues, flaws


def _dialogue(row, file: str, number: int, id: str) -> tuple[Dialogue, list[str]]:
    def fail(problem: str, field: str, remedy: str = _AGAIN):
        return CorpusError(problem, file=file, dialogue=number, field=field, remedy=remedy)

    if not isinstance(row, dict):
        raise fail("expected an object", "dialogue")
    for key in ("dialog", "situation", "survey_score"):
        if key not in row:
            raise fail("missing", key)
    for key in ("situation", "experience_type", "emotion_type", "problem_type"):
        if not isinstance(row.get(key, ""), str):
            raise fail("expected text", key)
    if not isinstance(row["dialog"], list) or not row["dialog"]:
        raise fail("an empty dialogue", "dialog")
    flaws: list[str] = []
    utterances = []
    for index, line in enumerate(row["dialog"]):
        where = f"dialog[{index}]"
        if not isinstance(line, dict):
            raise fail("expected an object", where)
        role = _ROLES.get(str(line.get("speaker")))
        if role is None:
            known = "seeker, supporter, usr, sys, speaker or listener"
            raise fail(f"unknown speaker {line.get('speaker')!r} (expected {known})", f"{where}.speaker")
        key = "content" if "content" in line else "text"
        if not isinstance(line.get(key), str):
            raise fail("missing", f"{where}.content (or .text)")
        text = fold(line[key])
        if not text:
            # Said nothing: there is no reply to learn and no context to give.  Skipped, and counted.
            flaws.append(f"{role} utterance without text")
            continue
        if re.search(r"[\ud800-\udfff]", text):
            raise fail("half of a surrogate pair, which is no character", f"{where}.{key}")
        annotation = line.get("annotation", line)
        if not isinstance(annotation, dict):
            raise fail("expected an object", f"{where}.annotation")
        strategy = None
        if role == "supporter":
            strategy, renamed = _strategy(annotation.get("strategy"), lambda problem, remedy: fail(
                problem, f"{where}.strategy", remedy))
            if renamed:
                flaws.append(f"strategy spelled {annotation['strategy']!r}")
        feedback = _rating(annotation.get("feedback"), lambda p: fail(p, f"{where}.annotation.feedback"))
        utterances.append(Utterance(f"{id}/{len(utterances):02d}", role, text, strategy, feedback))
    if not utterances:
        raise fail("a dialogue without any text", "dialog")
    survey, odd = _survey(row["survey_score"], fail)
    return Dialogue(
        id=id,
        utterances=tuple(utterances),
        experience_type=row.get("experience_type", ""),
        emotion_type=row.get("emotion_type", ""),
        problem_type=row.get("problem_type", ""),
        situation=fold(row["situation"]),
        survey=survey,
    ), flaws + odd


def _strategy(name, fail) -> tuple[str, bool]:
    """The canonical strategy and whether it was spelled the old way."""
    if name is None:
        raise fail("a supporter utterance without a strategy", "annotate it, or leave the dialogue out")
    if name in taxonomy.STRATEGIES:
        return name, False
    if isinstance(name, str) and name in taxonomy.STRATEGY_SYNONYMS:
        return taxonomy.STRATEGY_SYNONYMS[name], True
    near = difflib.get_close_matches(str(name), taxonomy.STRATEGIES, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise fail(f"unknown strategy {name!r}{hint}", f"use one of: {', '.join(taxonomy.STRATEGIES)}")


def _rating(value, fail) -> int | None:
    if value in (None, ""):
        return None
    if str(value) not in {"1", "2", "3", "4", "5"}:
        raise fail(f"{value!r} is not a rating from 1 to 5")
    return int(value)


def _survey(scores, fail) -> tuple[Survey, list[str]]:
    if not isinstance(scores, dict):
        raise fail("expected an object", "survey_score")
    seeker, supporter = scores.get("seeker", {}), scores.get("supporter", {})
    for key, side in (("seeker", seeker), ("supporter", supporter)):
        if not isinstance(side, dict):
            raise fail("expected an object", f"survey_score.{key}")
    relevance, flaws = supporter.get("relevance"), []
    if str(relevance) == "0":
        # ESConv has four of these, off the scale of 1 to 5: taken as not answered.
        relevance, flaws = None, ["supporter's relevance rating of 0"]

    def rating(side: dict, key: str) -> int | None:
        whose = "seeker" if side is seeker else "supporter"
        return _rating(side.get(key), lambda p: fail(p, f"survey_score.{whose}.{key}"))

    return Survey(
        initial_intensity=rating(seeker, "initial_emotion_intensity"),
        final_intensity=rating(seeker, "final_emotion_intensity"),
        empathy=rating(seeker, "empathy"),
        relevance=rating(seeker, "relevance"),
        supporter_relevance=rating({"relevance": relevance}, "relevance"),
    ), flaws
