"""Steps, their keys and results; the scheduler; processes that end with their parent."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from decoupled_esc.pipeline import Missing, Step, StepError, Work, closure, schedule, unkeyed
from decoupled_esc.pipeline.schedule import Progress, StepFailed, span
from decoupled_esc.pipeline.step import difference
from decoupled_esc.pipeline.store import Store, Stores
from decoupled_esc.pipeline.workers import Local
from tests import small_steps
from tests.small_steps import Add, Give, Number, Odd, Settings, Table, Train, Use, graph, logged, run

ROOT = Path(__file__).parents[1]
PRELOAD = ("tests.small_steps",)


# --- Keys ---


@dataclass(frozen=True, eq=False)
class Kept(Step):
    value: float
    more: dict | tuple | None = None
    price: float = unkeyed(default=0.0)

    def run(self, work: Work) -> Number:
        return Number(self.value)


@dataclass(frozen=True, eq=False)
class Other(Kept):
    pass


@dataclass(frozen=True, eq=False)
class Raised(Kept):
    version = 2


SAME = [
    (Kept(1.0), Kept(1.0, None)),  # a default is in the key as if it were said
    (Kept(1.0), Kept(1.0, price=5.0)),
    (Kept(1.0, {"a": 1, "b": 2}), Kept(1.0, {"b": 2, "a": 1})),
    (Kept(1.0, (1, 2)), Kept(1.0, [1, 2])),
    (Give(1.0, Settings(0.5)), Give(1.0, Settings(0.5, pace=9))),
    (Add((Give(1.0),)), Add((Give(1.0, seconds=3.0),))),
]
DIFFERENT = [
    (Kept(1.0), Kept(1.5)),
    (Kept(1.0), Other(1.0)),
    (Kept(1.0), Kept(1.0, {})),
    (Kept(1.0, {"a": None}), Kept(1.0, {})),
    (Kept(1.0, (1, 2)), Kept(1.0, (2, 1))),
    (Kept(1.0, ("1",)), Kept(1.0, (1,))),
    (Give(1.0, Settings(0.5)), Give(1.0, Settings(0.6))),
    (Add((Give(1.0),)), Add((Give(2.0),))),
    (Add((Add((Give(1.0),)),)), Add((Add((Give(2.0),)),))),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_key_does_not_depend_on_what_changes_no_result(one, other):
    assert one.key == other.key and re.fullmatch(r"[0-9a-f]{16}", one.key)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_a_key_depends_on_class_and_fields_and_what_is_upstream(one, other):
    assert one.key != other.key


def test_a_raised_version_is_another_key(monkeypatch):
    before = Kept(1.0).key
    monkeypatch.setattr(Kept, "version", 2)
    assert Kept(1.0).key != before


def test_a_key_is_known_before_anything_runs_and_in_every_process():
    found = subprocess.run(
        [sys.executable, "-c", "from tests.small_steps import *; print(Add((Give(1.0), Train('x'))).key)"],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == Add((Give(1.0), Train("x"))).key


@pytest.mark.parametrize("value", [Path("x"), {1, 2}, b"x", object()])
def test_what_has_no_plain_form_is_no_part_of_a_key(value):
    with pytest.raises(TypeError, match=r"Kept\.more: a \w+ can't be part of a key"):
        _ = Kept(1.0, value).key


def test_upstream_are_the_steps_among_the_fields_wherever_they_stand():
    @dataclass(frozen=True)
    class Holder:
        step: Step

    a, b = Give(1.0), Give(2.0)
    assert Add((a, a, b)).upstream == (a, b) and Add({"x": a}).upstream == (a,) and a.upstream == ()
    assert Kept(1.0, (Holder(a),)).upstream == (a,)
    top = Add((Add((a,)), b))
    assert list(closure([top])) == [a.key, top.parts[0].key, b.key, top.key]


def test_the_first_field_that_differs_is_named():
    assert difference(Give(1.0).fields, Give(2.0).fields) == "value was 1.0 and is 2.0"
    one, other = (Give(1.0, Settings(rate)).fields for rate in (0.5, 0.6))
    assert difference(one, other) == "settings.rate was 0.5 and is 0.6"


# --- What a step sees, and its result ---


def test_a_step_without_a_run_is_refused_before_anything_runs():
    @dataclass(frozen=True, eq=False)
    class Forgotten(Step):
        value: float

    with pytest.raises(TypeError, match="abstract.*run"):
        Forgotten(1.0)


def test_a_result_is_read_back_as_its_type(tmp_path):
    steps = {"train": Train(), "use": Use(Train()), "none": Give(-1.0), "sum": Add((Give(-1.0),))}
    assert run(tmp_path, steps) == 4
    store = Store(tmp_path)
    table = store.read(steps["train"])
    assert isinstance(table.result, Table) and table.result.rows[1] == small_steps.Row("weights/1", 1.25)
    assert store.read(steps["use"]).result == Number(table.result.total + 8 * 27, "weigh")
    assert sorted(table.files) == ["pairs.jsonl", "policy/config.json", "policy/model.safetensors"]
    data = json.loads(store.place(steps["train"]).read_text())
    assert (data["step"], data["version"], data["fields"], "rows" in data["result"]) == ("Train", 1, {"text": "weights"}, False)
    assert data["provenance"]["name"] == "train" and data["provenance"]["wall_seconds"] >= 0
    missing = Missing("there are no negative numbers")
    assert store.read(steps["none"]).result == store.read(steps["sum"]).result == missing  # it passes downstream


def test_a_published_store_holds_results_by_name_without_files(tmp_path):
    train, use = Train(), Use(Train())
    run(tmp_path / "runs", {"train": train, "use": use})
    published = Store(tmp_path / "results", {train.key: "train", use.key: "use"})
    for step, left_out in ((train, False), (use, False)):
        stored = Store(tmp_path / "runs").read(step)
        published.write(step, stored.result, stored.provenance, rows_left_out=left_out)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"train.json", "train.jsonl", "use.json"}
    assert published.read(train).digest == Store(tmp_path / "runs").read(train).digest
    stores = Stores(Store(tmp_path / "new"), (published,))
    holds = lambda step: stores.find(step) is not None
    assert not closure([use], holds) and list(closure([train], holds).values()) == [train], "others would need its files"
    published.write(train, published.read(train).result, {}, rows_left_out=True)
    assert not (tmp_path / "results" / "train.jsonl").exists() and published.read(train).result.rows == ()
    assert published.why_not(Use(Train("x"))) == "not here"


# --- The scheduler ---


def test_a_step_runs_after_what_it_needs_and_nothing_twice(tmp_path, capsys):
    a, b = Give(1.0), Give(2.0)
    ab = Add((a, b))
    steps = {"top": Add((ab, a)), "ab": ab, "a": a, "b": b, "alone": Give(3.0)}
    assert run(tmp_path, steps) == 5
    order = logged(tmp_path)
    assert sorted(order) == sorted(steps) and order.index("top") > order.index("ab") > max(order.index("a"), order.index("b"))
    assert order[-1] != "top" or order.index("alone") > 1, "the longest chain is begun first"
    out = capsys.readouterr().out
    assert re.search(r"^\[5/5, \d+s\] (top|alone) done in 0s$", out, re.MULTILINE)
    assert run(tmp_path, steps) == 0 and capsys.readouterr().out == "" and len(logged(tmp_path)) == 5


def test_only_what_is_asked_for_runs(tmp_path):
    a = Give(1.0)
    names = {a.key: "a", Give(2.0).key: "b"}
    assert schedule.run([a], names, Stores(Store(tmp_path)), small_steps.Here()) == 1
    assert logged(tmp_path) == ["a"]


def test_after_a_failure_nothing_new_is_begun_and_a_rerun_goes_on(tmp_path, monkeypatch):
    odd = Odd("known", Give(1.0))
    steps = {"a": Give(1.0), "odd": odd, "sum": Add((odd,)), "b": Give(2.0), "c": Give(3.0)}
    with pytest.raises(StepFailed, match=r"^odd: the file x is odd; mend it$"):
        run(tmp_path, steps)
    assert logged(tmp_path) == ["a", "odd"]
    monkeypatch.setattr(Odd, "run", lambda self, work: Number(5.0))
    monkeypatch.setitem(Odd.run.__annotations__, "return", Number)
    assert run(tmp_path, steps) == 4
    assert Store(tmp_path).read(steps["sum"]).result == Number(5.0)


class Recording(Local):
    """Knows how many ran at once, and on which cards."""

    most, used = 0, ()

    def submit(self, step, name, stores, card):
        future = super().submit(step, name, stores, card)
        self.most, self.used = max(self.most, len(self._running)), (*self.used, card)
        return future


def test_steps_run_side_by_side_in_processes_up_to_a_limit(tmp_path):
    steps = {f"s{n}": Give(float(n), seconds=0.15) for n in range(6)}
    workers = Recording(3, preload=PRELOAD)
    assert run(tmp_path, steps, workers) == 6
    assert 2 <= workers.most <= 3 and set(workers.used) == {None}
    assert Store(tmp_path).read(steps["s5"]).result == Number(5.0)


def test_each_card_has_one_step_at_a_time_and_the_step_sees_no_other(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    steps = {f"s{n}": Give(float(n), seconds=0.1) for n in range(5)} | {"sum": Add((Give(0.0),))}
    run(tmp_path, steps, Local(8, cards=(4, 6), preload=PRELOAD), needs_gpu=True)
    lines = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert {line[3] for line in lines if line[0] != "sum"} == {"4", "6"}
    assert [line[3] for line in lines if line[0] == "sum"] == ["None"]
    for card in ("4", "6"):
        what = [line[1] for line in sorted(lines, key=lambda line: float(line[2])) if line[3] == card]
        assert what == ["start", "end"] * (len(what) // 2)
    run(tmp_path, {"all": Give(9.0)}, Local(8, cards=(-1,), preload=PRELOAD), needs_gpu=True)
    assert "all start" in (tmp_path / "log.txt").read_text() and "-1" not in (tmp_path / "log.txt").read_text()


def test_a_process_that_dies_is_a_failure_that_says_so(tmp_path):
    with pytest.raises(StepFailed, match=r"^odd: its process ended without a word \((exit status 255|signal 9)\), perhaps"):
        run(tmp_path, {"odd": Odd("dies")}, Local(1, preload=PRELOAD))


@pytest.mark.parametrize("notes", [None, '{"slow0": 2.5}', "nonsense", '{"slow0": null}', "[]", '{"slow0": 1e999, "x": -4}'])
def test_the_time_left_is_told_where_it_is_known_and_not_otherwise(tmp_path, notes):
    steps = graph()
    names = {step.key: name for name, step in steps.items()}
    path = tmp_path / "durations.json"
    if notes:
        path.write_text(notes)
    progress = Progress(names, 5, path)
    assert progress.left([steps["slow0"]], 1) == (", about 2s left" if notes == '{"slow0": 2.5}' else "")
    assert progress.left(list(steps.values()), 2) == "" and progress.left([], 2) == ""
    for name in ("slow1", "slow2", "slow3"):
        progress.finished(steps[name], 60.0)
    assert progress.left([steps["slow1"], steps["slow2"]], 2) == ", about 1m00s left"  # side by side
    assert progress.left([steps["slow1"], steps["slow2"], steps["sum"]], 1) == ", about 3m00s left"  # the mean, for one unknown
    again = Progress(names, 5, path)
    assert again.left([steps["slow1"]], 1) == ", about 1m00s left" and again.left([steps["sum"]], 1) == ""


def test_durations_are_short():
    assert [span(s) for s in (0.2, 59.4, 59.6, 185, 3725)] == ["0s", "59s", "1m00s", "3m05s", "1h02m"]


# --- Interrupts, and two at once ---


def started(folder: Path, mark: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"from tests.small_steps import main; main({str(folder)!r})"], cwd=ROOT, env=os.environ | {"MARK": mark},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in what nohup or a shell's & started
    )  # fmt: skip


def until(what, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def alive(mark: str) -> list[str]:
    """Processes that were started with ``mark`` in their environment, and are not dead."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (process / "environ").read_bytes() and ") Z" not in (process / "stat").read_text():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_leaves_no_process_and_loses_nothing(tmp_path, number):
    mark = f"{number}-{time.time_ns()}"
    process = started(tmp_path, mark)
    try:
        assert until(lambda: {"slow2", "slow3"} & set(logged(tmp_path)) and len(alive(mark)) > 2, 30)
        process.send_signal(number)
        process.wait(10)
        assert until(lambda: not alive(mark), 3), alive(mark)
    finally:
        process.kill()
    assert process.returncode == (130 if number != signal.SIGKILL else -9)
    done = [name for name, step in graph().items() if Store(tmp_path).read(step)]
    assert len(done) < 4
    assert run(tmp_path, graph()) == 5 - len(done)
    assert Store(tmp_path).read(graph()["sum"]).result == Number(6.0)
    assert all(logged(tmp_path).count(name) == 1 for name in done)


def test_two_runs_at_once_never_compute_a_step_twice(tmp_path):
    both = [started(tmp_path, "both") for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert sorted(logged(tmp_path)) == ["slow0", "slow1", "slow2", "slow3", "sum"]


def test_an_unknown_result_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(StepError, match=r"^the result of Give-\w+ is gone; the same command makes it again$"):
        Stores(Store(tmp_path)).result(Give(1.0))
