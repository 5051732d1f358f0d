"""From grown trees to preference data (CSO, section 3.2): valid paths, and pairs of a node and a rejected sibling.

Two readings of what is valid are kept apart by name.  ``paper``: every node of the path has Q above the threshold
(Eq. 5), and a rejected sibling is below it (Eq. 6).  ``released``: as the authors' code does it, the terminal node
alone must have Q of at least the threshold, and two visits; a rejected sibling is at most at it, and on no valid path.
A node on the way may then be worth less than what it is preferred to: `statistics` counts such pairs.

A Q is the mean of what follows a turn, and says little of the turn itself.  Where a search judged every turn
(``own_turn``), Q decides which paths are valid as above, but for where they end: a conversation need not be over to be worth
something.  The reward of its own turn is what a node is worth in a pair: preferred above the threshold, rejected below, be it
on a valid path or not.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from decoupled_esc.corpus import Dialogue, Turn, chat_form
from decoupled_esc.search.tree import Node, Tree

Condition = Literal["paper", "released"]
RELEASED_VISITS = 2


@dataclass(frozen=True)
class Alternative:
    """What a supporter could have said instead, and how the search valued it."""

    id: str
    strategy: str
    reply: str
    value: float | None


@dataclass(frozen=True)
class Preferred:
    """A turn on a valid path, and the siblings that are rejected for it."""

    turn: Turn
    value: float | None
    """Q, or the reward of its own turn; None where that could not be judged."""
    gold: bool
    rejected: tuple[Alternative, ...]


def valid_paths(tree: Tree, condition: Condition, threshold: float) -> list[list[Node]]:
    """Paths from below the root to a terminal node that are valid (Eq. 5); the root has no strategy.

    Where every turn was judged, a path may end at any node, and the longest valid ones are taken.
    """

    def valid(path: list[Node]) -> bool:
        if condition == "paper":
            return all(node.value > threshold for node in path)
        return path[-1].value >= threshold and path[-1].visits >= RELEASED_VISITS

    ends = (
        [node for node in tree.nodes() if node.reply is not None] if tree.constants.own_turn else tree.terminal_nodes()
    )
    found = [path for path in (node.path()[1:] for node in ends) if valid(path)]
    inner = {node.id for path in found for node in path[:-1]}
    return [path for path in found if path[-1].id not in inner]


def dialogues(tree: Tree, name: str, condition: Condition, threshold: float) -> list[list[Preferred]]:
    """The valid paths as dialogues of preferred turns (Eq. 6); ``name`` is the seed dialogue's id.

    A turn that several paths share stands in each of them, as in CSO's Table 5; `distinct` has each once.  A sibling
    that no reward has reached is not rejected: nobody has said that it is worse.
    """
    paths, own = valid_paths(tree, condition, threshold), tree.constants.own_turn
    chosen = {node.id for path in paths for node in path}

    def rejected(node: Node) -> bool:
        worth = _worth(tree, node)
        worse = worth is not None and (worth < threshold if condition == "paper" else worth <= threshold)
        return worse and (own or node.id not in chosen)

    def preferred(node: Node) -> Preferred:
        worth = _worth(tree, node)
        good = not own or worth is not None and worth > threshold
        others = [other for other in node.parent.children if good and rejected(other)]
        return _preferred(tree, name, node, others)

    return [[preferred(node) for node in path] for path in paths]


def gold_pairs(tree: Tree, name: str) -> list[Preferred]:
    """Each turn of the gold dialogue preferred to all that models said in its place: no reward is asked."""
    gold = [node for node in tree.nodes() if node.gold and node.parent is not None]
    return [
        _preferred(tree, name, node, [one for one in node.parent.children if one.reply is not None and not one.gold])
        for node in gold
    ]


def _worth(tree: Tree, node: Node) -> float | None:
    """What ``node`` is worth in a pair; None where no reward has reached it."""
    if tree.constants.own_turn:
        return node.own
    return node.value if node.reply is not None and node.visits else None


def _preferred(tree: Tree, name: str, node: Node, rejected: Iterable[Node]) -> Preferred:
    turn = Turn(f"{name}/{node.id}", name, node.parent.history(), node.strategy, node.reply)
    worse = tuple(Alternative(f"{name}/{one.id}", one.strategy, one.reply, _worth(tree, one)) for one in rejected)
    return Preferred(turn, _worth(tree, node), node.gold, worse)


def distinct(paths: Iterable[Sequence[Preferred]]) -> list[Preferred]:
    """Each preferred turn once, in order of first appearance."""
    return list({turn.turn.id: turn for path in paths for turn in path}.values())


def other_strategies(chosen: Sequence[Turn], strategies: Sequence[str], seed: int) -> list[str]:
    """For each pair, by its chosen turn, another strategy, sampled, and for the pairs of one turn different ones while there
    are: what ESC-Pro-Random lets a supporter say instead (section 5.3)."""
    random_, left, found = random.Random(seed), {}, []
    for turn in chosen:
        if not left.get(turn.id):
            others = [name for name in strategies if name != turn.strategy]
            left[turn.id] = random_.sample(others, len(others))
        found.append(left[turn.id].pop())
    return found


@dataclass(frozen=True)
class PathStatistics:
    """The counts of CSO's Table 5, by side: seeker, preferred, rejected.  Seekers speak once before each supporter."""

    dialogues: int
    utterances: dict[str, int]
    words: dict[str, float | None]  # per utterance
    words_all: float | None
    length: float | None  # utterances per dialogue
    turns: int  # distinct ones, as all that follows
    pairs: int
    inverted: int  # pairs whose preferred side is worth no more than the rejected one
    gold_turns: int
    pairs_of_gold: int

    @property
    def searched(self) -> float | None:
        """The share of pairs whose preferred turn was found by the search."""
        return 1 - self.pairs_of_gold / self.pairs if self.pairs else None


