"""Chapters: notebooks whose source is a py:percent script, executed with papermill and stamped with what they show."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import warnings
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path

from decoupled_esc.workflow.profiles import ProfileError, nearest
from decoupled_esc.workflow.session import Session
from decoupled_esc.workflow.store import PUBLISHED, ROOT, Store, write_atomically

NOTEBOOKS = ROOT / "notebooks"


class ChapterError(RuntimeError):
    """A chapter failed while it was executed; the message names the cell and the error."""


def sources() -> list[Path]:
    """The chapters' sources, in the order in which they are read."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.py"))


def stages_read(source: Path) -> list[str]:
    """The stages that a chapter asks for: every ``….result("name")`` in its source, in order."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "result"
        and node.args and isinstance(node.args[0], ast.Constant)
    ]  # fmt: skip
    calls.sort(key=lambda call: (call.lineno, call.col_offset))  # the walk goes level by level
    return list(dict.fromkeys(call.args[0].value for call in calls))


def parameters(source: Path) -> dict:
    """The parameters of a chapter and their defaults: the assignments of its cell tagged ``parameters``."""
    import jupytext

    for cell in jupytext.read(source).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return {name: ast.literal_eval(value) for name, value in _assigned(cell.source).items()}
    return {}


def _assigned(code: str) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def open_chapter(namespace: MutableMapping) -> Session:
    """The session of a chapter, from its parameters.  Called with ``globals()`` in the cell after them.

    Raises ProfileError for a parameter that the chapter does not have, naming the nearest: papermill itself would set
    it and go on.
    """
    # Said by libraries that would draw progress bars in a notebook; it names a path of this machine.
    warnings.filterwarnings("ignore", message="IProgress not found")
    known = ["profile"]
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):  # how papermill opens the cell that it injects
            for name in _assigned(cell):
                if name not in known:
                    raise ProfileError(f"unknown parameter {name!r}{nearest(name, known)}. Parameters: {', '.join(known)}")
    return Session(namespace["profile"])


def execute(source: Path, target: Path, profile: str | None = None) -> Path:
    """Execute the chapter ``source`` into the notebook ``target``, cleaned and stamped.

    ``profile`` None keeps the chapter's own.  A parameters cell is injected only where a value differs from the default,
    so that a published notebook has the cells of its source and no other.  Raises ChapterError naming the failed cell.
    """
    import jupytext
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    default = parameters(source)["profile"]
    profile = profile or default
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"  # jupytext draws ids anew at each reading
    notebook.metadata = nbformat.from_dict({
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    })
    target.parent.mkdir(parents=True, exist_ok=True)
    # Hidden, so that what a killed run leaves is never taken for a chapter.
    fresh, done = (target.with_name(f".{target.stem}.{what}.ipynb") for what in ("source", "running"))
    try:
        write_atomically(fresh, nbformat.writes(notebook) + "\n")
        papermill.execute_notebook(
            str(fresh), str(done), {"profile": profile} if profile != default else {},
            kernel_name="python3", progress_bar=False, cwd=str(ROOT),
            extra_arguments=["--IPKernelApp.log_level=50"],  # it would warn of its local port at every start
        )  # fmt: skip
    except PapermillExecutionError as error:
        cell, what = (" ".join(str(text).split()) for text in (error.source, error.evalue))
        raise ChapterError(f"{source.name}, cell {error.exec_count} ({cell[:80]} ...): {error.ename}: {what}") from None
    except DeadKernelError:
        raise ChapterError(f"{source.name}: its kernel died, perhaps for want of memory") from None
    else:
        executed = nbformat.read(done, as_version=4)
    finally:
        fresh.unlink(missing_ok=True)
        done.unlink(missing_ok=True)
    _clean(executed)
    executed.metadata["decoupled_esc"] = _stamp(source, profile)
    write_atomically(target, nbformat.writes(executed) + "\n")
    return target


def _clean(notebook) -> None:
    """Take out what changes from run to run or names this machine."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.get("language_info", {}).pop("version", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = "injected-parameters"  # papermill draws it anew
            cell.metadata["tags"] = ["injected-parameters", "hide-input"]
            cell.source = cell.source.strip()


