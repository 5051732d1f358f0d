"""One way to show that long work is alive: a bar on a terminal, one line a minute in a log."""

import multiprocessing
import sys

from tqdm import tqdm


class _Lines:
    """A stream that turns a bar's repaints into lines."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(total: int, what: str, initial: int = 0) -> tqdm:
    """A tqdm bar over ``total`` steps that never floods a log file."""
    if sys.stderr.isatty() and multiprocessing.parent_process() is None:  # workers share a terminal: lines, not bars
        return tqdm(total=total, desc=what, initial=initial, file=sys.stderr)
    return tqdm(
        total=total, desc=what, initial=initial, file=_Lines(), ascii=True, ncols=80, leave=False,
        delay=60, mininterval=60, maxinterval=60,
    )  # fmt: skip
