"""What was asked of a server and what it said, in one SQLite file: nothing that was answered is asked again, or lost.

A row is committed before anybody sees its answer.  Requests are known by the sha256 of their canonical JSON, which holds
the model and the messages but neither an address nor a key.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import tenacity

from decoupled_esc.errors import KnownError

VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    request TEXT NOT NULL, sample INTEGER NOT NULL, attempt INTEGER NOT NULL,
    body TEXT NOT NULL, status INTEGER NOT NULL, response TEXT NOT NULL,
    tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, model TEXT NOT NULL, date TEXT NOT NULL,
    PRIMARY KEY (request, sample, attempt)
)
"""
_ANSWER = (
    "SELECT status, response, tokens_in, tokens_out, model FROM answers WHERE request=? AND sample=? AND attempt=?"
)
_SPENT = "SELECT COALESCE(SUM(tokens_in), 0), COALESCE(SUM(tokens_out), 0) FROM answers WHERE json_extract(body, '$.model')=?"


class RecordError(KnownError, ValueError):
    """The file is not a record, or one of another version, or can't be read or written."""


_PATIENTLY = tenacity.Retrying(
    retry=tenacity.retry_if_exception_message(match="database is locked"), wait=tenacity.wait_fixed(0.05),
    stop=tenacity.stop_after_delay(60), reraise=True,
)  # fmt: skip
"""SQLite waits for other programs by itself, but not while one of them changes how the file is journalled."""


@dataclass(frozen=True)
class Stored:
    """One answer as the server gave it: ``status`` 200, or the status of a refusal that asking again would not change."""

    status: int
    response: dict
    tokens_in: int
    tokens_out: int
    model: str
    """As the server names what answered."""


def canonical(body: dict) -> str:
    """``body`` as JSON that is the same for the same content."""
    return json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def key(body: dict) -> str:
    """sha256 (hex) of a request."""
    return hashlib.sha256(canonical(body).encode()).hexdigest()


class Record:
    """The record in ``path``, made where there is none.

    Raises RecordError naming the file: for anything else, which stays as it is, and whenever reading or writing fails.
    """

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=60, check_same_thread=False, isolation_level=None)
            # Both or neither, for a run may be killed between them; and only one of two that begin the same record.
            _PATIENTLY(self._database.execute, "BEGIN IMMEDIATE")
            (version,) = self._database.execute("PRAGMA user_version").fetchone()
            tables = self._database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if version != VERSION and (version or tables):
                self._database.close()
                raise RecordError(f"{path}: not a record of version {VERSION}; move it away, and a new one is begun")
            self._database.execute(_TABLE)
            self._database.execute(f"PRAGMA user_version={VERSION}")
            self._database.execute("COMMIT")
            _PATIENTLY(self._database.execute, "PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
        except sqlite3.OperationalError as error:
            raise RecordError(f"{path}: {error}; name a file that can be written") from None
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{path}: not a record ({error}); move it away, and a new one is begun") from None

    def get(self, request: str, sample: int, attempt: int) -> Stored | None:
        """The answer to the request with this key, or None."""
        if (row := self._execute(_ANSWER, request, sample, attempt)) is None:
            return None
        try:
            return Stored(row[0], json.loads(row[1]), *row[2:])
        except (ValueError, TypeError) as error:
            raise RecordError(f"{self.path}: damaged ({error}); move it away, and a new one is begun") from None

    def put(self, body: dict, sample: int, attempt: int, stored: Stored) -> None:
        """Write an answer down; on return it is on the disk.  One that is there already is left as it is."""
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        said = json.dumps(stored.response, ensure_ascii=False)
        row = (key(body), sample, attempt, canonical(body), stored.status, said)
        taken = (stored.tokens_in, stored.tokens_out, stored.model, date)
        self._execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", *row, *taken)

    def spent(self, model: str) -> tuple[int, int]:
        """Tokens (in, out) of everything that ``model`` (as it was asked for) has answered."""
        return self._execute(_SPENT, model)

    def __len__(self) -> int:
        return self._execute("SELECT COUNT(*) FROM answers")[0]

    def _execute(self, statement: str, *values) -> tuple | None:
        try:
            return self._database.execute(statement, values).fetchone()
        except sqlite3.OperationalError as error:  # locked for long, disk full, gone
            raise RecordError(f"{self.path}: {error}; make it writable, with room on its disk, and run again") from None
        except sqlite3.DatabaseError as error:
            raise RecordError(f"{self.path}: damaged ({error}); move it away, and a new one is begun") from None

    def close(self) -> None:
        """Close the file."""
        self._database.close()
