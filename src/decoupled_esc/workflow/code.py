"""The code version of a stage: a digest of the source that its result depends on.

Taken over the stage's function, what that is given, the functions and constants beside it that it uses, and every module
of this library that these import, directly or not.  Comments, docstrings and blank lines don't count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import tokenize
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

WITHOUT_EFFECT = tuple(PACKAGE / name for name in ("corpus/fetch.py", "corpus/errors.py", "progress.py"))
"""What no result depends on: where data comes from (its digest is an input), what errors say, how progress is shown."""


def stage_code(function_name: str, module: Path, arguments: Mapping | None = None) -> tuple[str, tuple[Path, ...]]:
    """(digest, files) for the function ``function_name`` of the file ``module``, given ``arguments`` (JSON-able)."""
    tree, lines, _ = _read(module)
    defined = {name: node for node in tree.body for name in _defines(node)}
    wanted, queue = {}, [function_name]
    while queue:
        name = queue.pop()
        if name in defined and name not in wanted:
            wanted[name] = defined[name]
            queue += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    imported = [path for node in wanted.values() for path in _imports(node)]
    files = tuple(path for path in _closure(imported) if path not in WITHOUT_EFFECT)
    parts = [json.dumps(arguments, sort_keys=True)] if arguments else []
    for node in sorted(wanted.values(), key=lambda node: node.lineno):
        first = min(part.lineno for part in (node, *getattr(node, "decorator_list", ())))
        parts += [line for row, line in lines.items() if first <= row <= node.end_lineno]
    for path in files:
        parts += ["", path.relative_to(PACKAGE).as_posix(), *_read(path)[1].values()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16], files


def files_behind(script: Path) -> tuple[Path, ...]:
    """The files of this library that ``script`` imports, directly or not."""
    return _closure(_read(script)[2])


def _defines(node: ast.stmt) -> list[str]:
    """The names of the functions, classes and constants that ``node``, a statement of a module, defines.

    A constant with an annotation, such as the table of all stages, is left out: no function's result hangs on all of it.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    return [target.id for target in node.targets if isinstance(target, ast.Name)] if isinstance(node, ast.Assign) else []


def _closure(paths: Iterable[Path]) -> tuple[Path, ...]:
    files: set[Path] = set()
    queue = list(paths)
    while queue:
        path = queue.pop()
        if path not in files:
            files.add(path)
            queue += _read(path)[2]
    return tuple(sorted(files))


def _imports(node: ast.AST) -> list[Path]:
    names = []
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names += [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            names += [child.module, *(f"{child.module}.{alias.name}" for alias in child.names)]
    return [path for name in names if (path := _file(name))]


def _file(module: str) -> Path | None:
    first, *rest = module.split(".")
    if first != PACKAGE.name or not rest:
        return None
    stem = PACKAGE.joinpath(*rest)
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _read(path: Path) -> tuple[ast.Module, dict[int, str], list[Path]]:
    """(syntax tree, {row: line}, files imported) of a file; lines without those that are docstring, comment or blank.

    Text, not the dump of the tree: that differs between versions of Python, and a result must not go stale by being
    looked at with another one.
    """
    text = path.read_text(encoding="utf-8")
    tree, lines = ast.parse(text), text.split("\n")
    skipped, quoted = set(), set()
    for statement in ast.walk(tree):
        if isinstance(statement, ast.Expr) and isinstance(getattr(statement.value, "value", None), str):
            if not lines[statement.lineno - 1][: statement.col_offset].strip():
                skipped |= set(range(statement.lineno, statement.end_lineno + 1))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        (first, column), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            lines[first - 1] = lines[first - 1][:column].rstrip()
        elif first != last:
            quoted |= set(range(first, last + 1))  # inside a string every blank and every # counts
    rows = {row: line if row in quoted else line.rstrip() for row, line in enumerate(lines, start=1)}
    return tree, {row: line for row, line in rows.items() if row not in skipped and (line or row in quoted)}, _imports(tree)
