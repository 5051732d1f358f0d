"""One way to show that long work is alive: a bar on a terminal, one line a minute in a log."""

from __future__ import annotations

import sys

from tqdm import tqdm


def bar(total: int, what: str, initial: int = 0) -> tqdm:
    """A tqdm bar over ``total`` steps that never floods a log file."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total, desc=what, initial=initial, file=sys.stderr, ascii=not terminal,
        mininterval=0.5 if terminal else 60, maxinterval=0.5 if terminal else 60, leave=terminal,
    )  # fmt: skip
