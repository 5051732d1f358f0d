"""What a user can be told in one line."""


class KnownError(Exception):
    """Something that a user can mend: the message names the file or field and the remedy.  The command line prints it alone."""
