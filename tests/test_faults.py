"""Faults that are put in: each is named in one line, none is used, no library answers with a traceback, and a rerun mends it.

Those in files of raters, records, released files and pairs stand in the tests of what reads them.
"""

import errno
import json
import os
import shutil
from collections import namedtuple

import pytest
from pydantic import BaseModel, Field

from decoupled_esc import files
from decoupled_esc.errors import KnownError
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.run import Book
from decoupled_esc.files import Rows, RowsError, file_digest, read_rows
from decoupled_esc.generate.answers import Misshapen, chat_completion, masked, read
from decoupled_esc.pipeline.schedule import StepFailed
from decoupled_esc.pipeline.store import Store, Stores
from decoupled_esc.train import checkpoints
from tests.plain_data import put
from tests.small_steps import Add, Give, Odd, Sample, Train, Use, logged, run

TRAIN = Train("alpha")
USE = Use(TRAIN)
STEPS = {"train": TRAIN, "use": USE}
DEEP = "[" * 100_000


@pytest.fixture
def made(tmp_path):
    """A finished run of a step that leaves files and rows, and of one that reads them; and its store."""
    run(tmp_path, STEPS | {"other": Train("omega")})
    return tmp_path


def folder(root, step=TRAIN):
    return Store(root).place(step).parent


def edit(path, place, value):
    path.write_text(json.dumps(put(json.loads(path.read_text()), place, value)))


RESULT = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "empty": lambda p: p.write_bytes(b""),
    "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "not UTF-8": lambda p: p.write_bytes(b'{"key": "\xff"}'),
    "a list": lambda p: p.write_text("[]"),
    "a number": lambda p: p.write_text("3"),
    "null": lambda p: p.write_text("null"),
    "nested deeply": lambda p: p.write_text("[" * 100_000 + "]" * 100_000),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "gone": lambda p: p.unlink(),
    "an object without keys": lambda p: p.write_text("{}"),
    "total ten times as large": lambda p: edit(p, "result.total", 20.0),
    "a field more": lambda p: edit(p, "result.more", 1),
    "total is text": lambda p: edit(p, "result.total", "2"),
    "no result": lambda p: edit(p, "result", ...),
    "result is null": lambda p: edit(p, "result", None),
    "fields are null": lambda p: edit(p, "fields", None),
    "files are null": lambda p: edit(p, "files", None),
    "files are a list": lambda p: edit(p, "files", ["policy/model.safetensors"]),
    "provenance is text": lambda p: edit(p, "provenance", "x"),
    "digest is another": lambda p: edit(p, "digest", "0" * 16),
    "digest is gone": lambda p: edit(p, "digest", ...),
    "rows are said to be others": lambda p: edit(p, "rows", "0" * 16),
    "rows are said to be none": lambda p: edit(p, "rows", None),
    "rows are said to be left out": lambda p: edit(p, "rows_left_out", True),
    "said to be Missing": lambda p: edit(p, "missing", True),
    "key of another step": lambda p: edit(p, "key", "f" * 16),
    "key is null": lambda p: edit(p, "key", None),
}

ROWS = {
    "half of them": lambda p: p.write_bytes(b"".join(p.read_bytes().splitlines(keepends=True)[:4])),
    "torn in the last": lambda p: p.write_bytes(p.read_bytes()[:-5]),
    "one twice": lambda p: p.write_bytes(p.read_bytes() + p.read_bytes().splitlines(keepends=True)[0]),
    "two exchanged": lambda p: p.write_bytes(b"".join(reversed(p.read_bytes().splitlines(keepends=True)))),
    "a float ten times as large": lambda p: p.write_text(p.read_text().replace("3.25", "32.5")),
    "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "not UTF-8": lambda p: p.write_bytes(p.read_bytes().replace(b"alpha", b"\xff\xfe", 1)),
    "another step's": lambda p: p.write_text(p.read_text().replace("alpha", "omega")),
}

