"""Search trees for readers: one drawn, all of them as a page that opens level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from decoupled_esc.present.figures import source_line
from decoupled_esc.taxonomy import ESCONV

_SHORT = {s.name: s.abbreviation for s in ESCONV}


def readable(trees: Sequence[Mapping]) -> Mapping:
    """The tree to draw: of those in which a talk beside the gold one came to an end, or else of all, the one with fewest nodes spoken out."""
    ended = [tree for tree in trees if any(node.get("ends") and not node.get("gold") for node in tree["nodes"])]
    return min(ended or trees, key=lambda tree: (len(_spoken(tree)), tree["id"]))


def _spoken(tree: Mapping) -> list[Mapping]:
    return [node for node in tree["nodes"] if "visits" in node]


def drawing(tree: Mapping, source: str) -> Figure:
    """The nodes that were spoken out, from left to right; colour is Q, the number is N, the gold dialogue has a thick rim."""
    nodes = {node["id"]: node for node in _spoken(tree)}
    below: dict[str, list[str]] = {name: [] for name in nodes}
    for name in nodes:
        if name != "r":
            below[name.rpartition(".")[0]].append(name)
    height: dict[str, float] = {}
    rows = 0

    def place(name: str) -> float:
        nonlocal rows
        if below[name]:
            heights = [place(child) for child in below[name]]
            height[name] = sum(heights) / len(heights)
        else:
            height[name], rows = float(rows), rows + 1
        return height[name]

    place("r")
    figure, axes = plt.subplots(figsize=(8.2, max(2.4, 0.42 * rows + 0.8)))
    for name in nodes:
        if name != "r":
            above = name.rpartition(".")[0]
            axes.plot([above.count("."), name.count(".")], [height[above], height[name]], color="0.75", linewidth=0.8, zorder=1)
    names = list(nodes)
    points = axes.scatter(
        [name.count(".") for name in names], [height[name] for name in names], c=[nodes[name]["value"] for name in names], cmap="cividis", s=420,
        edgecolors=["black" if nodes[name]["gold"] else "0.6" for name in names], linewidths=[2.2 if nodes[name]["gold"] else 0.7 for name in names],
        marker="o", zorder=2,
    )  # fmt: skip
    for name in names:
        node = nodes[name]
        short = "root" if name == "r" else _SHORT.get(node["strategy"], node["strategy"][:2])
        label = f"{short}\n{node['visits']}" + ("\nend" if node["ends"] else "")
        axes.text(name.count("."), height[name], label, ha="center", va="center", fontsize=6.2, zorder=3,
                  bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75})  # fmt: skip
    axes.set(xlabel="round of the dialogue", yticks=[], ylim=(rows - 0.4, -0.6))
    axes.grid(visible=False)
    figure.colorbar(points, ax=axes, label="Q", fraction=0.03, pad=0.01)
    return source_line(figure, source)


class Explorer:
    """Trees as nested lists that open and close; what people said in the gold dialogues is left out."""

    def __init__(self, trees: Sequence[Mapping]):
        self.trees = trees

    def _repr_html_(self) -> str:
        return '<div class="tree-explorer">\n' + "\n".join(map(_tree, self.trees)) + "\n</div>"

    def __repr__(self) -> str:
        return f"<Explorer of {len(self.trees)} trees>"


def _tree(tree: Mapping) -> str:
    below: dict[str, list[Mapping]] = {}
    for node in _spoken(tree):
        if node["id"] != "r":
            below.setdefault(node["id"].rpartition(".")[0], []).append(node)
    ends = sum(node["ends"] and not node["gold"] for node in _spoken(tree))
    head = f"{tree['id']}: {tree['iterations']} iterations, {sum(not n['gold'] for n in _spoken(tree))} rounds spoken out, {ends} talks ended"
    return f"<details><summary>{escape(head)}</summary>{_children('r', below)}</details>"


def _children(name: str, below: Mapping[str, list[Mapping]]) -> str:
    return "<ul>" + "".join(f"<li>{_node(node, below)}</li>" for node in below.get(name, [])) + "</ul>" if name in below else ""


def _node(node: Mapping, below: Mapping[str, list[Mapping]]) -> str:
    numbers = f"Q {node['value']:.2f}, N {node['visits']}" + (f", closed: {node['closed']}" if node["closed"] else "")
    if node["gold"]:
        said = "a person's turn, not shown" + (" (end)" if node["ends"] else "")
    else:
        seeker = "" if node["seeker"] is None else f" — seeker: {node['seeker']}"
        said = f"{node['reply']}{seeker}" + (" (ends the talk)" if node["ends"] else "")
    line = f"<b>{escape(node['strategy'])}</b> <small>{escape(numbers)}</small> {escape(said)}"
    inner = _children(node["id"], below)
    return f"<details{' open' if node['gold'] else ''}><summary>{line}</summary>{inner}</details>" if inner else line
