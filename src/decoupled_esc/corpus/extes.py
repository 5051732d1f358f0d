"""The data sets of CSO in their published forms: ExTES, from which its search starts, and ESC-Pro, which comes out.

Neither can be downloaded unasked: `ExTES.json` is in a zip of pandazzh2020/ExTES, ESC-Pro is the hub data set
XingYuSSS/ESC-Pro.  The readers take a file that you have.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc import taxonomy
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.readers import fold
from decoupled_esc.corpus.types import Dialogue, Flaw, Message, Turn, Utterance

_CSO = {s.name.lower(): s.name for s in taxonomy.CSO}
_EXTES = {name.lower(): merged for name, merged in taxonomy.EXTES_TO_CSO.items()}


def read_extes(path: Path) -> tuple[list[Dialogue], list[Flaw]]:
    """ExTES with its strategies merged into CSO's eight; ids ``extes/0000`` by position.

    A dialogue with a strategy that is none of the fifteen is skipped and counted as a flaw.  Raises CorpusError naming file,
    dialogue and field for anything of another form.
    """
    found, flaws = [], []
    for number, entry in enumerate(_entries(path)):
        id, utterances, unknown = f"extes/{number:04d}", [], None
        for place, line in enumerate(_list(entry, "content", path, id)):
            if not isinstance(line, dict):
                raise CorpusError("expected an object", file=path.name, field=f"{id}, content {place}")
            said = {key.lower(): value for key, value in line.items()}
            if "user" in said:
                utterances.append(Utterance(f"{id}/{place:02d}", "seeker", _text(said, "user", path, id)))
                continue
            text, named = _text(said, "ai", path, id), str(said.get("ai strategy", ""))
            strategy = _EXTES.get(fold(named).lower())
            unknown = unknown or (None if strategy else named)
            utterances.append(Utterance(f"{id}/{place:02d}", "supporter", text, strategy))
        if unknown is not None:
            flaws.append(Flaw(path.name, id, f"unknown strategy {unknown!r}"))
            continue
        found.append(
            Dialogue(id, tuple(utterances), problem_type=str(entry.get("scene", "")), situation=str(entry.get("description", "")))
        )
    return found, flaws


@dataclass(frozen=True)
class ProTurn:
    """A preferred turn of ESC-Pro, and the (strategy, reply) of what is rejected for it."""

    turn: Turn
    rejected: tuple[tuple[str, str], ...]


def read_esc_pro(path: Path) -> list[list[ProTurn]]:
    """ESC-Pro as dialogues of preferred turns; ids ``esc-pro/0000`` by position.

    Raises CorpusError naming file, dialogue and field for anything of another form.
    """
    found = []
    for number, entry in enumerate(_entries(path)):
        id, context, turns = f"esc-pro/{number:04d}", (), []
        for place, message in enumerate(_list(entry, "messages", path, id)):
            if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
                raise CorpusError("expected a message of user or assistant", file=path.name, field=f"{id}, messages {place}")
            text = _text(message, "content", path, id)
            if message["role"] == "user":
                context += (Message("seeker", text),)
                continue
            strategy = _strategy(message, path, id)
            rejected = tuple((_strategy(other, path, id), _text(other, "content", path, id)) for other in message.get("negative", []))
            turns.append(ProTurn(Turn(f"{id}/{place:02d}", id, context, strategy, text), rejected))
            context += (Message("supporter", text, strategy),)
        found.append(turns)
    return found


def strategies_by_stage(dialogues: list[list[ProTurn]]) -> list[list[int]]:
    """Counts [6 stages, 8 strategies of CSO] of preferred turns (CSO, Figure 3)."""
    names = [s.name for s in taxonomy.CSO]
    counts = Counter(
        (taxonomy.stage(place, len(turns)), one.turn.strategy) for turns in dialogues for place, one in enumerate(turns)
    )
    return [[counts[stage, name] for name in names] for stage in range(taxonomy.STAGES)]


def _entries(path: Path) -> list[dict]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot be read: {error}", file=path.name) from None
    if not isinstance(data, list) or not all(isinstance(entry, dict) for entry in data):
        raise CorpusError("expected a list of dialogues", file=path.name)
    return data


def _list(entry: dict, key: str, path: Path, id: str) -> list:
    if not isinstance(entry.get(key), list):
        raise CorpusError("expected a list", file=path.name, field=f"{id}, {key}")
    return entry[key]


def _text(entry: dict, key: str, path: Path, id: str) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
        raise CorpusError("expected text", file=path.name, field=f"{id}, {key}")
    return fold(entry[key])


def _strategy(entry: dict, path: Path, id: str) -> str:
    named = entry.get("strategy") if isinstance(entry, dict) else None
    if not isinstance(named, str) or fold(named).lower() not in _CSO:
        raise CorpusError(f"{named!r} is none of CSO's eight strategies", file=path.name, field=f"{id}, strategy")
    return _CSO[fold(named).lower()]
