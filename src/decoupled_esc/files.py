"""Files that are written atomically or grow row by row, and their digests.  What is read back is checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from decoupled_esc.errors import KnownError


class RowsError(KnownError):
    """A file of rows that can't be read; the message names the file and the line."""


def digest(value) -> str:
    """sha256 (hex, 16 digits) of ``value`` as canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def read_rows(path: Path, what: str) -> list[dict]:
    """The rows of a finished JSONL file, ``what`` in words.  Raises RowsError naming file and line for anything odd."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RowsError(
            f"{path}: {what} can't be read ({error.strerror}); run the step that makes them again"
        ) from None
    rows, ids = [], set()
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None or row.get("id") in ids:
            problem = "is no row" if row is None else f"repeats the id {row['id']!r}"
            raise RowsError(
                f"{path}, line {number}: {problem} of {what}; delete the file, and run the step that makes it"
            )
        if "id" in row:
            ids.add(row["id"])
        rows.append(row)
    return rows


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("id", ""), str) else None


class Rows:
    """A JSONL file that grows by id.  Opening it cuts it before its first damaged line, so that work goes on from there."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.by_id: dict[str, dict] = {}
        whole = 0
        if path.exists():
            for line in path.read_bytes().splitlines(keepends=True):
                row = _row(line)
                if row is None or "id" not in row or row["id"] in self.by_id:
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
