"""Readers for ESConv (both published formats) and FailedESConv.

Both yield the same typed dialogues.  White space is folded, because the two formats of ESConv differ in it: the hub
copy has every run of blanks folded to one space.  Per-turn feedback exists in the raw format only.
"""

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc import taxonomy
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.types import Dialogue, Flaw, Survey, Utterance
from decoupled_esc.errors import nearest

_ROLES = {
    "seeker": "seeker", "usr": "seeker", "speaker": "seeker",
    "supporter": "supporter", "sys": "supporter", "listener": "supporter",
}  # fmt: skip
HALF, NO_CHARACTER = r"[\ud800-\udfff]", "half of a surrogate pair, which is no character"
AGAIN = "fetch the file again: decoupled-esc data fetch"


def fold(text: str) -> str:
    """``text`` with every run of white space folded to one blank, and none at either end."""
    return re.sub(r"\s+", " ", text).strip()


@dataclass(frozen=True)
class DataFile:
    """A published file.  Whatever in it is not as published is a CorpusError with ``remedy``."""

    path: Path
    remedy: str = AGAIN

    def odd(self, problem: str, field: str | None = None) -> CorpusError:
        """The error."""
        return CorpusError(problem, file=self.path.name, field=field, remedy=self.remedy)

    def text(self, encoding: str = "utf-8") -> str:
        """All of it."""
        try:
            return self.path.read_text(encoding=encoding)
        except UnicodeDecodeError as error:
            raise self.odd(f"not UTF-8 (byte {error.start})") from None
        except OSError as error:
            raise CorpusError(f"cannot be read: {error.strerror}", file=str(self.path), remedy=self.remedy) from None

    def json(self, text: str, where: str | None = None):
        """``text`` of it as JSON; the error names ``where``, or the line."""
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:  # beside bad syntax: a number or a nesting beyond Python's limits
            problem = f"not valid JSON ({getattr(error, 'msg', error)}; the file may be cut short)"
            raise self.odd(problem, where or f"line {getattr(error, 'lineno', 1)}") from None

    def rows(self, of: str) -> list:
        """Its one JSON list, of ``of``."""
        rows = self.json(self.text())
        if not isinstance(rows, list):
            raise self.odd(f"expected a JSON list of {of}")
        return rows

    def table(self, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
        """(number of the row, its cells) as CSV, each of ``fields`` among them."""
        csv.field_size_limit(1 << 24)
        reader = csv.DictReader(io.StringIO(self.text("utf-8-sig"), newline=""))
        try:
            for number, row in enumerate(itertools.chain([dict.fromkeys(reader.fieldnames or (), "")], reader)):
                for field in fields:
                    if row.get(field) is None:
                        raise self.odd("missing", f"row {number or 1}, {field}")
                if number > 0:  # row 0 is the header
                    yield number, row
        except csv.Error as error:
            raise self.odd(f"cannot be read: {error}") from None

    def text_of(self, row, key: str, where: str) -> str:
        """The text at ``key`` of the JSON object ``row``, which stands at ``where``."""
        value = row.get(key) if isinstance(row, dict) else None
        if isinstance(value, str) and not re.search(HALF, value):
            return value
        problem = NO_CHARACTER if isinstance(value, str) else "missing or not text"
        raise self.odd(problem, f"{where}, {key}")


def read_raw(path: Path, prefix: str) -> tuple[list[Dialogue], list[Flaw]]:
    """Dialogues of a raw file (``ESConv.json``, ``FailedESConv.json``), one JSON list; ids ``prefix/0000`` in its order.

    Raises CorpusError naming file, dialogue and field for anything that is not as published.
    """
    return _read(DataFile(path).rows("dialogues"), path.name, prefix)


def read_hub(paths: Sequence[Path], prefix: str) -> tuple[list[Dialogue], list[Flaw]]:
    """Dialogues of the hub format (``train.txt``, ``valid.txt``, ``test.txt``): one JSON object a line.

    The hub's own 7:1.5:1.5 split is not the paper's and is not kept.  Raises CorpusError as :func:`read_raw`.
    """
    dialogues: list[Dialogue] = []
    flaws: list[Flaw] = []
    for path in paths:
        file = DataFile(path)
        lines = enumerate(file.text().split("\n"), start=1)
        rows = [file.json(line, f"line {number}") for number, line in lines if line.strip()]
        read, found = _read(rows, path.name, prefix, start=len(dialogues))
        dialogues += read
        flaws += found
    return dialogues, flaws


def _read(rows: list, file: str, prefix: str, start: int = 0) -> tuple[list[Dialogue], list[Flaw]]:
    dialogues, flaws = [], []
    for number, row in enumerate(rows):
        dialogue, found = _dialogue(row, file, number, f"{prefix}/{start + number:04d}")
        dialogues.append(dialogue)
        flaws += [Flaw(file, dialogue.id, what) for what in found]
    return dialogues, flaws


def _dialogue(row, file: str, number: int, id: str) -> tuple[Dialogue, list[str]]:
    def fail(problem: str, field: str, remedy: str = AGAIN):
        return CorpusError(problem, file=file, dialogue=number, field=field, remedy=remedy)

    if not isinstance(row, dict):
        raise fail("expected an object", "dialogue")
    texts = {"situation": None, "experience_type": "", "emotion_type": "", "problem_type": ""}
    for key, default in texts.items():
        texts[key] = row.get(key, default)
        if not isinstance(texts[key], str) or re.search(HALF, texts[key]):
            raise fail("missing, or not text", key)
    if not isinstance(row.get("dialog"), list) or not row["dialog"]:
        raise fail("missing, or an empty dialogue", "dialog")
    flaws: list[str] = []
    utterances: list[Utterance] = []
    for index, line in enumerate(row["dialog"]):
        utterance = _utterance(line, f"dialog[{index}]", f"{id}/{len(utterances):02d}", fail, flaws)
        utterances += [utterance] if utterance else []
    if not utterances:
        raise fail("a dialogue without any text", "dialog")
    texts["situation"] = fold(texts["situation"])
    return Dialogue(id, tuple(utterances), survey=_survey(row.get("survey_score"), fail, flaws), **texts), flaws


def _utterance(line, where: str, id: str, fail, flaws: list[str]) -> Utterance | None:
    """One line; None, and a flaw, where nothing was said: there is no reply to learn and no context to give."""
    if not isinstance(line, dict):
        raise fail("expected an object", where)
    role = _ROLES.get(str(line.get("speaker")))
    if role is None:
        raise fail(f"unknown speaker {line.get('speaker')!r} (expected {', '.join(_ROLES)})", f"{where}.speaker")
    key = "content" if "content" in line else "text"
    if not isinstance(line.get(key), str):
        raise fail("missing", f"{where}.content (or .text)")
    if re.search(HALF, line[key]):
        raise fail(NO_CHARACTER, f"{where}.{key}")
    text, annotation, strategy = fold(line[key]), line.get("annotation", line), None
    if not text:
        flaws.append(f"{role} utterance without text")
        return None
    if not isinstance(annotation, dict):
        raise fail("expected an object", f"{where}.annotation")
    if role == "supporter":
        strategy = _strategy(annotation.get("strategy"), f"{where}.strategy", fail, flaws)
    return Utterance(id, role, text, strategy, _rating(annotation, "feedback", f"{where}.annotation", fail))


def _strategy(name, field: str, fail, flaws: list[str]) -> str:
    """The canonical strategy; the old spelling is a flaw."""
    if name is None:
        raise fail("a supporter utterance without a strategy", field, "annotate it, or leave the dialogue out")
    if name in taxonomy.STRATEGIES:
        return name
    if isinstance(name, str) and name in taxonomy.STRATEGY_SYNONYMS:
        flaws.append(f"strategy spelled {name!r}")
        return taxonomy.STRATEGY_SYNONYMS[name]
    problem = f"unknown strategy {name!r}{nearest(name, taxonomy.STRATEGIES)}"
    raise fail(problem, field, f"use one of: {', '.join(taxonomy.STRATEGIES)}")


def _rating(answers: dict, key: str, where: str, fail) -> int | None:
    value = answers.get(key)
    if value in (None, ""):
        return None
    if str(value) not in {"1", "2", "3", "4", "5"}:
        raise fail(f"{value!r} is not a rating from 1 to 5", f"{where}.{key}")
    return int(value)


def _survey(scores, fail, flaws: list[str]) -> Survey:
    if not isinstance(scores, dict):
        raise fail("missing, or no object", "survey_score")
    sides = {side: scores.get(side, {}) for side in ("seeker", "supporter")}
    for side, answers in sides.items():
        if not isinstance(answers, dict):
            raise fail("expected an object", f"survey_score.{side}")
    if str(sides["supporter"].get("relevance")) == "0":
        # ESConv has four of these, off the scale of 1 to 5: taken as not answered.
        sides["supporter"] = {}
        flaws.append("supporter's relevance rating of 0")
    seeker = ("initial_emotion_intensity", "final_emotion_intensity", "empathy", "relevance")
    ratings = [_rating(sides["seeker"], key, "survey_score.seeker", fail) for key in seeker]
    return Survey(*ratings, _rating(sides["supporter"], "relevance", "survey_score.supporter", fail))
