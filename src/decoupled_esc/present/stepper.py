"""A small search, step by step: the library's own `search.tree` on a made-up dialogue, recorded while it runs.

Nothing here computes Q, N or PUCB: they are read from the tree between two answers.  The drawing of the last step and a
table stand in the page; the book's script goes through the steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from decoupled_esc.corpus import Message
from decoupled_esc.present.explorers import Explorer, plain_table
from decoupled_esc.search.tree import Constants, Node, Quality, SeekerTurn, Task, Tree, pucb, reward
from decoupled_esc.taxonomy import ESCONV

SHORT = {one.name: one.abbreviation for one in ESCONV}
STRATEGIES = ("Question", "Reflection of feelings", "Providing Suggestions")
GOLD = (
    Message("seeker", "-"), Message("supporter", "-", "Question"),
    Message("seeker", "-"), Message("supporter", "-", "Providing Suggestions"),
)  # fmt: skip
CONSTANTS = Constants(
    exploration=1.0, prior_temperature=5.0, strategy_weight=7.0, bias=-3.0, rollout=1, own_turn=True, gold_value=None,
    gold_visits=1, min_iterations=5, max_iterations=5, max_terminal_nodes=25, max_depth=3, parallel_simulations=1,
)  # fmt: skip
"""CSO's but for a shorter search, in which every turn is judged, the gold dialogue's too."""
QUALITY = {
    "Question": (3.6, 3.1, 2.7),
    "Reflection of feelings": (3.8, 3.5, 3.0),
    "Providing Suggestions": (2.5, 3.3, 3.9),
}
"""Strategy -> score (0 to 4) of a turn under it in the first, second and third round."""
ADVICE = (4.0, 2.0, 3.0)
"""Scores of the strategies by an adviser that always likes questions."""


@dataclass(frozen=True)
class Step:
    """What the tree was at one moment.

    ``nodes``: id -> (Q, N, PUCB where it was compared, else None); ``path``: the nodes that the step is about.
    """

    iteration: int
    phase: str
    text: str
    nodes: dict[str, tuple[float, int, float | None]]
    path: tuple[str, ...]


def answer(task: Task) -> str | SeekerTurn | tuple[float, ...] | Quality:
    """What the four roles of the made-up world say."""
    said = [message for message in task.history if message.role == "supporter"]
    if task.kind == "supporter":
        return f"reply {task.id}"
    if task.kind == "seeker":
        return SeekerTurn(None if len(said) == 3 else "-", len(said) == 3)
    if task.kind == "strategies":
        return ADVICE
    return Quality(None, None, None, QUALITY[said[-1].strategy][len(said) - 1])


def record(tree: Tree) -> list[Step]:
    """Tell ``tree`` what `answer` says until it is finished; the steps of its iterations, without the gold dialogue's."""
    steps: list[Step] = []
    rewards: list[tuple[str, float]] = []
    while not tree.finished:
        number, visits = tree.iterations, {node.id: node.visits for node in tree.nodes()}
        task = tree.ask()[0]
        told = answer(task)
        tree.tell(task.id, told)
        if number and isinstance(told, Quality):
            rewards.append((SHORT[task.history[-1].strategy], reward(told, tree.constants)))
        if number and (grown := [node for node in tree.nodes() if node.id not in visits]):
            priors = ", ".join(f"{SHORT[node.strategy]} {node.prior:.2f}" for node in grown)
            text = f"The leaf gets a child per strategy, with the adviser's P: {priors}."
            steps.append(_step(tree, number, "expand", text, [grown[0].parent, *grown]))
        if not tree.finished and tree.iterations == number:
            continue
        if number:
            steps += _ending(
                tree, number, [node for node in tree.nodes() if node.visits != visits[node.id]], rewards, steps[-1]
            )
            rewards.clear()
        if not tree.finished:
            steps.append(_selection(tree))
    return steps


def _ending(tree: Tree, number: int, raised: list[Node], rewards: list[tuple[str, float]], before: Step) -> list[Step]:
    """What an iteration earned, as the tree was ``before``, and the tree after that went up to the nodes ``raised``."""
    mean = sum(value for _, value in rewards) / len(rewards)
    judged = ", ".join(f"{short} {value:.2f}" for short, value in rewards)
    earned = f"The turns of this simulation earn {judged}; their mean is {mean:.2f}."
    rolled = replace(before, phase="roll out", text=earned, path=tuple(node.id for node in raised))
    text = f"On the way N rises by one, and Q becomes the mean of all that went through a node, {mean:.2f} the latest."
    return [rolled, _step(tree, number, "back up", text, raised)]


