"""Faults in what the rooms read: servers' answers, checkpoints, raters' files, released files, records, the book's own files."""

import errno
import json
import shutil
from collections import namedtuple

import pytest
from pydantic import BaseModel, Field

from decoupled_esc.corpus import CorpusError, Dialogue, Utterance, released
from decoupled_esc.errors import KnownError
from decoupled_esc.evaluate import human_eval
from decoupled_esc.evaluate.human_eval import HumanEvalError
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.run import Book
from decoupled_esc.files import file_digest
from decoupled_esc.generate.answers import Misshapen, chat_completion, masked, read
from decoupled_esc.generate.record import Record, RecordError
from decoupled_esc.pipeline.store import Store
from decoupled_esc.search import escpro
from decoupled_esc.train import checkpoints

DEEP = "[" * 100_000

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


@pytest.mark.parametrize("content", [b"nonsense" * 200, b"SQLite format 3\0" + bytes(500), None])
def test_a_damaged_record_is_named(tmp_path, content):
    path = tmp_path / "answers.sqlite"
    path.write_bytes(content) if content else path.mkdir()
    with pytest.raises(RecordError, match="answers.sqlite"):
        Record(path).get("0" * 64, 0, 0)


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


# --- Files of others ---

ROW = dict.fromkeys(("user_input", "strategy", "response", "Contains Empathy Error", "Error Type"), "x")
FAILED = [Dialogue("f/0", (Utterance("f/0/0", "seeker", "Hi."), Utterance("f/0/1", "supporter", "x", "Question")))]
RELEASED = {
    "an object": b"{}",
    "null": b"null",
    "truncated": json.dumps([ROW]).encode()[:-9],
    "not UTF-8": b'[{"user_input": "\xff"}]',
    "zeroed": bytes(60),
    "nested deeply": DEEP.encode(),
    "a row is null": b"[null]",
    "a field is missing": json.dumps([{"user_input": "x"}]).encode(),
    "a field is a number": json.dumps([ROW | {"strategy": 3}]).encode(),
    "a field is half an emoji": json.dumps([ROW | {"response": "\ud83d"}]).encode(),
    "words that nobody said": json.dumps([ROW | {"response": "nobody said this"}]).encode(),
    "a row twice": json.dumps([ROW, ROW]).encode(),
    "a folder": None,
}


@pytest.mark.parametrize("fault", RELEASED)
def test_odd_released_files_are_named(tmp_path, fault):
    path = tmp_path / released.FILES["failed"]
    path.mkdir() if RELEASED[fault] is None else path.write_bytes(RELEASED[fault])
    with pytest.raises(CorpusError, match=path.name) as caught:
        released.read(tmp_path, [], FAILED)
    assert "\n" not in str(caught.value)


PAIR = {
    "id": "t#1", "turn": "t", "dialogue": "d", "context": [{"role": "seeker", "text": "Hi.", "strategy": None}],
    "strategy": "Question", "reply": "Why?", "rejected_strategy": "Others", "rejected_reply": "So.",
}  # fmt: skip


@pytest.mark.parametrize(
    "rows",
    [
        [PAIR, PAIR],
        [PAIR | {"context": None}],
        [PAIR | {"reply": 3}],
        [{}],
        [{k: v for k, v in PAIR.items() if k != "turn"}],
    ],
)
def test_pairs_of_another_form_are_named_by_line(tmp_path, rows):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(KnownError, match=rf"pairs.jsonl, line {len(rows)}"):
        escpro.read(path)


ANSWERS = {
    "an object": ("json", b"{}"),
    "null": ("json", b"null"),
    "numbers": ("json", b"[1, 2]"),
    "truncated": ("json", b'[{"study": "'),
    "not UTF-8": ("json", b'["\xff"]'),
    "nested deeply": ("json", DEEP.encode()),
    "zeroed": ("json", bytes(40)),
    "values are null": ("json", b'[{"study": "x", "rater": "rater-1", "item": "1", "values": null}]'),
    "of another study": ("json", b'[{"study": "x", "rater": "rater-1", "item": "1", "values": {}}]'),
    "time below nought": ("json", b'[{"study": "x", "rater": "rater-1", "item": "1", "values": {}, "seconds": -1}]'),
    "a folder": ("json", None),
}


@pytest.mark.parametrize("fault", ANSWERS)
def test_odd_answers_of_raters_are_named(tmp_path, fault):
    dialogues = [
        Dialogue(
            f"d/{n}",
            (Utterance(f"d/{n}/0", "seeker", f"I lost {n}."), Utterance(f"d/{n}/1", "supporter", "x", "Question")),
        )
        for n in range(3)
    ]
    said = {name: {f"d/{n}/1": f"{name} says that {n} is a lot to lose" for n in range(3)} for name in "ab"}
    human_eval.export(dialogues, said, tmp_path, samples=3, raters=1, kind="pairs", seed=1)
    ending, content = ANSWERS[fault]
    path = tmp_path / "answers" / f"mine.{ending}"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(HumanEvalError, match=rf"mine.{ending}") as caught:
        human_eval.report(tmp_path, exclude=[], replicates=10, seed=1)
    assert "\n" not in str(caught.value)



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
