"""From grown trees to preference data (CSO, section 3.2): valid paths, and pairs of a node and a rejected sibling.

Two readings of what is valid are kept apart by name.  ``paper``: every node of the path has Q above the threshold (Eq. 5),
and a rejected sibling is below it (Eq. 6).  ``released``: as the authors' code does it, the end alone must have Q of at least
the threshold, and two visits; a rejected sibling is at most at it, and on no valid path itself.  A node on the way may then
be worth less than what it is preferred to: `statistics` counts such pairs.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from decoupled_esc.corpus import Turn
from decoupled_esc.search.tree import Node, Tree

Condition = Literal["paper", "released"]
RELEASED_VISITS = 2


@dataclass(frozen=True)
class Alternative:
    """What a supporter could have said instead, and how the search valued it."""

    id: str
    strategy: str
    reply: str
    value: float


@dataclass(frozen=True)
class Preferred:
    """A turn on a valid path, and the siblings that are rejected for it."""

    turn: Turn
    value: float
    gold: bool
    rejected: tuple[Alternative, ...]


def valid_paths(tree: Tree, condition: Condition, threshold: float) -> list[list[Node]]:
    """Paths from below the root to an end that are valid (Eq. 5); the root is nobody's choice and has no strategy."""
    return [path for path in (end.path()[1:] for end in tree.ends()) if _valid(path, condition, threshold)]


def _valid(path: list[Node], condition: Condition, threshold: float) -> bool:
    if condition == "paper":
        return all(node.value > threshold for node in path)
    return path[-1].value >= threshold and path[-1].visits >= RELEASED_VISITS


def dialogues(tree: Tree, name: str, condition: Condition, threshold: float) -> list[list[Preferred]]:
    """The valid paths as dialogues of preferred turns (Eq. 6); ``name`` is the seed dialogue's id.

    A turn that several paths share stands in each of them, as in CSO's Table 5; `distinct` has each once.  A sibling that no
    reward has reached is not rejected: nobody has said that it is worse.
    """
    paths = valid_paths(tree, condition, threshold)
    chosen = {node.id for path in paths for node in path}

    def rejected(node: Node) -> bool:
        worse = node.value < threshold if condition == "paper" else node.value <= threshold
        return worse and node.reply is not None and node.visits > 0 and node.id not in chosen

    return [
        [
            Preferred(
                Turn(f"{name}/{node.id}", name, node.parent.history(), node.strategy, node.reply), node.value, node.gold,
                tuple(
                    Alternative(f"{name}/{other.id}", other.strategy, other.reply, other.value)
                    for other in node.parent.children if rejected(other)
                ),
            )
            for node in path
        ]
        for path in paths
    ]  # fmt: skip


def distinct(paths: Iterable[Sequence[Preferred]]) -> list[Preferred]:
    """Each preferred turn once, in order of first appearance: what is trained on.  Those of ESC-Pro-SFT, too."""
    return list({turn.turn.id: turn for path in paths for turn in path}.values())


def other_strategies(turns: Sequence[Turn], strategies: Sequence[str], seed: int) -> list[str]:
    """For each turn one other strategy, drawn at random: what ESC-Pro-Random lets a supporter say instead (section 5.3)."""
    draws = random.Random(seed)
    return [draws.choice([name for name in strategies if name != turn.strategy]) for turn in turns]


def statistics(paths: Sequence[Sequence[Preferred]]) -> dict:
    """The counts of CSO's Table 5: dialogues, utterances by side, mean length of dialogues (utterances) and of utterances (words).

    Seekers speak once before each supporter's turn.  ``pairs`` counts each (preferred, rejected) once, and ``inverted`` those whose
    preferred side is worth no more than the rejected one.
    """
    turns = [turn for path in paths for turn in path]
    seekers = [turn.turn.context[-1].text for turn in turns]
    worse = [other.reply for turn in turns for other in turn.rejected]
    preferred = [turn.turn.reply for turn in turns]
    once = distinct(paths)
    return {
        "dialogues": len(paths),
        "utterances": {"seeker": len(seekers), "preferred": len(preferred), "rejected": len(worse)},
        "words": {name: _mean_words(texts) for name, texts in (("seeker", seekers), ("preferred", preferred), ("rejected", worse))},
        "words_all": _mean_words(seekers + preferred + worse),
        "length": 2 * len(turns) / len(paths) if paths else None,
        "turns": len(once),
        "pairs": sum(len(turn.rejected) for turn in once),
        "inverted": sum(other.value >= turn.value for turn in once for other in turn.rejected),
        "gold_turns": sum(turn.gold for turn in once),
        "pairs_of_gold": sum(len(turn.rejected) for turn in once if turn.gold),
    }


def _mean_words(texts: Sequence[str]) -> float | None:
    return sum(len(text.split()) for text in texts) / len(texts) if texts else None