LEFT = {
    "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "one byte more": lambda p: p.write_bytes(p.read_bytes() + b"\n"),
    "one bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "empty": lambda p: p.write_bytes(b""),
    "gone": lambda p: p.unlink(),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
    "another step's": lambda p: p.write_bytes(p.read_bytes().replace(b"alpha", b"omega") + b" "),
}


def heals(root, capfd, name: str) -> None:
    """A rerun names ``name``, makes again what is damaged, and ends with the results of before."""
    before = len(logged(root))
    run(root, STEPS)
    assert capfd.readouterr().err.count(name) == 1, "the damage is not named, or not once"
    assert len(logged(root)) > before, "the damage was used"
    fresh = Stores(Store(root))
    assert fresh.result(TRAIN).total == 30.0 and fresh.result(USE).note == "alpha"


@pytest.mark.parametrize("fault", RESULT)
def test_a_damaged_result_is_made_again(made, capfd, fault):
    path = folder(made) / "result.json"
    RESULT[fault](path)
    shutil.rmtree(folder(made, USE))  # so that the damaged one is needed
    if fault == "gone":  # nothing is there to name
        before = len(logged(made))
        run(made, STEPS)
        assert len(logged(made)) > before and Stores(Store(made)).result(TRAIN).total == 30.0
    else:
        heals(made, capfd, "result.json")


@pytest.mark.parametrize("fault", ROWS)
def test_damaged_rows_are_made_again(made, capfd, fault):
    ROWS[fault](folder(made) / "result.jsonl")
    shutil.rmtree(folder(made, USE))
    heals(made, capfd, "result.jsonl")


@pytest.mark.parametrize("name", ["policy/model.safetensors", "policy/config.json", "pairs.jsonl"])
@pytest.mark.parametrize("fault", LEFT)
def test_damaged_weights_and_side_files_are_made_again(made, capfd, name, fault):
    LEFT[fault](folder(made) / name)
    shutil.rmtree(folder(made, USE))
    heals(made, capfd, name)


def test_a_file_beside_the_weights_that_nobody_left_is_no_part_of_them(made, capfd):
    (folder(made) / "policy" / "adapter_config.json").write_text("{}")
    shutil.rmtree(folder(made, USE))
    heals(made, capfd, "adapter_config.json")


def test_the_whole_folder_of_another_step_is_not_taken(made, capfd):
    shutil.rmtree(folder(made))
    shutil.copytree(folder(made, Train("omega")), folder(made))
    shutil.rmtree(folder(made, USE))
    heals(made, capfd, "result.json")


@pytest.mark.parametrize("damage", ["policy/model.safetensors", "pairs.jsonl", "result.jsonl", "result.json"])
def test_what_is_damaged_between_two_steps_is_refused_by_the_second(made, damage):
    """Not found when the run was planned: the step that reads it finds it."""
    (folder(made) / damage).write_bytes(b"{}")
    found = Stores(Store(made))
    with pytest.raises(KnownError, match="result|policy|pairs"):
        found.path(TRAIN, "policy")
        found.path(TRAIN, "pairs.jsonl")
        found.result(TRAIN)


def test_a_time_in_the_future_blocks_nothing(made):
    for path in folder(made).rglob("*"):
        os.utime(path, (4e9, 4e9))
    assert run(made, STEPS) == 0
    shutil.rmtree(folder(made, USE))
    assert run(made, STEPS) == 1


@pytest.mark.parametrize(
    "notes", [b"", b"[]", b'{"train": "x"}', b'{"train": NaN}', b"\xff", b'{"train": -5, "use": 1e400}']
)
def test_damaged_durations_cost_the_estimate_alone(made, notes):
    (made / "durations.json").write_bytes(notes)
    shutil.rmtree(folder(made, USE))
    assert run(made, STEPS) == 1


# --- Files that grow ---

WHOLE = [{"id": str(n), "value": n + 0.25} for n in range(3)]


