"""A prefix tree that grows turn by turn: one drawing in SVG, moved by CSS alone, in the colour of the text around it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from turn_trees import Example, Packed, pack

WIDTH, LANE, LEFT, RIGHT = 360, 64, 8, 56
"""Of the drawing, in its own units: a phone's width; the height of a branch; the margins, the right one for the last word."""

STYLE = """
#growing-tree{width:100%;max-width:44em;font:10px sans-serif;fill:currentColor}
#growing-tree path{fill:none;stroke:currentColor;stroke-opacity:.45}
#growing-tree .read{fill-opacity:.45}
#growing-tree g{animation:grow .3s both;animation-delay:calc(var(--n)*.12s)}
#growing-tree:hover g,#growing-tree:focus g{animation-name:grow-again}
@keyframes grow{from{opacity:0}}
@keyframes grow-again{from{opacity:0}}
@media(prefers-reduced-motion:reduce){#growing-tree g{animation:none}}
"""
"""The movement has two names, as a change of name starts it again: under a pointer, a finger, or with the keyboard."""


class GrowingTree:
    """The tree of ``examples``, a dot and a word for each token, in the order in which the turns bring them.

    ``words`` are the texts of the token ids; ``alt`` says what is drawn, and is the text form.  Dots from which a token of
    an answer is predicted are full.
    """

    def __init__(self, examples: Sequence[Example], words: Sequence[str], alt: str):
        tree, self.alt = pack(examples), alt
        above, lanes = branches(tree)
        order, step = reading_order(tree, above), (WIDTH - LEFT - RIGHT) / max(1, *tree.depths)
        places = [
            (round(LEFT + step * depth, 1), LANE * (lane + 1)) for depth, lane in zip(tree.depths, lanes, strict=True)
        ]
        drawn = []
        for n, (x, y) in enumerate(places):
            from_x, from_y = places[above[n]] if above[n] >= 0 else (x, y)
            word = words[tree.tokens[n]]
            slope = "rotate(-42)" if len(word) > 1 else ""  # an arrow points where it points
            kind = "" if n in tree.predict_positions else ' class="read"'
            drawn.append(
                f'<g style="--n:{order[n]}"><path d="M{from_x} {from_y}L{x} {y}"/><circle{kind} cx="{x}" cy="{y}" r="3"/>'
                f'<text transform="translate({x} {y - 7}){slope}">{escape(word)}</text></g>'
            )
        height = LANE * (max(lanes) + 1) + 36
        apart = sum(len(example.prompt) + len(answer) - 1 for example in examples for answer in example.answers)
        count = f"{len(tree)} tokens are read here; {apart} in a row for each turn"
        drawn.append(f'<g style="--n:{len(tree)}"><text x="{LEFT}" y="{height - 8}">{count}</text></g>')
        self._html = (
            f'<svg id="growing-tree" role="img" tabindex="0" aria-label="{escape(alt)}" viewBox="0 0 {WIDTH} {height}" '
            f'xmlns="http://www.w3.org/2000/svg"><style>{STYLE}</style>{"".join(drawn)}</svg>'
        )

    def __repr__(self) -> str:
        return f"<GrowingTree {self.alt}>"

    def _repr_html_(self) -> str:
        return self._html


def branches(tree: Packed) -> tuple[list[int], list[int]]:
    """([L] the token above each, or -1; [L] the line it is drawn on): the longest way down goes on in its line."""
    above: list[int] = []
    path: list[int] = []
    for index, depth in enumerate(tree.depths):
        del path[depth:]
        above.append(path[-1] if path else -1)
        path.append(index)
    reach = list(tree.depths)
    for index in reversed(range(len(tree))):
        if above[index] >= 0:
            reach[above[index]] = max(reach[above[index]], reach[index])
    heirs: dict[int, int] = {}
    for index, parent in enumerate(above):
        if parent not in heirs or reach[index] > reach[heirs[parent]]:
            heirs[parent] = index
    lanes: list[int] = []
    for index, parent in enumerate(above):
        own = lanes[parent] if parent >= 0 else 0
        lanes.append(own if heirs[parent] == index else max(lanes, default=0) + 1)
    return above, lanes


def reading_order(tree: Packed, above: Sequence[int]) -> list[int]:
    """[L] When each token comes: answer by answer, and from the root down."""
    found: dict[int, int] = {}
    last = dict(zip(tree.completion_index, tree.predict_positions, strict=True))
    for index in (last[answer] for answer in range(tree.answers)):
        line = []
        while index >= 0:
            line.append(index)
            index = above[index]
        for one in reversed(line):
            found.setdefault(one, len(found))
    return [found[index] for index in range(len(tree))]
