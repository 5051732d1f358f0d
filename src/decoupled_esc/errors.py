"""What a user can be told in one line."""

import errno

from turn_trees import PackingError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""Numbers of the errors of a disk, or of what lies on it, that a user can mend."""


class KnownError(Exception):
    """Something that a user can mend: the message names the file or field and the remedy.  The command line prints it alone."""


KNOWN = (KnownError, PackingError)
"""What the command line prints alone: ours, and a prompt that a model can't read as turn_trees names it."""
