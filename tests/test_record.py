"""The record of answers: what identifies a request, what is on the disk, and what is no record."""

import sqlite3
import subprocess
import sys

import pytest

from decoupled_esc.generate.record import Record, RecordError, Stored, key
from tests.test_client import Two, requests, said


def test_the_key_depends_on_what_is_asked_and_on_nothing_else():
    (one,) = requests(1)
    assert key(one.body("judge")) == key(dict(reversed(one.body("judge").items())))
    others = [requests(2)[1], *requests(1, answer=Two), *requests(1, temperature=0.5)]
    assert len({key(body) for body in [one.body("judge"), one.body("other"), *(other.body("judge") for other in others)]}) == 5


def test_a_stored_answer_stays_as_it_is(tmp_path):
    record, body = Record(tmp_path / "deep" / "r.db"), requests(1)[0].body("judge")
    first = Stored(200, {"choices": ["ä"]}, 3, 4, "judge-1")
    record.put(body, 0, 0, first)
    record.put(body, 0, 0, Stored(200, {}, 9, 9, "judge-2"))
    assert record.get(key(body), 0, 0) == first and record.get(key(body), 1, 0) is record.get(key(body), 0, 1) is None
    assert record.spent("judge") == (3, 4) and record.spent("other") == (0, 0) and len(record) == 1


def test_another_file_is_no_record(tmp_path):
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 100)
    (tmp_path / "header.db").write_bytes(b"SQLite format 3\0" + bytes(500))
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)")
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version=7")
    newer.close()
    for name in ("text.db", "header.db", "other.db", "newer.db"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(RecordError, match=f"{name}: not a record.*move it away"):
            Record(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before, "it is somebody's"
    with pytest.raises(RecordError, match="unable to open.*; name a file that can be written"):
        Record(tmp_path)


def test_a_damaged_record_says_so(tmp_path):
    record, path = Record(tmp_path / "r.db"), tmp_path / "r.db"
    for request in requests(200):
        record.put(request.body("judge"), 0, 0, said("4" * 500))
    record.close()
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 8192) + content[-4096:])
    with pytest.raises(RecordError, match=r"r.db: damaged \(database disk image is malformed\); move it away"):
        Record(path).get(key(requests(1)[0].body("judge")), 0, 0)


BEGINNING = """
import sys
from pathlib import Path
from decoupled_esc.generate.record import Record
print("ready", flush=True); sys.stdin.readline()
Record(Path(sys.argv[1]))
"""


def test_several_programs_may_begin_the_same_record(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    programs = [subprocess.Popen([sys.executable, "-c", BEGINNING, tmp_path / "r.db"], **pipes) for _ in range(4)]
    for program in programs:
        program.stdout.readline()
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    assert [program.communicate(timeout=30)[1] for program in programs] == [""] * 4
    assert len(Record(tmp_path / "r.db")) == 0


def test_an_answer_is_on_the_disk_when_put_returns(tmp_path):
    record, path = Record(tmp_path / "r.db"), tmp_path / "r.db"
    assert record._execute("PRAGMA synchronous") == (2,) and record._execute("PRAGMA journal_mode") == ("wal",)
    record.put(requests(1)[0].body("judge"), 0, 0, said("4"))
    for name in ("r.db", "r.db-wal"):  # as they are on the disk at this moment
        (tmp_path / f"copy-{name}").write_bytes((tmp_path / name).read_bytes())
    assert len(Record(tmp_path / f"copy-{path.name}")) == 1