GROWN = {
    "torn": (lambda lines: [*lines, b'{"id": "3", "val'], 3),
    "its end of line lost": (lambda lines: [*lines[:2], lines[2][:-1]], 2),  # more may have been meant
    "zeroed": (lambda lines: [lines[0], bytes(len(lines[1]) - 1) + b"\n", lines[2]], 1),
    "a row that nobody wrote": (lambda lines: [*lines, b'{"id": "3", "value": 3.25}\n'], 3),
    "without an id": (lambda lines: [*lines, b'{"value": 3}\n', *lines], 3),
    "an id that is a number": (lambda lines: [*lines, b'{"id": 4}\n'], 3),
    "a list": (lambda lines: [*lines, b"[]\n"], 3),
    "not UTF-8": (lambda lines: [*lines, b"\xff\xff\n"], 3),
    "a float ten times as large": (lambda lines: [lines[0], lines[1].replace(b"1.25", b"12.5"), lines[2]], 1),
    "a field more": (lambda lines: [lines[0].replace(b"{", b'{"more": 1, ', 1), *lines[1:]], 0),
    "a row twice": (lambda lines: [*lines[:2], lines[1], lines[2]], 2),
    "two rows exchanged": (lambda lines: [lines[0], lines[2], lines[1]], 1),
    "a row lost": (lambda lines: [lines[0], lines[2]], 1),
}


@pytest.mark.parametrize("damage", GROWN)
def test_a_growing_file_is_cut_before_its_damage_which_is_named(tmp_path, capsys, damage):
    path, (injure, left) = tmp_path / "samples.jsonl", GROWN[damage]
    Rows(path, "a key").append(WHOLE)
    assert Rows(path, "a key").by_id == {row["id"]: row for row in WHOLE} and capsys.readouterr().err == ""
    path.write_bytes(b"".join(injure(path.read_bytes().splitlines(keepends=True))))
    opened = Rows(path, "a key")
    assert list(opened.by_id.values()) == WHOLE[:left]
    assert f"samples.jsonl: row {left + 1} of " in capsys.readouterr().err
    opened.append([*WHOLE, {"id": "9", "value": "a\u2028b"}])
    assert read_rows(path, "samples") == [*Rows(path, "a key").by_id.values()] == [*WHOLE, {"id": "9", "value": "a\u2028b"}]


def test_rows_of_another_key_are_not_used(tmp_path):
    Rows(tmp_path / "samples.jsonl", "a key").append(WHOLE)
    assert Rows(tmp_path / "samples.jsonl", "another").by_id == {}


@pytest.mark.parametrize(
    "damage", [b'{"id": "3', b"\x00\n", b'{"id": "1"}\n', b"[]\n", b'{"id": []}\n', b"[" * 50_000 + b"\n"]
)
def test_a_finished_file_with_damage_is_refused_by_line(tmp_path, damage):
    path = tmp_path / "pairs.jsonl"
    Rows(path).append(WHOLE)
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(RowsError, match=r"pairs.jsonl, line 4: .*pairs"):
        read_rows(path, "pairs")


@pytest.mark.parametrize("kind", ["gone", "a folder"])
def test_no_file_at_all_is_one_line(tmp_path, kind):
    path = tmp_path / "pairs.jsonl"
    if kind == "a folder":
        path.mkdir()
    with pytest.raises(RowsError, match="run the step that makes them again"):
        read_rows(path, "pairs")


def test_an_interrupted_step_goes_on_from_its_rows(tmp_path):
    with pytest.raises(StepFailed, match="sample: interrupted"):
        run(tmp_path, {"sample": Sample(fails_after=5)})
    path = folder(tmp_path, Sample()) / "samples.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"id": "5", "va')
    run(tmp_path, {"sample": Sample()})
    assert path.read_bytes().startswith(before) and path.read_bytes().count(b"\n") == 8
    assert Stores(Store(tmp_path)).result(Sample()).total == 30.0


