"""The result store: what a stage left behind, and whether it still holds.

One stage's result is ``<folder>/<profile>/<stage>.json`` (and ``.jsonl`` where it has rows).  Two folders exist:
``runs/`` is where stages write, ``results/`` what was published with the book.  Writing is atomic, rows are appended by
id, so a killed run loses nothing that was finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
RUNS, PUBLISHED = ROOT / "runs", ROOT / "results"


@dataclass(frozen=True)
class Result:
    """What a stage computed, what it was computed from, and how."""

    stage: str
    payload: dict
    """The result itself: numbers, names, ids.  No timings."""
    inputs: dict
    """Profile settings, seed, data digest and upstream result digests that it was computed from."""
    code: str
    """Digest of the code that computed it."""
    provenance: dict
    """When, where, with which versions, how long.  Never part of the result's identity."""
    vouched: tuple[dict, ...] = ()
    """Later code digests accepted by a person, each with the reason: ``{"code": ..., "why": ...}``."""
    remade: tuple[dict, ...] = ()
    """The same work done again on another machine, whose last bits differ: ``{"digest": ..., "date": ..., "hardware": ...}``.
    Results made from those copies hold as well."""
    rows_digest: str | None = None
    rows_left_out: bool = False
    """It was published without its rows, which no chapter shows; they are still part of its identity."""
    rows: tuple[dict, ...] = field(default=(), repr=False)

    @property
    def digest(self) -> str:
        """Identity of what was computed (hex): payload and rows."""
        return digest({"payload": self.payload, "rows": self.rows_digest})

    @property
    def digests(self) -> set[str]:
        """Its identity, and those of its copies from other machines."""
        return {self.digest, *(copy["digest"] for copy in self.remade)}


def digest(value) -> str:
    """sha256 (hex, 16 digits) of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a crash at any moment, finds the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Rows:
    """A JSONL file that grows by id.  Opening it drops a torn last line, so an interrupted run appends where it was."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.by_id: dict[str, dict] = {}
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                try:
                    row = json.loads(line) if line.endswith(b"\n") else {}
                except ValueError:
                    row = {}
                if not isinstance(row, dict) or "id" not in row:
                    break
                self.by_id[row["id"]] = row
                whole += len(line)
            with open(path, "r+b") as file:
                file.truncate(whole)

    def append(self, rows: Iterable[dict]) -> None:
        """Add ``rows`` whose ids are new, and make sure they are on disk."""
        new: dict[str, dict] = {}
        for row in rows:
            if row["id"] not in self.by_id:
                new.setdefault(row["id"], row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in new.values())
            file.flush()
            os.fsync(file.fileno())
        self.by_id |= new


class Store:
    """The results of one profile in one folder."""

    def __init__(self, folder: Path, profile: str):
        self.folder = folder / profile

    def path(self, stage: str) -> Path:
        return self.folder / f"{stage}.json"

    def read(self, stage: str) -> Result | None:
        """The stored result of ``stage``, or None.  An unreadable one counts as none."""
        try:
            data = json.loads(self.path(stage).read_text(encoding="utf-8"))
            for name in ("vouched", "remade"):
                data[name] = tuple(data.get(name, ()))
            if data["rows_digest"] is not None and not data.get("rows_left_out"):
                written = self.path(stage).with_suffix(".jsonl").read_bytes()
                if hashlib.sha256(written).hexdigest()[:16] != data["rows_digest"]:
                    return None
                # Not str.splitlines: it would also split at U+2028 and its like, which JSON leaves as they are.
                data["rows"] = tuple(json.loads(line) for line in written.splitlines())
            return Result(**data)
        except (FileNotFoundError, ValueError, AttributeError, KeyError, TypeError):
            return None

    def write(self, result: Result) -> Result:
        """Store ``result``; rows first, so that a result never names rows that are not there."""
        data = asdict(result)
        rows = data.pop("rows")
        if result.rows_left_out:
            self.path(result.stage).with_suffix(".jsonl").unlink(missing_ok=True)
        elif rows:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            data["rows_digest"] = hashlib.sha256(text.encode()).hexdigest()[:16]
            write_atomically(self.path(result.stage).with_suffix(".jsonl"), text)
        write_atomically(self.path(result.stage), json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        return self.read(result.stage)
