"""A grown tree as plain data: for drawing, and for readers of the book.

What people said in the gold dialogue is a corpus's, and is left out: its nodes carry strategies and numbers alone.
"""

from __future__ import annotations

from decoupled_esc.search.tree import Node, Tree


def exported(tree: Tree, name: str) -> dict:
    """``{"id", "iterations", "finished", "nodes": [...]}``, parents before children.

    A node that nobody has spoken out has an id, a strategy and a prior only.
    """
    return {
        "id": name,
        "iterations": tree.iterations,
        "finished": tree.finished,
        "nodes": [_node(node) for node in tree.nodes()],
    }


def _node(node: Node) -> dict:
    row = {"id": node.id, "strategy": node.strategy, "prior": round(node.prior, 4)}
    if node.kind == "unexpanded":
        return row | ({"closed": node.closed} if node.closed else {})
    row |= {"value": round(node.value, 4), "visits": node.visits, "gold": node.gold, "ends": node.ends, "closed": node.closed}
    return row if node.gold else row | {"reply": node.reply, "seeker": node.seeker}


def summary(tree: Tree) -> dict:
    """How large a tree is: nodes, those spoken out (the gold ones apart), talks that ended, depth in rounds, branches closed."""
    nodes = list(tree.nodes())
    spoken = [node for node in nodes if node.kind in ("expanded", "end")]
    return {
        "nodes": len(nodes),
        "spoken": sum(not node.gold for node in spoken),
        "gold": sum(node.gold for node in spoken),
        "ends": len(tree.ends()),
        "depth": max(len(node.path()) - 1 for node in spoken) if spoken else 0,
        "closed": sum(node.closed is not None for node in nodes),
        "failures": len(tree.failures),
        "iterations": tree.iterations,
    }
