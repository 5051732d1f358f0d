"""Chapters: notebooks whose source is a py:percent script, executed with papermill and stamped with what they show."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import jupytext
import nbformat
import papermill
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from decoupled_esc.errors import KnownError
from decoupled_esc.files import file_digest, write_atomically
from decoupled_esc.publish.site import CHAPTERS, ROOT, machine_paths

NOTEBOOKS = ROOT / "notebooks"
FOLDED = {"hide-input", "hide-cell", "remove-cell"}
TEACHING_LINES = 15


class ChapterError(KnownError, RuntimeError):
    """A chapter failed while it was executed; the message names the cell and the error."""


def sources(folder: Path = NOTEBOOKS) -> list[Path]:
    """The chapters' sources, in the order in which they are read."""
    return sorted(folder.glob("[0-9][0-9]_*.py"))


def steps_read(source: Path) -> list[str]:
    """The steps whose results a chapter reads: every `book["name"]` in its source, each once, in order.

    Those that it reads under several backbones, `book.everywhere("name")`, are among them.
    """
    found = []
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        match node:
            case ast.Subscript(value=ast.Name(id="book"), slice=ast.Constant(value=str(name))):
                found.append((node.lineno, node.col_offset, name))
        if (name := _read_everywhere(node)) is not None:
            found.append((node.lineno, node.col_offset, name))
    return list(dict.fromkeys(name for *_, name in sorted(found)))  # the walk goes level by level


def read_everywhere(source: Path, method: str = "everywhere") -> set[str]:
    """The steps whose results a chapter reads under every published backbone; or by another ``method`` of the book."""
    nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    return {name for node in nodes if (name := _read_everywhere(node, method)) is not None}


def _read_everywhere(node: ast.AST, method: str = "everywhere") -> str | None:
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="book"), attr=called), args=[ast.Constant(value=str(name))]
        ) if called == method:
            return name
    return None


def parameters(source: Path) -> dict:
    """The parameters of a chapter and their defaults: the assignments of its cell tagged `parameters`."""
    for cell in jupytext.read(source).cells:
        if "parameters" in cell.metadata.get("tags", []):
            assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
            return {name.id: ast.literal_eval(node.value) for node in assigned for name in node.targets}
    return {}


def execute(
    source: Path, target: Path, profile: str | None, stamps: Mapping[str, str], made: Mapping | None = None
) -> Path:
    """Execute the chapter `source` into the notebook `target`, cleaned and stamped; returns `target`.

    `profile` None keeps the chapter's own; `stamps` holds the digests of the results that it reads (`steps_read`), `made` how they were
    made (`downloads.how_made`). A cell of
    parameters is injected only where a value differs from the default, so that a published notebook has the cells of its
    source and no other. The kernel ends with this process: ipykernel watches its parent. Raises ChapterError naming the cell.
    """
    default = parameters(source)["profile"]
    profile = profile or default
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"  # jupytext makes new ids at each reading
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"jupytext": {"formats": "ipynb,py:percent"}, "kernelspec": kernel})
    injected = {"profile": profile} if profile != default else {}
    quiet = ["--IPKernelApp.log_level=50"]  # it would warn of its local port at every start
    try:
        executed = papermill.execute_notebook(
            notebook, None, injected, kernel_name="python3", progress_bar=False, cwd=str(ROOT), extra_arguments=quiet
        )
    except PapermillExecutionError as error:
        cell, what = (" ".join(str(text).split()) for text in (error.source, error.evalue))
        raise ChapterError(f"{source.name}, cell {error.exec_count} ({cell[:80]} ...): {error.ename}: {what}") from None
    except DeadKernelError:
        raise ChapterError(f"{source.name}: its kernel died, perhaps for want of memory") from None
    # What changes from run to run or names this machine goes.
    executed.metadata.pop("papermill", None)
    executed.metadata.get("language_info", {}).pop("version", None)
    for cell in executed.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.update(id="injected-parameters", source=cell.source.strip())  # papermill makes a new id
            cell.metadata["tags"] = ["injected-parameters", "hide-input"]
    stamp = {"source_sha256": file_digest(source), "profile": profile, "results": dict(stamps)}
    executed.metadata["decoupled_esc"] = stamp | ({"made": dict(made)} if made else {})
    write_atomically(target, nbformat.writes(executed) + "\n")
    return target


def check_notebooks(folder: Path) -> list[str]:
    """Problems of the chapters (NN_*.ipynb) in `folder`, each a sentence that names the notebook and the cell.

    A chapter is executed from top to bottom without an error, names its parameters first, folds its code except for teaching
    cells, shows a glued figure once and no machine path, and equals its source, the NN_*.py beside it; its stamp names that
    source and the results that it reads.
    """
    chapters = sorted(Path(folder).glob(CHAPTERS))
    problems = [] if chapters else [f"{folder}: holds no chapter ({CHAPTERS})."]
    for path in chapters:
        try:
            notebook = nbformat.read(path, as_version=4)
            nbformat.validate(notebook)
        except Exception:  # nbformat answers a damaged file with whatever error it runs into
            problems.append(f"{path.name}: is no notebook; execute it again.")
            continue
        problems += [f"{path.name}: {problem}." for problem in _problems(notebook, path.with_suffix(".py"))]
    return problems


def _teaches(code: str) -> bool:
    """Whether a cell may be visible: short, and it asserts that the library gives what it shows."""
    lines = [line.strip() for line in code.splitlines() if line.strip()]
    return len(lines) <= TEACHING_LINES and any(line.startswith("assert ") for line in lines)


def _problems(notebook: nbformat.NotebookNode, source: Path) -> Iterator[str]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or "parameters" not in code[0].metadata.get("tags", []):
        yield "the first code cell is not tagged `parameters`"
    for number, cell in enumerate(code, start=1):
        if cell.execution_count != number:
            yield f"code cell {number} has the execution count {cell.execution_count}: not run in order"
        if not FOLDED & set(cell.metadata.get("tags", [])) and not _teaches(cell.source):
            yield f"code cell {number} is not folded (`hide-input`), and no teaching cell of {TEACHING_LINES} lines at most that asserts"
        glued = any(f"{module}.show(" in cell.source for module in ("figures", "drawings"))
        if glued and "remove-output" not in cell.metadata.get("tags", []):
            yield f"code cell {number} shows a figure that is glued below, and is not tagged `remove-output`"
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {number} ended in {output.ename}"
            shown = output.get("data", {})  # without pictures in base64, where any letters may stand by chance
            data = [str(shown[mime]) for mime in shown if not mime.endswith(("png", "jpeg", "pdf"))]
            for name in machine_paths("\n".join([output.get("text", ""), *output.get("traceback", []), *data])):
                yield f"code cell {number} shows the machine path {name}"
    if not source.exists():
        yield f"its source {source.name} is missing"
        return
    one, other = ([(c.cell_type, c.source.strip()) for c in book.cells] for book in (jupytext.read(source), notebook))
    if one != other:
        first = next((n for n, (left, right) in enumerate(zip(one, other)) if left != right), min(len(one), len(other)))
        yield f"cell {first + 1} differs from its source {source.name}"
    stamp = notebook.metadata.get("decoupled_esc", {})
    own = {name for name in stamp.get("results", {}) if "/" not in name}  # with a slash: another backbone's
    if (stamp.get("source_sha256"), own) != (file_digest(source), {*steps_read(source)}):
        yield f"its stamp is not that of {source.name}: execute it again"