def _stamp(source: Path, profile: str) -> dict:
    session = Session(profile)
    shown = {name: session.result(name).digest for name in stages_read(source)}
    return {"source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(), "profile": profile, "results": shown}


ROWS_SHOWN = {
    "judged",
    *(f"replies-vanilla-{name}" for name in ("base", "sft", "sft-argmax", "dpo")),
    *(f"replies-decoupled-{name}" for name in ("base", "sft", "sft-argmax", "dpo")),
    "search", "tallies", "tallies-cso", "tallies-cso-lora", "strategy-test",
}
"""Stages whose rows are published: a chapter shows some of them, or other seeds are added to them on another machine.  All
others would only fill the repository."""


def publish(profile: str) -> list[str]:
    """Copy the results of ``profile`` to ``results/`` and execute every chapter from them; returns what was written.

    After a whole run all are replaced.  After a part of one, what was published and still holds stays as it is, and where
    the same work was done again, it is noted that the new results beside it were made from that copy.
    Rows are left out where no chapter shows them (``ROWS_SHOWN``), and of other seeds where nothing is read over seeds;
    whoever runs the stage has them under ``runs/``.
    Raises ChapterError where a result is missing, stale, or made from other data than the project publishes.
    """
    from decoupled_esc import corpus
    from decoupled_esc.corpus import fetch
    from decoupled_esc.workflow import stages

    own = Session(profile)
    whole, added = own.whole(), {name for stage in stages.STAGES.values() for name in stage.over_seeds}
    published = corpus.manifest_digests()
    fresh, known = {}, {}
    for session, name in whole:
        called, state = _called(session, name), session.state(name, session.runs, known)
        if state.word == "fresh":
            fresh[called] = session.runs.read(name)
        elif session.state(name, session.published, known).word != "fresh":
            raise ChapterError(f"{called} is {state.word} ({state.why}); run it first: decoupled-esc run --profile {profile}")
    for called, result in fresh.items():
        for data, used in result.inputs["data"].items():
            if used != (published[data] if data in published else fetch.identity(data)):
                raise ChapterError(f"{called} was not made from the published files of {data} and can't be published")
    written = []
    for session, name in whole:
        called, old = _called(session, name), session.published.read(name)
        if called not in fresh:
            continue
        result = fresh[called]
        stays = len(fresh) < len(whole) and session.state(name, session.published, known).word == "fresh"
        if stays and result.digest in old.digests:
            continue
        if stays:
            copy = {"digest": result.digest, **{key: result.provenance[key] for key in ("date", "hardware", "commit")}}
            result = replace(old, remade=(*old.remade, copy))
        elif result.rows and name not in (ROWS_SHOWN if session is own else added):
            result = replace(result, rows=(), rows_left_out=True)
        session.published.write(result)
        written.append(called)
    known = {}
    if lost := [_called(*one) for one in whole if one[0].state(one[1], one[0].published, known).word != "fresh"]:
        raise ChapterError(f"these do not fit what was published now: {', '.join(lost)}; run them too: decoupled-esc run --profile {profile}")
    return written + publish_notebooks()


def _called(session: Session, name: str) -> str:
    """A stage as a run calls it: under another seed than the profile's own with that seed after an @."""
    _, at, seed = session.profile.name.partition("@")
    return name + at + seed


def publish_notebooks() -> list[str]:
    """Execute every chapter from the published results into ``notebooks/``; returns their names."""
    os.environ.pop("DECOUPLED_ESC_RUNS_ONLY", None)
    return [execute(source, source.with_suffix(".ipynb")).name for source in sources()]


def check_stamps(folder: Path = NOTEBOOKS) -> list[str]:
    """Problems, a sentence each: notebooks that show results which are not, or no longer, the published ones."""
    problems = []
    for source in sources():
        path = folder / source.with_suffix(".ipynb").name
        if not path.exists():
            problems.append(f"{path.name} does not exist; run: make publish")
            continue
        stamp = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("decoupled_esc", {})
        session = Session(stamp.get("profile", "smoke"))
        if sorted(stamp.get("results", {})) != sorted(stages_read(source)):
            problems.append(f"{path.name} was executed from other stages than its source reads; run: make publish")
        for name, shown in stamp.get("results", {}).items():
            stored = Store(PUBLISHED, session.profile.name).read(name)
            state = session.state(name, session.published)
            if stored is None or stored.digest != shown:
                problems.append(f"{path.name} shows another result of {name} than the published one")
            elif state.word != "fresh":
                problems.append(f"{path.name} shows {name}, which is {state.word}: {state.why}")
    return problems
