"""ESC-Pro as files: preferred turns with what is rejected for them, in the forms that training takes (CSO, section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc.corpus import Message, Turn, tagged
from decoupled_esc.search.pairs import Preferred


class ProError(ValueError):
    """A file that was not written here."""


@dataclass(frozen=True)
class ProPair:
    """A preferred turn and one rejected (strategy, reply)."""

    id: str
    turn: Turn
    strategy: str
    reply: str

    @property
    def rejected(self) -> str:
        """``[Strategy] reply``."""
        return tagged(Message("supporter", self.reply, self.strategy))


def pairs(turns: Iterable[Preferred]) -> list[ProPair]:
    """A pair for each rejected sibling of each preferred turn (Eq. 6), the turns of a tree together."""
    return [
        ProPair(f"{one.turn.id}#{other.id.rpartition('.')[2]}", one.turn, other.strategy, other.reply)
        for one in turns for other in one.rejected
    ]  # fmt: skip


def write(path: Path, found: Iterable[ProPair]) -> None:
    """One JSON line a pair, with all that was said before: ``datasets.load_dataset("json", ...)`` reads it."""
    _write(path, ({"id": pair.id, **_said(pair.turn), "rejected_strategy": pair.strategy, "rejected_reply": pair.reply} for pair in found))


def read(path: Path) -> list[ProPair]:
    """The pairs of `write`.  Raises ProError naming file, line and field for anything else."""
    return [ProPair(row["id"], turn, row["rejected_strategy"], row["rejected_reply"])
            for row, turn in _read(path, ("id", "rejected_strategy", "rejected_reply"))]  # fmt: skip


def write_turns(path: Path, turns: Iterable[Turn]) -> None:
    """ESC-Pro-SFT: one JSON line a preferred turn (section 5.1)."""
    _write(path, map(_said, turns))


def read_turns(path: Path) -> list[Turn]:
    """The turns of `write_turns`.  Raises ProError as `read` does."""
    return [turn for _, turn in _read(path, ())]


def _said(turn: Turn) -> dict:
    context = [{"role": m.role, "text": m.text, "strategy": m.strategy} for m in turn.context]
    return {"turn": turn.id, "dialogue": turn.dialogue, "context": context, "strategy": turn.strategy, "reply": turn.reply}


def _write(path: Path, rows: Iterable[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _read(path: Path, more: Sequence[str]) -> Iterator[tuple[dict, Turn]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            context = tuple(Message(m["role"], m["text"], m["strategy"]) for m in row["context"])
            turn = Turn(row["turn"], row["dialogue"], context, row["strategy"], row["reply"])
            for name in more:
                row[name]
        except (ValueError, TypeError, KeyError) as error:
            problem = f"no field {error}" if isinstance(error, KeyError) else f"not a line of ESC-Pro ({error})"
            raise ProError(f"{path.name}, line {number}: {problem}; remove its folder and run again: decoupled-esc run esc-pro") from None
        yield row, turn


def turns_of(found: Sequence[ProPair]) -> list[Turn]:
    """The preferred turns of ``found``, each once."""
    return list({pair.turn.id: pair.turn for pair in found}.values())


def kto_rows(found: Sequence[ProPair]) -> list[dict]:
    """Rows for trainers that take single answers: ``context``, ``completion`` and whether it is the preferred one."""
    rows = {}
    for pair in found:
        context = [{"role": m.role, "content": tagged(m) if m.role == "supporter" else m.text} for m in pair.turn.context]
        rows[pair.turn.id] = {"context": context, "completion": tagged(Message("supporter", pair.turn.reply, pair.turn.strategy)), "label": True}
        rows[pair.id] = {"context": context, "completion": pair.rejected, "label": False}
    return list(rows.values())


def some(found: Sequence[ProPair], share: float) -> list[ProPair]:
    """The pairs of the first ``share`` of the trees that have any (Figure 4)."""
    trees = list(dict.fromkeys(pair.turn.dialogue for pair in found))
    kept = set(trees[: round(share * len(trees))])
    return [pair for pair in found if pair.turn.dialogue in kept]
