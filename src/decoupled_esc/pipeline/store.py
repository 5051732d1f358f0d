"""Results under their keys.

What is run here lies in ``runs/steps/<Step>-<key>/``: ``result.json``, ``rows.jsonl`` where the result has a field ``rows``, and
the files that the step leaves.  What is published with the book lies in ``results/<profile>/<name>.json``, without such files.
Result, rows and files carry digests that are compared whenever they are read: what is damaged, or was left by another key, is
named and counts as missing.
"""

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import get_type_hints

from pydantic import TypeAdapter, ValidationError

from decoupled_esc.errors import KnownError
from decoupled_esc.files import digest, file_digest, write_atomically
from decoupled_esc.pipeline.step import Missing, Step, StepError, difference


class Damaged(KnownError):
    """A stored result, or a file beside it, that is not what was stored; the message says which and how."""


@cache
def result_type(step: type[Step]) -> TypeAdapter:
    """What ``run`` of a class of steps returns, by its annotation, without `Missing`."""
    returned = get_type_hints(step.run)["return"]
    kinds = [kind for kind in getattr(returned, "__args__", (returned,)) if kind is not Missing]
    return TypeAdapter(kinds[0])


@dataclass(frozen=True)
class Stored:
    """A result as it was read, and what is known of its making."""

    key: str
    result: object
    digest: str
    """Identity of what was computed, rows included."""
    fields: dict
    provenance: dict
    rows_left_out: bool
    files: dict[str, str]


@dataclass
class Store:
    """Results in one folder: of ``runs/`` by class and key; or, where ``names`` (key -> name) is given, published ones by name."""

    folder: Path
    names: dict[str, str] | None = None
    _read: dict[str, tuple] = field(default_factory=dict, repr=False)

    @property
    def keeps_files(self) -> bool:
        """Whether the files that steps leave are here, too."""
        return self.names is None

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "names": self.names, "_read": {}}

    def place(self, step: Step) -> Path | None:
        """Where the result of ``step`` is or would be; None for one that has no name here."""
        if self.names is None:
            return self.folder / "steps" / f"{type(step).__name__}-{step.key}" / "result.json"
        return self.folder / f"{self.names[step.key]}.json" if step.key in self.names else None

    def read(self, step: Step) -> Stored | None:
        """The result of ``step``, or None where there is none.  Raises Damaged where it is not what was stored."""
        path = self.place(step)
        if path is None or not path.exists():
            return None
        if not path.is_file():
            raise Damaged(f"{path} is no file")
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        if self._read.get(step.key, (None,))[0] != stamp:
            self._read[step.key] = (stamp, self._load(step, path))
        return self._read[step.key][1]

    def _load(self, step: Step, path: Path) -> Stored | None:
        data = _json(path)
        try:
            if data["key"] != step.key:
                if self.keeps_files:
                    raise Damaged(f"{path} is the result of another step")
                return None
            value, rows = data["result"], data["rows"]
            if data["digest"] != digest({"result": value, "rows": rows}):
                raise Damaged(f"{path} was changed after it was written")
            if rows is not None and not data["rows_left_out"]:
                value = value | {"rows": _rows_of(path.with_suffix(".jsonl"), rows)}
            elif rows is not None:
                value = value | {"rows": []}
            whole = not (self.keeps_files and data["rows_left_out"])
            if not whole or not all(isinstance(data[name], dict) for name in ("fields", "provenance", "files")):
                raise Damaged(f"{path} was changed after it was written")
            kind = TypeAdapter(Missing) if data["missing"] else result_type(type(step))
            result = kind.validate_python(value)
            kept = ("key", "digest", "fields", "provenance", "rows_left_out", "files")
            return Stored(result=result, **{name: data[name] for name in kept})
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            said = str(error).splitlines()[0]
            raise Damaged(f"{path} is no result of {type(step).__name__} ({type(error).__name__}: {said})") from None

    def why_not(self, step: Step) -> str:
        """Why there is no result of ``step`` here: never run, damaged, or which field changed."""
        path = self.place(step)
        try:
            if self.read(step) is not None:
                return ""
            if path is None or not path.exists():
                return "not here"
            data = _json(path)
            if data.get("version") != step.version:
                return f"version was {data.get('version')} and is {step.version}"
            return difference(data["fields"], step.fields)
        except Damaged as damage:
            return str(damage)
        except (KeyError, TypeError, AttributeError):
            return f"{path} is damaged"

    def verify(self, step: Step, names: tuple[str, ...] | None = None) -> None:
        """Raise Damaged where a file that ``step`` left (``names``: below these alone) is not what it left."""
        stored, folder = self.read(step), self.place(step).parent
        for leaf in step.leaves if names is None else names:
            expected = {name for name in stored.files if name == leaf or name.startswith(f"{leaf}/")}
            left = {one.relative_to(folder).as_posix() for one in _files(folder / leaf)}
            for name in sorted(expected | left):
                try:
                    unchanged = file_digest(folder / name) == stored.files.get(name)
                except OSError as error:
                    raise Damaged(f"{folder / name} is gone ({error.strerror})") from None
                if not unchanged:
                    raise Damaged(f"{folder / name} was changed after it was written")

    def write(self, step: Step, result, provenance: dict, *, rows_left_out: bool = False) -> None:
        """Store ``result``: rows first, so that a result never names rows that are not there."""
        path, missing = self.place(step), isinstance(result, Missing)
        adapter = TypeAdapter(Missing) if missing else result_type(type(step))
        value = json.loads(adapter.dump_json(result))
        try:
            adapter.validate_python(value)
        except ValidationError as error:  # such as NaN, which JSON does not have
            said = " ".join(str(error).split())[:200]
            raise StepError(f"{type(step).__name__} gave what can't be stored: {said}") from None
        rows, files = None, {}
        if not missing and "rows" in value:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in value.pop("rows"))
            rows = hashlib.sha256(text.encode()).hexdigest()[:16]
            if rows_left_out:
                path.with_suffix(".jsonl").unlink(missing_ok=True)
            else:
                write_atomically(path.with_suffix(".jsonl"), text)
        if self.keeps_files:
            left = (one for name in step.leaves for one in _files(path.parent / name))
            files = {one.relative_to(path.parent).as_posix(): file_digest(one) for one in left}
        data = {
            "step": type(step).__name__, "version": step.version, "key": step.key, "fields": step.fields, "missing": missing,
            "result": value, "rows": rows, "rows_left_out": rows_left_out and rows is not None,
            "digest": digest({"result": value, "rows": rows}), "files": files, "provenance": provenance,
        }  # fmt: skip
        write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    def clear(self, step: Step) -> None:
        """Set aside all that lies in the folder of ``step``, but for its lock."""
        for old in self.place(step).parent.glob("*"):
            if old.name != ".lock":
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()


