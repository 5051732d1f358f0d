"""One scheduler: a topological walk over futures, with progress and an estimate of the time left."""

import contextlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from decoupled_esc.errors import KnownError
from decoupled_esc.files import write_atomically
from decoupled_esc.pipeline.step import Step, closure
from decoupled_esc.pipeline.store import Stores

NAMED = 6
"""How many of the steps that are left are named in a line of progress."""


class StepFailed(KnownError):
    """A step failed; the message says which and why."""


@dataclass(frozen=True)
class Outcome:
    """How a step ended: ``error`` is one line for a user, ``traceback`` that of a fault of this library."""

    seconds: float
    error: str | None = None
    traceback: str | None = None


class Workers(Protocol):
    """Where steps run: `workers.Local` or `workers.Slurm`."""

    slots: int
    """Steps at a time."""
    cards: Sequence[int]
    """GPUs, each for one step at a time (-1: all of them); empty where steps share what there is."""

    def submit(self, step: Step, name: str, stores: Stores, card: int | None):
        """A future of an `Outcome`."""

    def stop(self) -> None:
        """End what is running, children and all."""


def _needs(step: Step) -> set[str]:
    return {need.key for need in step.upstream}


@dataclass
class Progress:
    """Lines of progress.  Durations of earlier runs, by name, make the estimate of the time left."""

    names: Mapping[str, str]
    total: int
    notes: Path
    started: float = field(default_factory=time.time)
    done: int = 0
    spent: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        try:
            found = {name: float(value) for name, value in json.loads(self.notes.read_bytes()).items()}
            self.known = {name: value for name, value in found.items() if 0 <= value < math.inf}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
            self.known = {}

    def left(self, waiting: Sequence[Step], slots: int) -> str:
        """``, about 3m left``; nothing before anything is known."""
        mean = sum(self.spent.values()) / len(self.spent) if self.spent else None
        seconds = [self.known.get(self.names[step.key], mean) for step in waiting]
        if not waiting or None in seconds or (len(self.spent) < 3 and mean in seconds):
            return ""
        return f", about {span(max(max(seconds), sum(seconds) / slots))} left"

    def finished(self, step: Step, seconds: float) -> None:
        self.done += 1
        name = self.names[step.key]
        self.spent[name] = self.known[name] = round(seconds, 1)
        with contextlib.suppress(OSError):  # they are for the estimate alone
            write_atomically(self.notes, json.dumps(self.known, indent=0))

    def say(self, what: str, waiting: Sequence[Step], slots: int) -> None:
        rest = f"; left: {few([self.names[step.key] for step in waiting], NAMED)}" if waiting else ""
        clock = span(time.time() - self.started)
        print(f"[{self.done}/{self.total}, {clock}{self.left(waiting, slots)}] {what}{rest}", flush=True)


def run(
    steps: Sequence[Step], names: Mapping[str, str], stores: Stores, workers: Workers, *, needs_gpu: bool = False
) -> int:
    """Make the results of ``steps`` and of all that they need, where they don't hold; returns how many were made.

    ``names``: key -> name.  ``needs_gpu``: steps that run a model get a card each.  Where a step fails, those that run are
    awaited, nothing new is begun, and StepFailed says why.  An interrupt ends the running steps.
    """
    todo = list(closure(steps, lambda step: stores.find(step) is not None).values())
    if todo:
        print(f"{len(todo)} steps to run: {', '.join(names[step.key] for step in todo)}", flush=True)
    weight = _longest_chains(todo)
    waiting = {step.key: step for step in todo}
    progress = Progress(names, len(todo), stores.runs.folder / "durations.json")
    running: dict = {}
    cards, failures = list(workers.cards), []
    try:
        while waiting or running:
            busy = {step.key for step, *_ in running.values()}
            ready = [step for step in waiting.values() if not any(k in waiting or k in busy for k in _needs(step))]
            for step in sorted(ready, key=lambda step: -weight[step.key]) if not failures else ():
                on_card = needs_gpu and step.uses_model and workers.cards
                if len(running) >= workers.slots or (on_card and not cards):
                    continue
                card = cards.pop(0) if on_card else None
                del waiting[step.key]
                running[workers.submit(step, names[step.key], stores, card)] = (step, card)
            if not running:
                break
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                step, card = running.pop(future)
                cards += [] if card is None else [card]
                outcome = future.result()
                name = names[step.key]
                if outcome.error:
                    failures.append(f"{name}: {outcome.error}")
                    print(outcome.traceback or f"{name} failed: {outcome.error}", flush=True)
                    continue
                progress.finished(step, outcome.seconds)
                left = [*(one for one, _ in running.values()), *waiting.values()]
                progress.say(f"{name} done in {span(outcome.seconds)}", left, workers.slots)
    except BaseException:
        workers.stop()
        raise
    if failures:
        raise StepFailed("; ".join(failures))
    return len(todo)


def _longest_chains(todo: Sequence[Step]) -> dict[str, int]:
    """By key: how many steps stand one after the other behind each; those with most are begun first."""
    length = {step.key: 1 for step in todo}
    for step in reversed(todo):
        for key in _needs(step) & length.keys():
            length[key] = max(length[key], length[step.key] + 1)
    return length


def few(names: Iterable[str], most: int) -> str:
    """``a, b, c and 4 more``."""
    names = list(names)
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def span(seconds: float) -> str:
    """``1h02m``, ``3m05s`` or ``12s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours}h{rest:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
