"""The code version of a stage: a digest of the source that its result depends on.

Taken over the stage's function, the functions beside it that it calls, and every module of this library that these
import, directly or not.  Comments, docstrings and blank lines don't count.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def stage_code(function_name: str, module: Path) -> tuple[str, tuple[Path, ...]]:
    """(digest, files) for the function ``function_name`` of the file ``module``."""
    functions = {node.name: node for node in _tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    wanted, queue = {}, [function_name]
    while queue:
        name = queue.pop()
        if name in functions and name not in wanted:
            wanted[name] = functions[name]
            queue += [node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)]
    files: dict[Path, None] = {}
    queue = [path for node in wanted.values() for path in imports(node)]
    while queue:
        path = queue.pop()
        if path not in files:
            files[path] = None
            queue += imports(_tree(path))
    sha = hashlib.sha256()
    for name in sorted(wanted):
        sha.update("\n".join(_code_lines(module, wanted[name])).encode())
    for path in sorted(files):
        sha.update(f"\n{path.relative_to(PACKAGE)}\n".encode() + "\n".join(_code_lines(path, _tree(path))).encode())
    return sha.hexdigest()[:16], tuple(sorted(files))


def imports(node: ast.AST) -> list[Path]:
    """The files of this library that ``node`` imports, wherever in it the import stands."""
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