# --- Disks and steps that fail ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_refuses_is_named_and_what_was_finished_is_kept(tmp_path, monkeypatch, number):
    run(tmp_path, {"give": Give(2.0)})
    replace = os.replace

    def refuse(self, target):
        raise OSError(number, os.strerror(number), str(target))

    monkeypatch.setattr(files.Path, "replace", refuse)
    with pytest.raises(StepFailed, match=f"sum: .*{os.strerror(number)}; what was finished is kept"):
        run(tmp_path, {"sum": Add((Give(2.0),))})
    monkeypatch.undo()
    assert os.replace is replace and run(tmp_path, {"sum": Add((Give(2.0),))}) == 1
    assert logged(tmp_path).count("give") == 1


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("known", "odd: the file x is odd; mend it"),
        ("too long", "odd: a prompt of 9 tokens; lower max_length"),
        ("asks", "odd asks for a Give, which is not among its fields"),
        ("reads", "odd: AttributeError: 'Odd' object has no attribute 'undeclared'"),
        ("nan", "odd: Odd gave what can't be stored: "),
        ("divides", "odd: ZeroDivisionError: division by zero"),
    ],
)
def test_a_step_that_fails_names_itself_and_stores_nothing(tmp_path, capsys, what, said):
    with pytest.raises(StepFailed, match="odd: ") as caught:
        run(tmp_path, {"odd": Odd(what)})
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert ("Traceback" in capsys.readouterr().out) == (what in ("reads", "divides"))  # for faults of ours alone
    assert not (folder(tmp_path, Odd(what)) / "result.json").exists()


# --- What a chat server sends ---


class Score(BaseModel):
    score: int = Field(ge=0, le=5)


def answer(content='{"score": 3}', choice=None, **more) -> str:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"} | (choice or {})]} | more)


READ = {
    "a reason that is an object": answer(choice={"finish_reason": {}}),
    "a reason that is a list": answer(choice={"finish_reason": [1]}),
    "a reason that is missing": answer(choice={"finish_reason": None}),
    "more tokens than there are": answer(usage={"prompt_tokens": 10**30, "completion_tokens": 1}),
    "tokens as text": answer(usage={"prompt_tokens": "9", "completion_tokens": None}),
    "tokens below nought": answer(usage={"prompt_tokens": -1, "completion_tokens": True}),
    "tokens not a number": answer(usage={"prompt_tokens": float("nan"), "completion_tokens": 1e400}),
    "usage is a list": answer(usage=[]),
    "the model's name is an object": answer(model={"name": "x"}),
    "half an emoji": answer('{"score": 3} \ud83d'),
}
UNREAD = {
    "content is null": answer(None),
    "content is a list": answer([{"text": "3"}]),
    "cut at the limit": answer('{"score": ', {"finish_reason": "length"}),
    "out of bounds": answer('{"score": 99}'),
    "two that differ": answer('{"score": 3} {"score": 4}'),
    "nested deeply": answer('{"a":' * 50_000),
    "refused": answer("", {"message": {"content": None, "refusal": "I can't"}}),
}
MISSHAPEN = {
    "not JSON": "<html>",
    "empty": "",
    "a list": "[]",
    "choices are null": '{"choices": null}',
    "no choice": '{"choices": []}',
    "choices are an object": '{"choices": {"0": {}}}',
    "message is text": '{"choices": [{"message": "3"}]}',
    "nested deeply": DEEP,
}


@pytest.mark.parametrize("fault", [*READ, *UNREAD])
def test_an_odd_answer_is_counted_and_read_or_left_out(fault):
    stored = chat_completion((READ | UNREAD)[fault], "judge", (50, 10))
    assert 0 <= stored.tokens_in <= 50 and 0 <= stored.tokens_out <= 10
    parsed, why, _ = read(stored, Score)
    assert (parsed == Score(score=3), why is None) == ((fault in READ),) * 2
    json.dumps(stored.response, ensure_ascii=False).encode()  # it can be written down


@pytest.mark.parametrize("fault", MISSHAPEN)
def test_what_is_no_answer_is_a_fault_of_the_way(fault):
    with pytest.raises(Misshapen):
        chat_completion(MISSHAPEN[fault], "judge", (50, 10))


@pytest.mark.parametrize("echo", ["Incorrect key: {}", "Incorrect key: {:.12}...", "...{0}{0}"])
def test_no_part_of_a_key_is_shown(echo):
    secret = "sk-abcdefghijklmnopqrstuvwxyz"
    shown = masked(echo.format(secret), secret)
    assert "***" in shown and not any(secret[i : i + 6] in shown for i in range(len(secret) - 5))
    assert masked("a short key: none", "none") == "a short key: none"
    assert masked("abcdefgh or bcdefg, not abcde", "abcdefgh") == "*** or ***, not abcde"


