"""Checkpoints that are used again only as they were written, and the bar that shows a training's progress."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from decoupled_esc import progress
from decoupled_esc.files import file_digest, write_atomically

DIGESTS = "digests.json"
"""What a checkpoint's files were when it was written, and the training that it belongs to."""

KEPT = 2
"""The last, and the one before for where the last is damaged."""


def last_checkpoint(folder: Path, training: str) -> str | None:
    """The newest checkpoint under ``folder`` that is whole and of ``training``; others are named and removed."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.split("-")[1].isdigit() and path.is_dir()]
    for checkpoint in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        fault = _fault(checkpoint, training)
        if fault is None:
            return str(checkpoint)
        print(f"{checkpoint} {fault}; training goes on from the one before, or from its start", file=sys.stderr)
        shutil.rmtree(checkpoint)
    return None


def _fault(checkpoint: Path, training: str) -> str | None:
    """Why ``checkpoint`` can't be used."""
    try:
        written = json.loads((checkpoint / DIGESTS).read_text(encoding="utf-8"))
        files, owner = dict(written["files"]), written["training"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "was not written to its end"
    if owner != training:
        return "is of another training"
    found = _digests(checkpoint)
    changed = sorted(name for name in files.keys() | found.keys() if files.get(name) != found.get(name))
    return f"is damaged ({', '.join(changed)})" if changed else None


def _digests(checkpoint: Path) -> dict[str, str]:
    """sha256 (hex) of each file but this module's own."""
    files = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path.name != DIGESTS)
    return {str(path.relative_to(checkpoint)): file_digest(path) for path in files}


def callback(what: str, steps: int, training: str):
    """A callback for transformers' trainer: a bar over ``steps``, and digests of each checkpoint of ``training``."""
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.bar = progress.bar(steps, what, initial=state.global_step) if state.is_world_process_zero else None

        def on_step_end(self, args, state, control, **kwargs):
            if self.bar is not None:
                self.bar.update(state.global_step - self.bar.n)

        def on_train_end(self, args, state, control, **kwargs):
            if self.bar is not None:
                self.bar.close()

        def on_save(self, args, state, control, **kwargs):
            PartialState().wait_for_everyone()  # each process writes a part of it
            if state.is_world_process_zero:
                checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
                written = {"training": training, "files": _digests(checkpoint)}
                write_atomically(checkpoint / DIGESTS, json.dumps(written, indent=1))

    return Callback()


@contextmanager
def no_space_is_said(folder: Path) -> Iterator[None]:
    """Raises OSError (ENOSPC) for what safetensors and torch make of a full disk."""
    try:
        yield
    except Exception as error:
        full = "No space left" in str(error) or "os error 28" in str(error)
        if "PytorchStreamWriter" in str(error) or "inline_container" in str(error):  # torch doesn't say why
            full = full or shutil.disk_usage(folder).free < 2**20
        if full and not isinstance(error, OSError):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None
        raise
