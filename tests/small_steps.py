"""Small steps that tests run: they write down when they ran, and need nothing heavy."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from turn_trees import PackingError

from decoupled_esc.errors import KnownError
from decoupled_esc.files import write_atomically
from decoupled_esc.pipeline import Missing, Step, Work, schedule, unkeyed
from decoupled_esc.pipeline.store import Store, Stores
from decoupled_esc.pipeline.workers import Local, perform


@dataclass(frozen=True)
class Number:
    value: float
    note: str = ""


@dataclass(frozen=True)
class Row:
    id: str
    value: float


@dataclass(frozen=True)
class Table:
    rows: tuple[Row, ...]
    total: float


@dataclass(frozen=True)
class Settings:
    rate: float
    pace: int = unkeyed(default=1)


def log(work: Work, what: str) -> None:
    with open(work.shared / "log.txt", "a", encoding="utf-8") as file:
        file.write(f"{work.name} {what} {time.monotonic()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\n")


def logged(folder: Path, what: str = "start") -> list[str]:
    """The names of the steps that began, or ended, in order."""
    path = folder / "log.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[0] for line in lines if line.split()[1] == what]


@dataclass(frozen=True, eq=False)
class Give(Step):
    uses_model = True

    value: float = 1.0
    settings: Settings | None = None
    start: Step | None = None
    seconds: float = unkeyed(default=0.0)

    def run(self, work: Work) -> Number | Missing:
        log(work, "start")
        child = subprocess.Popen(["sleep", "60"]) if self.seconds > 1 else None
        time.sleep(self.seconds)
        if child is not None:
            child.kill()
        log(work, "end")
        return Number(self.value) if self.value >= 0 else Missing("there are no negative numbers")


@dataclass(frozen=True, eq=False)
class Add(Step):
    parts: tuple[Step, ...] | dict[str, Step]

    def run(self, work: Work) -> Number:
        log(work, "start")
        parts = self.parts.values() if isinstance(self.parts, dict) else self.parts
        return Number(sum(work[part].value for part in parts))


@dataclass(frozen=True, eq=False)
class Odd(Step):
    """Does what a step should not do."""

    what: str
    other: Step | None = None

    def run(self, work: Work) -> Number:
        log(work, "start")
        if self.what == "known":
            raise KnownError("the file x is odd; mend it")
        if self.what == "too long":
            raise PackingError("a prompt of 9 tokens; lower max_length")
        if self.what == "asks":
            return work[Give(7.0)]
        if self.what == "reads":
            return Number(self.undeclared)
        if self.what == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "nan":
            return Number(float("nan"))
        return Number(1 / 0)


@dataclass(frozen=True, eq=False)
class Train(Step):
    """Leaves weights and pairs, and rows."""

    leaves = ("policy", "pairs.jsonl")

    text: str = "weights"

    def run(self, work: Work) -> Table:
        log(work, "start")
        (work.folder / "policy").mkdir(exist_ok=True)
        (work.folder / "policy" / "model.safetensors").write_bytes(self.text.encode() * 100)
        (work.folder / "policy" / "config.json").write_text('{"layers": 2}')
        write_atomically(work.folder / "pairs.jsonl", "".join(f'{{"id": "{n}", "margin": {n}.5}}\n' for n in range(8)))
        rows = tuple(Row(f"{self.text}/{n}", n + 0.25) for n in range(8))
        return Table(rows, sum(row.value for row in rows))


@dataclass(frozen=True, eq=False)
class Use(Step):
    """Reads all that `Train` left."""

    policy: Train

    def run(self, work: Work) -> Number:
        log(work, "start")
        weights = (work.path(self.policy, "policy") / "model.safetensors").read_bytes()
        pairs = work.path(self.policy, "pairs.jsonl").read_bytes()
        return Number(sum(row.value for row in work[self.policy].rows) + len(pairs), weights[:5].decode())


@dataclass(frozen=True, eq=False)
class Sample(Step):
    """Grows a file of rows, and falls over after ``fails_after`` of them."""

    fails_after: int = unkeyed(default=100)

    def run(self, work: Work) -> Table:
        written = work.rows("samples")
        for n in range(8):
            if n >= self.fails_after:
                raise KnownError("interrupted")
            written.append([{"id": str(n), "value": n + 0.25}])
        rows = tuple(Row(str(n), written.by_id[str(n)]["value"]) for n in range(8))
        return Table(rows, sum(row.value for row in rows))


class Here:
    """Runs each step in this process."""

    slots, cards = 1, ()

    def submit(self, step, name, stores, card) -> Future:
        future: Future = Future()
        future.set_result(perform(step, name, stores, dict))
        return future

    def stop(self) -> None:
        pass


def run(folder: Path, steps: dict[str, Step], workers=None, **more) -> int:
    """Run named ``steps`` with results in ``folder``."""
    names = {step.key: name for name, step in steps.items()}
    return schedule.run(list(steps.values()), names, Stores(Store(folder)), workers or Here(), **more)


def graph() -> dict[str, Step]:
    """Four slow steps, and one that needs them."""
    slow = {f"slow{n}": Give(float(n), seconds=1.2 if n > 1 else 0.1) for n in range(4)}
    return slow | {"sum": Add(tuple(slow.values()))}


def main(folder: str) -> None:
    """Run `graph` in processes, as the command line does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run(Path(folder), graph(), Local(2, preload=("tests.small_steps",)))
    except KeyboardInterrupt:
        sys.exit(130)
