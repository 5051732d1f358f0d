"""Child processes that end with their parent, however that ends."""

import ctypes
import os
import signal
from collections.abc import Callable

_LIBC = ctypes.CDLL(None)  # loaded before any fork
_PR_SET_PDEATHSIG = 1


def ends_with_parent(sent: int = signal.SIGTERM) -> Callable[[], None]:
    """For ``subprocess.Popen(preexec_fn=...)`` on Linux: the child is sent ``sent`` when this process ends."""
    parent = os.getpid()

    def ask() -> None:
        if hasattr(_LIBC, "prctl"):
            _LIBC.prctl(_PR_SET_PDEATHSIG, sent)
            if os.getppid() != parent:  # which ended in between
                os.kill(os.getpid(), sent)

    return ask


def end_with_parent() -> None:
    """SIGKILL asked for by the child itself, which may have forgotten what its parent asked."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
