"""The code version of a stage: a digest of the source that its result depends on.

Taken over the stage's function, the functions beside it that it calls, and every module of this library that these
import, directly or not.  Comments, docstrings and blank lines don't count.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]

WITHOUT_EFFECT = tuple(PACKAGE / name for name in ("corpus/fetch.py", "corpus/errors.py", "progress.py"))
"""What no result depends on: where data comes from (its digest is an input), what errors say, how progress is shown."""


def stage_code(function_name: str, module: Path) -> tuple[str, tuple[Path, ...]]:
    """(digest, files) for the function ``function_name`` of the file ``module``."""
    functions = {node.name: node for node in _tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    wanted, queue = {}, [function_name]
    while queue:
        name = queue.pop()
        if name in functions and name not in wanted:
            wanted[name] = functions[name]
            queue += [node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)]
    files = tuple(path for path in _closure(wanted.values()) if path not in WITHOUT_EFFECT)
    sha = hashlib.sha256()
    for name in sorted(wanted):
        sha.update("\n".join(_code_lines(module, wanted[name])).encode())
    for path in files:
        sha.update(f"\n{path.relative_to(PACKAGE)}\n".encode() + "\n".join(_code_lines(path, _tree(path))).encode())
    return sha.hexdigest()[:16], files


def files_behind(script: Path) -> tuple[Path, ...]:
    """The files of this library that ``script`` imports, directly or not."""
    return _closure([_tree(script)])


def _closure(nodes: Iterable[ast.AST]) -> tuple[Path, ...]:
    files: set[Path] = set()
    queue = [path for node in nodes for path in _imports(node)]
    while queue:
        path = queue.pop()
        if path not in files:
            files.add(path)
            queue += _imports(_tree(path))
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
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _code_lines(path: Path, node: ast.AST) -> list[str]:
    """The lines of ``node`` without docstrings, comment lines and blank lines.

    Text, not a syntax tree: the dump of a tree differs between versions of Python, and a result must not go stale by
    being looked at with another one.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    first, last = (1, len(lines)) if isinstance(node, ast.Module) else (node.lineno, node.end_lineno)
    skipped: set[int] = set()
    for child in ast.walk(node):
        for statement in getattr(child, "body", []) if not isinstance(child, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    skipped |= set(range(statement.lineno, statement.end_lineno + 1))
    kept = (lines[n - 1].rstrip() for n in range(first, last + 1) if n not in skipped)
    return [line for line in kept if line and not line.lstrip().startswith("#")]
