"""Many trees at once, each answer written down before its tree is told, so that a stopped search goes on where it was.

A tree's log holds a line for each task that was answered, in the order of telling; that order and the tree's seed
dialogue are all there is to know of it.  Where a role gives nothing usable, it is asked again; after ``ATTEMPTS`` the
tree is told that it failed, and closes the branch.  No tree waits for another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from decoupled_esc import progress
from decoupled_esc.corpus import fold
from decoupled_esc.search.tree import Failed, Quality, SearchError, SeekerTurn, Task, Tree

ATTEMPTS = 3
"""How often a role is asked for the same thing, in all."""

Role = Callable[[str, Task, int], Awaitable["str | SeekerTurn | list[float] | Quality"]]
"""(name of the tree, task, attempt) -> its answer.  Raises `RoleError` where there is nothing usable."""


class RoleError(ValueError):
    """A role refused, or answered what can't be used; one line."""


class Log(Protocol):
    """A file that grows by id: what is in it, in order, and how to add to it."""

    path: Path
    by_id: Mapping[str, dict]

    def append(self, rows: Iterable[dict]) -> None:
        """Write ``rows``; on return they are on the disk."""


def grow(trees: Mapping[str, Tree], role: Role, logs: Mapping[str, Log]) -> None:
    """Tell ``trees`` until all are finished, going on from their ``logs``.

    Raises SearchError for a log that is not its tree's; whatever else ``role`` raises stops the search, and what was
    answered until then is in the logs.
    """
    asyncio.run(growing(trees, role, logs))


async def growing(trees: Mapping[str, Tree], role: Role, logs: Mapping[str, Log]) -> None:
    """`grow`, in a running event loop."""
    for name, tree in trees.items():
        replay(name, tree, logs[name].path, logs[name].by_id.values())
    with progress.bar(sum(tree.constants.max_iterations for tree in trees.values()), "iterations of the search") as bar:

        def show() -> None:
            done = sum(tree.constants.max_iterations if tree.finished else tree.iterations for tree in trees.values())
            bar.update(done - bar.n)

        show()
        try:
            async with asyncio.TaskGroup() as group:
                for name, tree in trees.items():
                    group.create_task(_grow(name, tree, role, logs[name], show))
        except BaseExceptionGroup as found:
            raise found.exceptions[0] from None  # one server that is gone is one error, however many trees asked it


def replay(name: str, tree: Tree, path: Path, rows: Iterable[Mapping], *, whole: bool = False) -> None:
    """Tell ``tree`` the ``rows`` of its log at ``path``; ``whole``: they must finish it.

    Raises SearchError, naming file and line, for rows that are not this tree's.
    """
    remedy = "remove this file and run the search again"
    for number, row in enumerate(rows, start=1):
        try:
            tree.tell(row["id"], from_row(row))
        except (SearchError, KeyError, TypeError) as error:
            problem = f"no field {error}" if isinstance(error, KeyError) else error
            raise SearchError(f"{path}, line {number}: not of the tree of {name} ({problem}); {remedy}") from None
    if whole and not tree.finished:
        raise SearchError(f"{path}: lines are missing at its end, the tree of {name} is not finished; {remedy}")


async def _grow(name: str, tree: Tree, role: Role, log: Log, show: Callable[[], None]) -> None:
    running: dict[str, asyncio.Task] = {}
    try:
        while not tree.finished:
            for task in tree.ask():
                if task.id not in running:
                    running[task.id] = asyncio.create_task(answered(name, task, role))
            await asyncio.wait(running.values(), return_when=asyncio.FIRST_COMPLETED)
            done = {id: running.pop(id) for id in [id for id, one in running.items() if one.done()]}
            came = {id: one.result() for id, one in done.items() if not one.cancelled() and one.exception() is None}
            log.append(to_row(id, answer) for id, answer in came.items())
            for id, answer in came.items():
                tree.tell(id, answer)
            for one in done.values():
                one.result()  # what stops the search is raised once the others are written down
            show()
    finally:
        for one in running.values():
            one.cancel()
        found = await asyncio.gather(*running.values(), return_exceptions=True)
        came = zip(running, found, strict=True)
        log.append(to_row(id, answer) for id, answer in came if not isinstance(answer, BaseException))


async def answered(name: str, task: Task, role: Role) -> str | SeekerTurn | list[float] | Quality | Failed:
    """The answer to ``task``, or `Failed` with the last reason after ``ATTEMPTS``."""
    why = ""
    for attempt in range(ATTEMPTS):
        try:
            answer = await role(name, task, attempt)
        except RoleError as error:
            why = str(error)
            continue
        said = answer.text if isinstance(answer, SeekerTurn) else answer
        own = {fold(m.text).lower() for m in task.history if m.role == task.kind}
        if isinstance(said, str) and said and fold(said).lower() in own:
            why = "says again what was said before"
            continue
        return answer
    return Failed(why)


def to_row(id: str, answer: str | SeekerTurn | list[float] | Quality | Failed) -> dict:
    """An answer as a line of the log."""
    if isinstance(answer, Failed):
        return {"id": id, "failed": answer.why}
    if isinstance(answer, str):
        return {"id": id, "reply": answer}
    if isinstance(answer, SeekerTurn):
        return {"id": id, "seeker": answer.text, "ends": answer.is_terminal}
    return {"id": id, "quality" if isinstance(answer, Quality) else "scores": list(answer)}


def from_row(row: Mapping) -> str | SeekerTurn | list[float] | Quality | Failed:
    """The answer in a line of the log.  Raises KeyError or TypeError for a line of another form."""
    if "failed" in row:
        if not isinstance(row["failed"], str):
            raise TypeError("a failure has a reason")
        return Failed(row["failed"])
    if "reply" in row:
        return row["reply"]
    if "seeker" in row:
        return SeekerTurn(row["seeker"], row["ends"])
    if "quality" in row:
        return Quality(*row["quality"])
    return row["scores"]