@dataclass
class Stores:
    """Where results are looked for, in this order."""

    runs: Store
    others: tuple[Store, ...] = ()

    def find(self, step: Step, *, whole: bool = True, quiet: bool = False) -> Stored | None:
        """The stored result of ``step``, or None.  ``whole``: with its rows and files, as a later step needs it.

        Damage is named on stderr, unless ``quiet``.
        """
        for store in (self.runs, *self.others):
            try:
                stored = store.read(step)
                if stored is not None and whole and store.keeps_files:
                    store.verify(step)
            except Damaged as damage:
                if not quiet:
                    print(f"{damage}; it is made again", file=sys.stderr, flush=True)
                continue
            if stored is None or (whole and (stored.rows_left_out or (step.leaves and not store.keeps_files))):
                continue
            return stored
        return None

    def result(self, step: Step):
        """The result of ``step`` for a step that needs it.  Raises StepError where there is none."""
        for store in (self.runs, *self.others):
            try:
                stored = store.read(step)
            except Damaged as damage:
                raise StepError(f"{damage}; run it again: the same command does") from None
            if stored is not None and not stored.rows_left_out:
                return stored.result
        raise StepError(f"the result of {type(step).__name__}-{step.key} is gone; the same command makes it again")

    def path(self, step: Step, name: str) -> Path:
        """A file or folder that ``step`` left, compared with its digest.  Raises StepError where it is damaged."""
        try:
            if self.runs.read(step) is None:
                raise Damaged(f"what {type(step).__name__}-{step.key} left is gone")
            self.runs.verify(step, (name,))
        except Damaged as damage:
            raise StepError(f"{damage}; the same command makes it again") from None
        return self.runs.place(step).parent / name


def _json(path: Path) -> dict:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise Damaged(f"{path} can't be read ({type(error).__name__})") from None
    if not isinstance(data, dict):
        raise Damaged(f"{path} holds no result")
    return data


def _rows_of(path: Path, expected: str) -> list:
    try:
        written = path.read_bytes()
    except OSError:
        raise Damaged(f"{path} is gone") from None
    if hashlib.sha256(written).hexdigest()[:16] != expected:
        raise Damaged(f"{path} was changed after it was written")
    return [json.loads(line) for line in written.splitlines()]  # not str.splitlines, which splits at U+2028 as well


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