def _selection(tree: Tree) -> Step:
    """The way down that an iteration has begun with, and the PUCB of every child that was compared on it."""
    path = [node for node in tree.nodes() if node.passing]
    compared = {}
    for node in path:
        above = replace(node, passing=0)  # it had not set out when it chose
        compared |= {child.id: pucb(replace(child, passing=0, parent=above), tree.constants) for child in node.children}
    way = " → ".join(SHORT.get(node.strategy, "root") for node in path)
    over = " There the dialogue is over." if path[-1].is_terminal else ""
    text = f"Down from the root, always to the child with the largest PUCB: {way}.{over}"
    return _step(tree, tree.iterations, "select", text, path, compared)


def _step(
    tree: Tree, iteration: int, phase: str, text: str, path: Sequence[Node], compared: dict[str, float] | None = None
) -> Step:
    nodes = {node.id: (node.value, node.visits, (compared or {}).get(node.id)) for node in tree.nodes()}
    return Step(iteration, phase, text, nodes, tuple(node.id for node in path))


COLUMN, LINE, LEFT, RADIUS, STEM = 104, 34, 14, 11, 74
"""Of the drawing: the width of a round, the height of a leaf, the margin, a circle's radius, the line to its right."""


def search() -> Explorer:
    """The steps of a search of five iterations, to go through one by one."""
    tree = Tree(GOLD, STRATEGIES, CONSTANTS)
    steps = record(tree)
    nodes = list(tree.nodes())
    places = {node.id: place for place, node in enumerate(nodes)}
    data = []
    for step in steps:
        shown = [[places[id], *_numbers(*found)] for id, found in step.nodes.items()]
        data.append([f"Iteration {step.iteration}, {step.phase}", step.text, shown, [places[id] for id in step.path]])
    told = [(f"{step.iteration}", step.phase, step.text) for step in steps]
    head = ("iteration", "phase", "what happens")
    table = plain_table(
        head, told, "A search of a made-up dialogue, step by step; computed by the library's search, without intervals."
    )
    text = f"{len(steps)} steps of a search"
    return Explorer(
        "search",
        {"steps": data},
        text,
        f"{_drawing(nodes, steps[-1])}<details><summary>All steps as a table</summary>{table}</details>",
    )


def _numbers(value: float, visits: int, compared: float | None) -> list[str]:
    return [f"Q {value:.2f} N {visits}", "" if compared is None else f"PUCB {compared:.2f}"]


def _drawing(nodes: Sequence[Node], last: Step) -> str:
    """All nodes from left to right, with the numbers of the ``last`` step."""
    height: dict[str, float] = {}
    rows = 0
    for node in reversed(nodes):
        if node.children:
            height[node.id] = sum(height[child.id] for child in node.children) / len(node.children)
        else:
            height[node.id], rows = rows, rows + 1
    place = {id: (LEFT + COLUMN * id.count("."), LINE * (rows - row - 0.5)) for id, row in height.items()}
    drawn = []
    for node in nodes:
        x, y = place[node.id]
        line = ""
        if node.parent:
            from_x, from_y = place[node.parent.id]
            # It begins level, between two lines of text.
            line = f"M{from_x + RADIUS:g} {from_y:g}H{from_x + STEM:g}L{x - RADIUS:g} {y:g}"
        numbers, compared = _numbers(*last.nodes[node.id])
        drawn.append(
            f'<g><path d="{line}"/><circle cx="{x:g}" cy="{y:g}" r="{RADIUS}"/>'
            f'<text x="{x:g}" y="{y + 3:g}" text-anchor="middle">{SHORT.get(node.strategy, "·")}</text>'
            f'<text x="{x + RADIUS + 2:g}" y="{y - 3:g}">{numbers}</text>'
            f'<text x="{x + RADIUS + 2:g}" y="{y + 10:g}">{compared}</text></g>'
        )
    width = LEFT + COLUMN * max(id.count(".") for id in place) + STEM
    said = "A tree of dialogues from left to right; each circle is a round under a strategy, with Q, N and PUCB."
    return (
        f'<svg class="explorer-tree" role="img" aria-label="{said}" viewBox="0 0 {width:g} {LINE * rows:g}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(drawn)}</svg>'
    )
