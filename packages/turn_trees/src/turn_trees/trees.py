"""Many prompts and answers in one pass: whatever two of them share is read once.

The turns of a dialogue repeat each other: the prompt of turn k is, up to its last few tokens, a beginning of the prompt
of turn k+1.  Laid out as a tree of prefixes, every token stands once, below the tokens it follows:

    instruction - message 1 - message 2 - message 3 - …              the trunk: the dialogue, once
                           \\             \\
                            answer 1      answer 2                   a tail for every turn

A tree becomes one sequence by writing it down in preorder.  Each token keeps the position it has in its own prompt and
attends to its ancestors alone, so that the model computes for it what it would have computed there.  Depth is all that
has to be kept: a token's descendants are the tokens after it that lie deeper, up to the first that does not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix


class PackingError(ValueError):
    """An example that can't be packed, or a sequence that a model can't read."""


@dataclass(frozen=True)
class Example:
    """A prompt and the answers to it whose log-probabilities are asked for, as token ids."""

    id: str
    prompt: list[int]
    answers: list[list[int]]


@dataclass(frozen=True)
class Packed:
    """Examples as one sequence of ``L`` tokens, and where in it the ``P`` tokens of their answers are predicted."""

    tokens: list[int]  # [L]
    depths: list[int]  # [L] how many tokens are above each: its position in its own prompt, and the shape of the forest
    prompt_ends: list[int]  # [examples] where each example's prompt ends
    predict_positions: list[int]  # [P] the index in ``tokens`` of the token before each token of an answer
    targets: list[int]  # [P] the token that is asked for there
    completion_index: list[int]  # [P] the answer it belongs to, counted over all answers of all examples

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def answers(self) -> int:
        return 1 + max(self.completion_index, default=-1)


def pack(examples: Sequence[Example]) -> Packed:
    """The tree of ``examples``.  An answer's last token is asked for and never read.  Raises PackingError for empty ones."""
    wanted: list[tuple[list[int], list[int]]] = []  # (what is read, an answer or nothing)
    for example in examples:
        if not example.prompt or not all(example.answers):
            raise PackingError(f"{example.id}: a prompt and each of its answers take at least one token")
        wanted += [(example.prompt, []), *((example.prompt + answer[:-1], answer) for answer in example.answers)]
    tokens, depths, path, before, places = [], [], [], [], [[] for _ in wanted]
    # Sorted, sequences that share a prefix are neighbours: each branches off the path of the one before it.
    for n in sorted(range(len(wanted)), key=lambda n: wanted[n][0]):
        read, answer = wanted[n]
        shared = common_prefix(before, read)
        path = path[:shared] + list(range(len(tokens), len(tokens) + len(read) - shared))
        tokens += read[shared:]
        depths += range(shared, len(read))
        before, places[n] = read, path[-max(1, len(answer)) :]
    both = [(place, answer) for place, (_, answer) in zip(places, wanted, strict=True)]
    ends, answered = [place[0] for place, answer in both if not answer], [one for one in both if one[1]]
    at = [index for place, _ in answered for index in place]
    targets = [token for _, answer in answered for token in answer]
    return Packed(tokens, depths, ends, at, targets, [n for n, (_, answer) in enumerate(answered) for _ in answer])


def join(trees: Iterable[Packed]) -> Packed:
    """Several packed sequences as one forest; examples and answers keep their order."""
    joined = Packed([], [], [], [], [], [])
    for tree in trees:
        tokens, answers = len(joined.tokens), joined.answers
        joined.prompt_ends.extend(tokens + index for index in tree.prompt_ends)
        joined.predict_positions.extend(tokens + index for index in tree.predict_positions)
        joined.completion_index.extend(answers + completion for completion in tree.completion_index)
        joined.tokens.extend(tree.tokens)
        joined.depths.extend(tree.depths)
        joined.targets.extend(tree.targets)
    return joined


def groups(packed: Packed, budget: int, each: int = 0) -> Iterator[tuple[range, list[int]]]:
    """Examples in their order, as many at a time as fit, and the indices in ``tokens`` of the tree that they make.

    A group takes at most ``budget`` tokens, those of its tree and ``each`` more for every example, unless it is a single
    example that takes more by itself.  Raises PackingError where examples have unlike numbers of answers.
    """
    examples = len(packed.prompt_ends)
    if packed.answers % examples:
        raise PackingError(f"{packed.answers} answers to {examples} prompts: all need as many")
    answers, above, path, start, held = packed.answers // examples, [], [], 0, set()
    for index, depth in enumerate(packed.depths):
        del path[depth:]
        above.append(path[-1] if path else -1)
        path.append(index)
    last = dict(zip(packed.completion_index, packed.predict_positions, strict=True))
    for example in range(examples):
        own: set[int] = set()
        for index in (packed.prompt_ends[example], *(last[example * answers + n] for n in range(answers))):
            while index >= 0 and index not in own:
                own.add(index)
                index = above[index]
        if example > start and len(held | own) + each * (example + 1 - start) > budget:
            yield range(start, example), sorted(held)
            start, held = example, set()
        held |= own
    yield range(start, examples), sorted(held)


def split(packed: Packed, budget: int) -> list[Packed]:
    """``packed`` as trees of at most ``budget`` tokens by :func:`groups`: its examples and answers, in their order."""
    if len(packed) <= budget:
        return [packed]
    parts, each = [], packed.answers // len(packed.prompt_ends)
    for examples, kept in groups(packed, budget):
        place, first = {index: n for n, index in enumerate(kept)}, examples.start * each
        rows = slice(*(bisect_left(packed.completion_index, at * each) for at in (examples.start, examples.stop)))
        tokens, depths = ([column[index] for index in kept] for column in (packed.tokens, packed.depths))
        ends = [place[packed.prompt_ends[example]] for example in examples]
        at = [place[index] for index in packed.predict_positions[rows]]
        owners = [completion - first for completion in packed.completion_index[rows]]
        parts.append(Packed(tokens, depths, ends, at, packed.targets[rows], owners))
    return parts


def subtree_ends(depths: Sequence[int]) -> list[int]:
    """[L] For each token the index after its last descendant: token i attends to token j where j <= i < end of j."""
    ends = [len(depths)] * len(depths)
    path: list[int] = []
    for index, depth in enumerate(depths):
        while path and depths[path[-1]] >= depth:
            ends[path.pop()] = index
        path.append(index)
    return ends


def common_prefix(a: list[int], b: list[int]) -> int:
    """How many tokens two sequences begin with alike."""
    return len(commonprefix([a, b]))  # which takes lists of anything