# --- Checkpoints ---

DIGESTS = checkpoints.DIGESTS
CHECKPOINTS = {
    "weights zeroed": lambda c: (c / "model.safetensors").write_bytes(bytes(50)),
    "weights truncated": lambda c: (c / "model.safetensors").write_bytes(b"weig"),
    "weights of another step": lambda c: (c / "model.safetensors").write_bytes(b"weights of 1"),
    "a file gone": lambda c: (c / "optimizer.pt").unlink(),
    "a file more": lambda c: (c / "adapter_model.safetensors").write_bytes(b""),
    "digests gone": lambda c: (c / DIGESTS).unlink(),
    "digests truncated": lambda c: (c / DIGESTS).write_text('{"training": "own", "fi'),
    "digests a list": lambda c: (c / DIGESTS).write_text("[]"),
    "digests of no files": lambda c: (c / DIGESTS).write_text('{"training": "own", "files": null}'),
    "digests not UTF-8": lambda c: (c / DIGESTS).write_bytes(b"\xff\xff"),
    "digests nested deeply": lambda c: (c / DIGESTS).write_text(DEEP),
    "digests a folder": lambda c: ((c / DIGESTS).unlink(), (c / DIGESTS).mkdir()),
    "of another training": lambda c: (c / DIGESTS).write_text((c / DIGESTS).read_text().replace("own", "other")),
}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, fault):
    for number in (1, 2):
        own = tmp_path / f"checkpoint-{number}"
        own.mkdir()
        for name in ("model.safetensors", "optimizer.pt"):
            (own / name).write_bytes(f"weights of {number}".encode())
        written = {path.name: file_digest(path) for path in own.iterdir()}
        (own / DIGESTS).write_text(json.dumps({"training": "own", "files": written}))
    assert checkpoints.last_checkpoint(tmp_path, "own") == str(tmp_path / "checkpoint-2")
    CHECKPOINTS[fault](tmp_path / "checkpoint-2")
    assert checkpoints.last_checkpoint(tmp_path, "own") == str(tmp_path / "checkpoint-1")
    assert "checkpoint-2" in capsys.readouterr().err and not (tmp_path / "checkpoint-2").exists()
    CHECKPOINTS[fault](tmp_path / "checkpoint-1")
    if fault != "weights of another step":  # which are its own
        assert checkpoints.last_checkpoint(tmp_path, "own") is None


@pytest.mark.parametrize(
    ("said", "free", "full"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", 10**9, True),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", 0, True),
        ("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0", 10**9, False),
        ("shapes do not match", 0, False),
    ],
)
def test_what_libraries_make_of_a_full_disk_is_one_error(tmp_path, monkeypatch, said, free, full):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))
    with pytest.raises(OSError if full else RuntimeError) as caught, checkpoints.no_space_is_said(tmp_path):
        raise RuntimeError(said)
    assert not full or (caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path))


# --- What is published ---


@pytest.mark.parametrize("content", [b"{}", b"\xff", b"", bytes(99), DEEP.encode(), None])
def test_a_damaged_published_result_is_named_and_made_again(tmp_path, capfd, monkeypatch, content):
    steps = table.steps(load_profile("smoke"), inputs.as_published())
    published = Store(tmp_path / "results" / "smoke", table.names(steps))
    path = published.place(steps["data"])
    path.mkdir(parents=True) if content is None else (path.parent.mkdir(parents=True), path.write_bytes(content))
    book = Book("smoke", runs=tmp_path / "runs", published=tmp_path / "results")
    book.steps = steps
    assert book.stored("data") is None and f"{path}" in capfd.readouterr().err
    assert "data.json" in published.why_not(steps["data"])
    mine = book.runs.place(steps["data"])
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"{}")
    assert book.stored("data") is None and capfd.readouterr().err.count(f"{mine}") == 1
