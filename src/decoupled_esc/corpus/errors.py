"""The one exception that a reader of this book sees when something is wrong with the data."""

import functools

from decoupled_esc.errors import KnownError


class CorpusError(KnownError):
    """Something is wrong with a data file, and this says where and what to do about it.

    The parts stay readable as attributes; `str(error)` is one line naming every part that is known:
    `ESConv.json, dialogue 12, field dialog[3].annotation.strategy: unknown strategy 'Foo'. Remedy: ...`
    """

    def __init__(self, problem, *, file=None, dialogue=None, field=None, remedy=None):
        self.problem, self.file, self.dialogue, self.field, self.remedy = problem, file, dialogue, field, remedy
        parts = {"": file, "dialogue ": dialogue, "field ": field}
        where = ", ".join(f"{name}{part}" for name, part in parts.items() if part is not None)
        sentence = f"{where}: {problem}" if where else str(problem)
        if remedy is not None:
            sentence = f"{sentence.rstrip('.')}. Remedy: {remedy}"
        super().__init__(" ".join(sentence.split()))  # a problem quoted from elsewhere may bring its own line breaks

    def __reduce__(self):
        # The default would lose the parts, on the way out of a worker process.
        parts = {key: value for key, value in vars(self).items() if key != "problem"}
        return functools.partial(CorpusError, **parts), (self.problem,)
