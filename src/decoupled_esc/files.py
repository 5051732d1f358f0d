"""Files that are written atomically or grow row by row, and their digests.  What is read back is checked."""

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from decoupled_esc.errors import KnownError

T = TypeVar("T")


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


def read_as(path: Path, what: str, form: type[T], made_by: str) -> list[T]:
    """`read_rows` as ``form``, a dataclass or pydantic model.  Raises RowsError naming file, line and field."""
    adapter, found = TypeAdapter(form), []
    for number, row in enumerate(read_rows(path, what), start=1):
        try:
            found.append(adapter.validate_python(row))
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"field {'.'.join(map(str, first['loc']))}: {first['msg']}"
            remedy = f"remove the file and make it again: decoupled-esc run {made_by}"
            raise RowsError(f"{path}, line {number}, {problem}; {remedy}") from None
    return found


def write_rows(path: Path, rows: Iterable[dict]) -> None:
    """One JSON line for each of ``rows``, which ``datasets.load_dataset("json", ...)`` reads."""
    write_atomically(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _row(line: bytes) -> dict | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("id", ""), str):
        return None
    row.pop("check", None)
    return row


class Rows:
    """A JSONL file that grows by id.  Each row has a checksum over what it says, its place, and what the file is for (``key``).

    Opening it cuts it before its first row that is damaged, foreign or out of place, and says so: work goes on from there.
    """

    def __init__(self, path: Path, key: str = ""):
        self.path, self.key = path, key
        path.parent.mkdir(parents=True, exist_ok=True)
        self.by_id: dict[str, dict] = {}
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines):
            row = _row(line)
            if row is None or "id" not in row or row["id"] in self.by_id or line != self._line(row, number):
                said = f"row {number + 1} of {len(lines)} is damaged or foreign; made again"
                print(f"{path.name}: {said}", file=sys.stderr, flush=True)
                os.truncate(path, sum(map(len, lines[:number])))
                break
            self.by_id[row["id"]] = row

    def append(self, rows: Iterable[dict]) -> None:
        """Add ``rows`` whose ids are new, and make sure they are on disk."""
        new: dict[str, dict] = {}
        for row in rows:
            if row["id"] not in self.by_id:
                new.setdefault(row["id"], row)
        with open(self.path, "ab") as file:
            file.writelines(self._line(row, number) for number, row in enumerate(new.values(), start=len(self.by_id)))
            file.flush()
            os.fsync(file.fileno())
        self.by_id |= new

    def _line(self, row: dict, number: int) -> bytes:
        said = json.dumps(row, ensure_ascii=False)
        check = hashlib.sha256(f"{self.key} {number} {said}".encode()).hexdigest()[:16]
        return (json.dumps(row | {"check": check}, ensure_ascii=False) + "\n").encode()
