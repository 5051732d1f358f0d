"""The result store: nothing that was finished is lost, whatever stops the writer, and nothing damaged is believed."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decoupled_esc.workflow.store import Result, Rows, Store, digest, write_atomically

SEPARATORS = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\r\nh\ti"  # str.splitlines would split at nearly all of them


def result(**changes) -> Result:
    inputs, provenance = {"settings": {}, "data": {}, "needs": {}}, {"wall_seconds": 1.0, "left": []}
    return replace(Result("one", {"n": 1}, inputs, "c0de", provenance), **changes)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, "smoke")


# --- Atomic writing ---


def test_writing_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, "old")
    write_atomically(path, "new é\u2028")
    assert path.read_text(encoding="utf-8") == "new é\u2028"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("crash", [OSError("disk full"), KeyboardInterrupt()])
def test_a_crash_while_writing_leaves_the_old_file_whole(tmp_path, monkeypatch, step, crash):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")

    def fail(*args, **kwargs):
        raise crash

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(crash)):
        write_atomically(path, "new and longer")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"], "nothing half-written stays beside it"


def test_the_new_text_is_on_disk_before_it_takes_the_old_ones_place(tmp_path, monkeypatch):
    steps, sync, replace_ = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *a: (steps.append("fsync"), sync(*a))[1])
    monkeypatch.setattr(os, "replace", lambda *a, **k: (steps.append("replace"), replace_(*a, **k))[1])
    write_atomically(tmp_path / "file.txt", "text")
    assert steps == ["fsync", "replace"]


# --- Rows ---


def test_rows_are_appended_and_found_again(tmp_path):
    path = tmp_path / "deep" / "rows.jsonl"
    rows = Rows(path)
    assert rows.by_id == {}
    rows.append([{"id": "a", "n": 1}])
    rows.append(row for row in [{"id": "b", "n": 2}])
    rows.append([])
    assert rows.by_id == Rows(path).by_id == {"a": {"id": "a", "n": 1}, "b": {"id": "b", "n": 2}}
    assert path.read_text() == '{"id": "a", "n": 1}\n{"id": "b", "n": 2}\n'


def test_an_id_is_written_once_and_the_first_row_stays(tmp_path):
    rows = Rows(tmp_path / "rows.jsonl")
    rows.append([{"id": "a", "n": 1}, {"id": "a", "n": 2}])
    rows.append([{"id": "a", "n": 3}, {"id": "b", "n": 4}])
    again = Rows(rows.path)
    assert again.by_id == rows.by_id == {"a": {"id": "a", "n": 1}, "b": {"id": "b", "n": 4}}
    assert len(rows.path.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "torn", [b'{"id": "c', b'{"id": "c"}', b"\xf0\x9f", b"{}\n", b"7\n", b"\x00\x00\x00\n", b'{"id": \n']
)
def test_a_torn_last_line_is_dropped_and_written_anew(tmp_path, torn):
    path = tmp_path / "rows.jsonl"
    Rows(path).append([{"id": "a"}, {"id": "b", "text": SEPARATORS}])
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    rows = Rows(path)
    assert list(rows.by_id) == ["a", "b"]
    assert path.read_bytes() == whole
    rows.append([{"id": "c"}])
    assert path.read_bytes() == whole + b'{"id": "c"}\n'


@pytest.mark.parametrize("keep", range(0, 60, 7))
def test_rows_cut_anywhere_keep_every_whole_line(tmp_path, keep):
    path = tmp_path / "rows.jsonl"
    everything = [{"id": str(n), "text": "é\u2028"} for n in range(3)]
    Rows(path).append(everything)
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    rows = Rows(path)
    assert len(rows.by_id) == whole[:keep].count(b"\n")
    rows.append(everything)
    assert path.read_bytes() == whole


texts = st.text(max_size=8) | st.sampled_from([SEPARATORS, "\u2028", '"\\', "{}\n", "\ufeff"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
one_row = st.fixed_dictionaries({"id": texts, "value": values})
all_rows = st.lists(one_row, max_size=6, unique_by=lambda row: row["id"])


@given(all_rows)
def test_any_rows_survive_both_kinds_of_file(rows):
    with tempfile.TemporaryDirectory() as folder:
        grown = Rows(Path(folder) / "grown.jsonl")
        grown.append(rows)
        assert list(Rows(grown.path).by_id.values()) == rows
        store = Store(Path(folder), "smoke")
        assert store.write(result(rows=tuple(rows))).rows == tuple(rows)


# --- Results ---


def test_a_result_reads_back_as_written(store):
    written = store.write(result(payload={"text": SEPARATORS, "n": [1, 2.5, None]}))
    assert written == store.read("one")
    assert written.payload == {"text": SEPARATORS, "n": [1, 2.5, None]}
    assert written.rows == () and written.rows_digest is None


def test_rows_with_line_separators_read_back(store):
    rows = ({"id": "a", "reply": SEPARATORS}, {"id": "b", "reply": "\u2028"})
    assert store.write(result(rows=rows)).rows == rows
    assert Store(store.folder.parent, "smoke").read("one").rows == rows


def test_what_was_never_written_is_missing(store):
    assert store.read("one") is None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'"text"', b"{}", b'{"stage": "one"}', b'{"rows_digest": "x"}', b"\xff\xfe"]
)
def test_a_damaged_result_counts_as_missing(store, damage):
    store.write(result())
    store.path("one").write_bytes(damage)
    assert store.read("one") is None


@pytest.mark.parametrize(
    "damage", [b"", b'{"id": "a"}\n', b'{"id": "a"}\n{"id": "', b'{"id": "a"}\n{"id": "c"}\n', b"\xff\n"]
)
def test_damaged_rows_make_the_result_count_as_missing(store, damage):
    store.write(result(rows=({"id": "a"}, {"id": "b"})))
    store.path("one").with_suffix(".jsonl").write_bytes(damage)
    assert store.read("one") is None


def test_missing_rows_make_the_result_count_as_missing(store):
    store.write(result(rows=({"id": "a"},)))
    store.path("one").with_suffix(".jsonl").unlink()
    assert store.read("one") is None


def test_rows_may_be_left_out_without_changing_what_the_result_is(store):
    whole = store.write(result(rows=({"id": "a"},)))
    left = store.write(replace(whole, rows=(), rows_left_out=True))
    assert left == store.read("one") and left.rows == () and left.digest == whole.digest
    assert not store.path("one").with_suffix(".jsonl").exists()


def test_a_crash_between_rows_and_result_is_never_a_mixture(store, monkeypatch):
    store.write(result(payload={"n": 1}, rows=({"id": "old"},)))
    replace_ = os.replace

    def fail_at_the_result(source, target, **kwargs):
        if str(target).endswith(".json"):
            raise OSError("killed here")
        replace_(source, target, **kwargs)

    monkeypatch.setattr(os, "replace", fail_at_the_result)
    with pytest.raises(OSError, match="killed here"):
        store.write(result(payload={"n": 2}, rows=({"id": "new"},)))
    monkeypatch.undo()
    assert store.read("one") is None  # rows of one and payload of the other: not believed, so computed again


def test_writing_again_keeps_what_a_person_vouched_for(store):
    vouched = ({"code": "beef", "why": "only a comment", "date": "2025-01-01"},)
    written = store.write(result(vouched=vouched, rows=({"id": "a"},)))
    assert store.write(written) == written
    assert written.vouched == vouched


# --- Identity ---


def test_identity_is_payload_and_rows_alone(store):
    one = store.write(result(rows=({"id": "a"},)))
    others = {"provenance": {"wall_seconds": 9}, "code": "other", "inputs": {}, "vouched": ({"code": "x"},)}
    for change in ({key: value} for key, value in others.items()):
        assert replace(one, **change).digest == one.digest
    assert replace(one, payload={"n": 2}).digest != one.digest
    assert store.write(result(rows=({"id": "b"},))).digest != one.digest
    assert store.write(result()).digest != one.digest


def test_identity_is_the_same_after_a_round_trip_and_whatever_the_order_of_keys(store):
    made = result(payload={"b": 1, "a": [1.0, "é"]})
    assert store.write(made).digest == made.digest == result(payload={"a": [1.0, "é"], "b": 1}).digest


@given(st.dictionaries(texts, values, max_size=4))
def test_a_digest_is_that_of_the_value_as_json(value):
    assert digest(value) == digest(json.loads(json.dumps(value))) == digest(dict(reversed(value.items())))
