"""Search trees for readers: one drawn, all of them as a page that opens level by level."""

from collections.abc import Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from decoupled_esc.present.figures import source_line
from decoupled_esc.search.export import ExpandedNode, SearchTree, VisitedNode
from decoupled_esc.taxonomy import ESCONV

_SHORT = {s.name: s.abbreviation for s in ESCONV}


def readable(trees: Sequence[SearchTree]) -> SearchTree:
    """The tree to draw, that with fewest expanded nodes: of those with a terminal dialogue beside the gold one, or else of all."""
    ended = [tree for tree in trees if any(node.ends and not node.gold for node in _visited(tree))]
    return min(ended or trees, key=lambda tree: (len(_visited(tree)), tree.id))


def _visited(tree: SearchTree) -> list[VisitedNode]:
    return [node for node in tree.nodes if isinstance(node, VisitedNode)]


def _below(tree: SearchTree) -> dict[str, list[VisitedNode]]:
    """Node -> the visited nodes below it."""
    below: dict[str, list[VisitedNode]] = {node.id: [] for node in _visited(tree)}
    for node in _visited(tree):
        if node.id != "r":
            below[node.id.rpartition(".")[0]].append(node)
    return below


def drawing(tree: SearchTree, source: str) -> Figure:
    """The expanded nodes, from left to right; colour is Q, the number is N, the gold dialogue has a thick rim."""
    nodes, below, height, rows = _visited(tree), _below(tree), {}, 0
    for node in reversed(nodes):  # children, and lower branches, first
        children = [height[child.id] for child in below[node.id]]
        if not children:
            children, rows = [rows], rows + 1
        height[node.id] = sum(children) / len(children)
    figure, axes = plt.subplots(figsize=(8.2, max(2.4, 0.42 * rows + 0.8)))
    for node in nodes[1:]:
        above = node.id.rpartition(".")[0]
        ends = [height[above], height[node.id]]
        axes.plot([above.count("."), node.id.count(".")], ends, color="0.75", linewidth=0.8, zorder=1)
    points = axes.scatter(
        [node.id.count(".") for node in nodes], [height[node.id] for node in nodes], c=[node.value for node in nodes], cmap="cividis", s=420,
        edgecolors=["black" if node.gold else "0.6" for node in nodes], linewidths=[2.2 if node.gold else 0.7 for node in nodes],
        marker="o", zorder=2,
    )  # fmt: skip
    for node in nodes:
        short = "root" if node.id == "r" else _SHORT.get(node.strategy, node.strategy[:2])
        label = f"{short}\n{node.visits}" + ("\nend" if node.ends else "")
        axes.text(node.id.count("."), height[node.id], label, ha="center", va="center", fontsize=6.2, zorder=3,
                  bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75})  # fmt: skip
    axes.set(xlabel="round of the dialogue", yticks=[], ylim=(-0.6, rows - 0.4))
    axes.grid(visible=False)
    figure.colorbar(points, ax=axes, label="Q", fraction=0.03, pad=0.01)
    return source_line(figure, source)


class Explorer:
    """Trees as nested lists that open and close; what people said in the gold dialogues is left out."""

    def __init__(self, trees: Sequence[SearchTree]):
        self.trees = trees

    def _repr_html_(self) -> str:
        return '<div class="tree-explorer">\n' + "\n".join(map(_tree, self.trees)) + "\n</div>"

    def __repr__(self) -> str:
        return f"<Explorer of {len(self.trees)} trees>"


def _tree(tree: SearchTree) -> str:
    nodes = [node for node in _visited(tree) if not node.gold]
    ends = sum(node.ends for node in nodes)
    head = f"{tree.id}: {tree.iterations} iterations, {len(nodes)} expanded nodes, {ends} terminal dialogues"
    return f"<details><summary>{escape(head)}</summary>{_children('r', _below(tree))}</details>"


def _children(name: str, below: Mapping[str, list[VisitedNode]]) -> str:
    items = "".join(f"<li>{_node(node, below)}</li>" for node in below[name])
    return f"<ul>{items}</ul>" if items else ""


def _node(node: VisitedNode, below: Mapping[str, list[VisitedNode]]) -> str:
    own = "" if node.own is None else f", own turn {node.own:.2f}"
    numbers = f"Q {node.value:.2f}, N {node.visits}{own}" + (f", closed: {node.closed}" if node.closed else "")
    said = "a person's turn, not shown"
    if isinstance(node, ExpandedNode):
        said = node.reply if node.seeker is None else f"{node.reply} — seeker: {node.seeker}"
    said += " (end)" if node.ends else ""
    line = f"<b>{escape(node.strategy)}</b> <small>{escape(numbers)}</small> {escape(said)}"
    inner = _children(node.id, below)
    return f"<details{' open' if node.gold else ''}><summary>{line}</summary>{inner}</details>" if inner else line