def statistics(paths: Sequence[Sequence[Preferred]]) -> PathStatistics:
    """What `dialogues` found, counted."""
    turns, once = [turn for path in paths for turn in path], distinct(paths)
    said = {
        "seeker": [turn.turn.context[-1].text for turn in turns],
        "preferred": [turn.turn.reply for turn in turns],
        "rejected": [other.reply for turn in turns for other in turn.rejected],
    }
    return PathStatistics(
        dialogues=len(paths),
        utterances={side: len(texts) for side, texts in said.items()},
        words={side: _mean_words(texts) for side, texts in said.items()},
        words_all=_mean_words([text for texts in said.values() for text in texts]),
        length=2 * len(turns) / len(paths) if paths else None,
        turns=len(once),
        pairs=sum(len(turn.rejected) for turn in once),
        inverted=sum(other.value >= turn.value for turn in once for other in turn.rejected),
        gold_turns=sum(turn.gold for turn in once),
        pairs_of_gold=sum(len(turn.rejected) for turn in once if turn.gold),
    )


@dataclass(frozen=True)
class SeedStatistics:
    """Table 5's counts of the seed dialogues, in chat form."""

    dialogues: int
    utterances: int
    length: float | None  # utterances per dialogue
    words: float  # per utterance


def seed_statistics(seeds: Sequence[Dialogue]) -> SeedStatistics:
    """The seed dialogues, counted."""
    said = [message.text for dialogue in seeds for message in chat_form(dialogue)]
    return SeedStatistics(len(seeds), len(said), len(said) / len(seeds) if seeds else None, _mean_words(said) or 0.0)


def _mean_words(texts: Sequence[str]) -> float | None:
    return sum(len(text.split()) for text in texts) / len(texts) if texts else None


def toxicity_by_part(
    seeds: Sequence[Dialogue], paths: Iterable[Sequence[Preferred]]
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Part -> seed dialogues' ids and float [texts], each text's probability of profanity (CSO, Table 7)."""
    from profanity_check import predict_prob

    turns = [one for path in paths for one in path]
    said: dict[str, list[tuple[str, str]]] = {}
    for role in ("seeker", "supporter"):
        said[f"seeds/{role}"] = [(d.id, m.text) for d in seeds for m in chat_form(d) if m.role == role]
    said["esc-pro/seeker"] = [(one.turn.dialogue, one.turn.context[-1].text) for one in turns]
    said["esc-pro/preferred"] = [(one.turn.dialogue, one.turn.reply) for one in turns]
    said["esc-pro/rejected"] = [(one.turn.dialogue, other.reply) for one in turns for other in one.rejected]
    said["seeds"] = said["seeds/seeker"] + said["seeds/supporter"]
    said["esc-pro"] = said["esc-pro/seeker"] + said["esc-pro/preferred"] + said["esc-pro/rejected"]
    return {
        part: ([dialogue for dialogue, _ in lines], np.asarray(predict_prob([text for _, text in lines])))
        for part, lines in said.items()
        if lines
    }
