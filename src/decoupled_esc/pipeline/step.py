"""A step: a frozen dataclass whose fields are all that its result may depend on.

    @dataclass(frozen=True, eq=False)
    class Count(Step):
        text: Read            # another step
        smallest: int
        seed: int

        def run(self, work: Work) -> Counts: ...

Its key is a digest of class, version, fields and the keys of the steps among them: known before anything runs.  A result
holds while its key is the one that is asked for.  ``version`` is raised by hand when the meaning of the result changes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from pydantic import BaseModel

from decoupled_esc.errors import KnownError
from decoupled_esc.files import Rows, digest

if TYPE_CHECKING:
    from decoupled_esc.pipeline.store import Stores

T = TypeVar("T")


class StepError(KnownError):
    """A step that does not exist, can't run here, or asks for what is none of its fields."""


@dataclass(frozen=True)
class Missing:
    """The result of a step that can't be made here, and why."""

    reason: str


class UpstreamMissing(Exception):
    """What a step needs can't be had here, and with it the step's own result becomes `Missing`."""


def attempt(read: Callable[[], T]) -> T | Missing:
    """What ``read`` gives, or why it can't be had here: for a step that does without."""
    try:
        return read()
    except UpstreamMissing as missing:
        return Missing(str(missing))


def unkeyed(**settings):
    """A field that changes how fast or at what price a step runs, and not what comes out: left out of the key."""
    return field(kw_only=True, metadata={"unkeyed": True}, **settings)


@dataclass(frozen=True, eq=False)
class Step(ABC, Generic[T]):
    """One piece of work.  Subclasses are frozen dataclasses that define ``run`` with its return type."""

    version: ClassVar[int] = 1
    leaves: ClassVar[tuple[str, ...]] = ()
    """Files and folders in its folder that later steps read."""
    uses_model: ClassVar[bool] = False
    """Whether it runs a language model: on a GPU, where the profile needs one."""

    @abstractmethod
    def run(self, work: Work) -> T:
        """The result, a frozen dataclass; or `Missing`."""

    @cached_property
    def fields(self) -> dict:
        """What the key is made of, as plain data; a step among it by class and key."""
        kept = (part for part in fields(self) if not part.metadata.get("unkeyed"))
        return {part.name: _plain(getattr(self, part.name), f"{type(self).__name__}.{part.name}") for part in kept}

    @cached_property
    def key(self) -> str:
        """Identity of the result (hex, 16 digits)."""
        return digest({"step": type(self).__name__, "version": self.version, "fields": self.fields})

    @cached_property
    def upstream(self) -> tuple[Step, ...]:
        """The steps among its fields, each once."""
        found = {step.key: step for part in fields(self) for step in _steps(getattr(self, part.name))}
        return tuple(found.values())


def _plain(value, where: str):
    if isinstance(value, Step):
        return f"{type(value).__name__}-{value.key}"
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        kept = (part for part in fields(value) if not part.metadata.get("unkeyed"))
        return {part.name: _plain(getattr(value, part.name), f"{where}.{part.name}") for part in kept}
    if isinstance(value, Mapping):
        return {str(key): _plain(one, f"{where}.{key}") for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one, where) for one in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"{where}: a {type(value).__name__} can't be part of a key")


def _steps(value) -> Iterator[Step]:
    if isinstance(value, Step):
        yield value
        return
    inside = value if isinstance(value, tuple | list) else value.values() if isinstance(value, Mapping) else ()
    for one in [getattr(value, part.name) for part in fields(value)] if is_dataclass(value) else inside:
        yield from _steps(one)


def closure(steps: Iterable[Step], holds: Callable[[Step], bool] = lambda step: False) -> dict[str, Step]:
    """By key: ``steps`` and all that they need, each after what it needs; without those that hold, and what these alone need."""
    found: dict[str, Step] = {}
    seen: set[str] = set()

    def visit(step: Step) -> None:
        if step.key not in seen:
            seen.add(step.key)
            if not holds(step):
                for need in step.upstream:
                    visit(need)
                found[step.key] = step

    for step in steps:
        visit(step)
    return found


@dataclass
class Work:
    """What a running step is given: its folder, and the results and files of the steps among its fields."""

    step: Step
    name: str
    """For progress."""
    folder: Path
    """For checkpoints, weights and whatever else it keeps; what an interrupted run of the same key left is still in it."""
    shared: Path
    """For what outlives any step, such as paid answers."""
    stores: Stores
    tokens: int | None = None
    """Set by the step: tokens read or written, for the provenance."""

    def __getitem__(self, step: Step[T]) -> T:
        """The result of ``step``.  Where that is `Missing`, so is the result of the step that asks."""
        found = self.get(step)
        if isinstance(found, Missing):
            raise UpstreamMissing(found.reason)
        return found

    def get(self, step: Step[T]) -> T | Missing:
        """The result of ``step``, or `Missing`."""
        self._check(step)
        return self.stores.result(step)

    def path(self, step: Step, name: str) -> Path:
        """The file or folder ``name`` that ``step`` left, compared with its digest; may not exist where that is Missing."""
        self._check(step)
        return self.stores.path(step, name)

    def rows(self, name: str) -> Rows:
        """A growing file of rows in this step's folder."""
        return Rows(self.folder / f"{name}.jsonl", self.step.key)

    def _check(self, step: Step) -> None:
        if step.key not in closure(self.step.upstream):
            raise StepError(f"{self.name} asks for a {type(step).__name__}, which is not among its fields")


def difference(old, new, path: str = "") -> str:
    """The first field in which two descriptions differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                return difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    was, now = (text if len(text := json.dumps(value)) <= 60 else f"{text[:56]} ..." for value in (old, new))
    return f"{path} was {was} and is {now}"
