"""What a user can be told in one line."""

import difflib
import errno
from collections.abc import Collection

from turn_trees import PackingError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""Numbers of the errors of a disk, or of what lies on it, that a user can mend."""


class KnownError(Exception):
    """Something that a user can mend: the message names the file or field and the remedy.  The command line prints it alone."""


KNOWN = (KnownError, PackingError)
"""What the command line prints alone: ours, and a prompt that a model can't read as turn_trees names it."""


def nearest(word: str, known: Collection[str]) -> str:
    """`` (did you mean 'x'?)`` or nothing."""
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
