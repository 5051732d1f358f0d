"""The one exception a reader of this book sees when something is wrong with the data."""


class CorpusError(Exception):
    """Something is wrong with a data file, and this says where and what to do about it.

    The parts stay readable as attributes; `str(error)` is one line naming every part that is known:
    `ESConv.json, dialogue 12, field dialog[3].annotation.strategy: unknown strategy 'Foo'. Remedy: ...`
    """

    def __init__(self, problem, *, file=None, dialogue=None, field=None, remedy=None):
        self.problem, self.file, self.dialogue, self.field, self.remedy = problem, file, dialogue, field, remedy
        place = [str(file)] if file is not None else []
        place += [f"dialogue {dialogue}"] if dialogue is not None else []
        place += [f"field {field}"] if field is not None else []
        where = ", ".join(place) + ": " if place else ""
        sentence = where + str(problem)
        if remedy is not None:
            sentence = f"{sentence.rstrip('.')}. Remedy: {remedy}"
        super().__init__(" ".join(sentence.split()))  # a problem quoted from elsewhere may bring its own line breaks

    def __reduce__(self):
        # The default would lose the parts, on the way out of a worker process.
        return (_rebuild, (self.problem, self.file, self.dialogue, self.field, self.remedy))


def _rebuild(problem, file, dialogue, field, remedy):
    return CorpusError(problem, file=file, dialogue=dialogue, field=field, remedy=remedy)
