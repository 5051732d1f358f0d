"""A grown tree as plain data: for figures, and for readers of the book.

What people said in the gold dialogue is a corpus's, and is left out: its nodes carry strategies and numbers alone.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from decoupled_esc.search.tree import Node, Tree


@dataclass(frozen=True)
class UnexpandedNode:
    """A node that was not tried yet."""

    id: str
    strategy: str | None  # None for the root
    prior: float


@dataclass(frozen=True)
class ClosedNode(UnexpandedNode):
    """One that will not be: a role failed."""

    closed: str  # why


@dataclass(frozen=True)
class VisitedNode(UnexpandedNode):
    """One with a value; without text, it is a gold one."""

    value: float
    own: float | None  # the reward of its own turn
    visits: int
    gold: bool
    ends: bool  # it is terminal
    closed: str | None


@dataclass(frozen=True)
class ExpandedNode(VisitedNode):
    """One with what the models said."""

    reply: str
    seeker: str | None


@dataclass(frozen=True)
class SearchTree:
    """A tree, its nodes with parents before children."""

    id: str
    iterations: int
    finished: str | None  # why the search stopped
    nodes: tuple[
        Annotated[ExpandedNode | VisitedNode | ClosedNode | UnexpandedNode, Field(union_mode="left_to_right")], ...
    ]


@dataclass(frozen=True)
class TreeSize:
    """How large a tree is."""

    nodes: int
    spoken: int  # expanded nodes, without the gold ones
    gold: int
    ends: int  # terminal nodes
    depth: int  # rounds
    closed: int
    failures: int
    iterations: int


def exported(tree: Tree, name: str) -> SearchTree:
    """``tree`` as a row of a result."""
    return SearchTree(name, tree.iterations, tree.finished, tuple(map(_node, tree.nodes())))


def _node(node: Node) -> UnexpandedNode:
    head = (node.id, node.strategy, round(node.prior, 4))
    if node.kind == "unexpanded":
        return ClosedNode(*head, node.closed) if node.closed else UnexpandedNode(*head)
    own = None if node.own is None else round(node.own, 4)
    counts = (round(node.value, 4), own, node.visits, node.gold, node.is_terminal, node.closed)
    return VisitedNode(*head, *counts) if node.gold else ExpandedNode(*head, *counts, node.reply, node.seeker)


def summary(tree: Tree) -> TreeSize:
    """How large ``tree`` is."""
    nodes = list(tree.nodes())
    expanded = [node for node in nodes if node.kind in ("expanded", "terminal")]
    return TreeSize(
        nodes=len(nodes),
        spoken=sum(not node.gold for node in expanded),
        gold=sum(node.gold for node in expanded),
        ends=len(tree.terminal_nodes()),
        depth=max((len(node.path()) - 1 for node in expanded), default=0),
        closed=sum(node.closed is not None for node in nodes),
        failures=len(tree.failures),
        iterations=tree.iterations,
    )


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name comes, the most frequent first."""
    return dict(Counter(names).most_common())


def task_kind(row: Mapping) -> str:
    """What was asked, by the form of the answer in a line of a log (`grow.to_row`)."""
    kinds = {"failed": "failed", "reply": "supporter", "seeker": "seeker", "quality": "reward", "scores": "strategies"}
    return next(kind for key, kind in kinds.items() if key in row)
