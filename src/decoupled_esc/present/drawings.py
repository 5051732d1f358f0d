"""Drawings of the methods: SVG in the colour of the text around it, so that it is right in every theme, and wide as a phone.

No number is typed in here: counts come from results.  What is drawn stands in words in each drawing's ``desc``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from decoupled_esc import mining

if TYPE_CHECKING:
    from decoupled_esc.experiments.preferences import MinedPairs

WIDTH, LINE = 340, 15
"""Of every drawing, in its own units: a phone's column, so that letters of 12 units have 12 pixels there; the height of a line."""
LOOK = "font:12px sans-serif;fill:currentColor;width:100%;max-width:28rem;display:block"


@dataclass(frozen=True, repr=False)
class Diagram:
    """``shapes`` is what stands inside the ``svg`` element; ``title`` and ``text`` say it to those who don't see it."""

    name: str
    title: str
    text: str
    height: float
    shapes: str

    def __repr__(self) -> str:
        return f"<Diagram {self.title}>"

    def _repr_html_(self) -> str:
        name, title = f"drawing-{self.name}", escape(self.title)
        return (
            f'<svg class="drawing" id="{name}" role="img" aria-label="{title}" aria-describedby="{name}-text" style="{LOOK}" '
            f'viewBox="0 0 {WIDTH} {self.height:g}" xmlns="http://www.w3.org/2000/svg"><title>{title}</title>'
            f'<desc id="{name}-text">{escape(self.text)}</desc>{self.shapes}</svg>'
        )


def show(key: str, diagram: Diagram) -> None:
    """Display ``diagram`` in the notebook and keep it under ``key`` for the book's ``{glue:figure}``."""
    from myst_nb import glue

    glue(key, diagram)


def pipeline(dialogues: Mapping[str, int], turns: int, pairs: Mapping[str, int], searched: int | None) -> Diagram:
    """What is made from what, chapter by chapter.

    ``dialogues``: by split; ``turns``: in the test split; ``pairs``: mined, by kind; ``searched``: pairs of turns, None where
    nothing was searched.
    """
    lane, right = 162, WIDTH - 162
    splits = " / ".join(f"{dialogues[split]:,}" for split in ("train", "validation", "test"))
    found = f"{searched:,} pairs of turns" if searched is not None else "pairs of turns"
    mined = [f"{pairs[kind]:,} {name}" for kind, name in (("strategy", "of strategies"), ("response", "of replies"), ("vanilla", "of whole turns"))]  # fmt: skip
    boxes = (
        (0, 0, WIDTH, ("ESConv · chapter 01", f"{splits} dialogues: train, validation, test")),
        (0, 62, WIDTH, ("Fine-tuning (SFT) · chapter 02", "coupled model, planner, generator")),
        (0, 146, lane, ("Mining (IPM) · 04", "a model's own replies,", "where worse than gold")),
        (right, 146, lane, ("Tree search · 05", "other replies around", "gold dialogues")),
        (0, 223, lane, ("Preference pairs", *mined)),
        (right, 223, lane, ("ESC-Pro", found, "each against a", "worse sibling")),
        (0, 315, lane, ("DPO · 06, 07", "planner and generator,", "or the coupled model")),
        (right, 315, lane, ("CSO · 13", "the coupled model,", "turn by turn")),
        (0, 392, WIDTH, ("Replies and metrics · chapter 08", f"{turns:,} test turns, every system, several seeds")),
        (0, 454, WIDTH, ("Answers · chapters 09 to 13", "claim by claim, with intervals; all numbers: the report")),
    )  # fmt: skip
    ways = [(WIDTH / 2, 47, 62), (WIDTH / 2, 439, 454)]
    for x in (lane / 2, right + lane / 2):
        ways += [(x, 136, 146), (x, 208, 223), (x, 300, 315), (x, 377, 392)]
    names = "".join(
        _words(x, 131, name, "middle", bold=True) + f'<path d="M{x:g} 109v9" stroke="currentColor" stroke-width="1.2"/>'
        for x, name in ((lane / 2, "DecoupledESC"), (right + lane / 2, "CSO"))
    )
    shapes = "".join(_box(*box) for box in boxes) + "".join(_arrow((x, top), (x, end)) for x, top, end in ways) + names
    text = (
        f"From top to bottom. ESConv's dialogues ({splits}) fine-tune a coupled model, a planner and a generator. Then two ways part. DecoupledESC "
        f"mines the models' own replies into {', '.join(mined)}, and trains planner and generator, or the coupled model, on them. CSO searches other "
        f"replies around gold dialogues into {found}, and trains the coupled model on them. All systems answer {turns:,} test turns, and are compared."
    )
    return Diagram("pipeline", "The pipeline of both papers, with chapters", text, 502, shapes)


def paradigms() -> Diagram:
    """The coupled and the decoupled system side by side, after Figure 5 of DecoupledESC: who reads, writes and learns what."""
    lane, right = 158, WIDTH - 170
    middle = lane / 2
    inner = right + 60
    shapes = [
        _words(middle, 13, "Coupled (vanilla)", "middle", bold=True),
        _box(0, 26, lane, ("conversation",), plain=True),
        _box(0, 82, lane, ("one model", "", "learns by DPO from", "pairs of whole turns:", "strategy and reply are", "rejected together"), 150),
        _box(0, 264, lane, ("[strategy] reply",), plain=True),
        _arrow((middle, 52), (middle, 82)),
        _arrow((middle, 232), (middle, 264)),
        _words(right + 85, 13, "Decoupled", "middle", bold=True),
        _box(right, 26, 170, ("conversation",), plain=True),
        _box(right, 82, 150, ("planner", "learns by DPO from", "pairs of strategies"), 56),
        _box(right, 176, 150, ("generator", "learns by DPO from", "pairs of replies"), 56),
        _box(right, 264, 170, ("reply",), plain=True),
        _arrow((inner, 52), (inner, 82)),
        _arrow((inner, 138), (inner, 176)),
        _words(inner + 8, 161, "strategy"),
        _arrow((right + 161, 52), (right + 161, 204), (right + 150, 204)),
        _arrow((inner, 232), (inner, 264)),
    ]  # fmt: skip
    text = (
        "Left: one model reads the conversation and writes strategy and reply at once; it learns by DPO from pairs of whole turns, so that one part is "
        "rejected along with the other. Right: a planner reads the conversation and names a strategy; a generator reads conversation and strategy and writes the reply; each "
        "learns by DPO from pairs of its own kind."
    )
    return Diagram("paradigms", "A coupled and a decoupled system", text, 292, "".join(shapes))


@dataclass(frozen=True)
class Flow:
    """``count`` samples that came to the same end; ``learns``: which model learns from them as the rejected side of a pair, if any."""

    label: str
    count: int
    learns: str | None


def flows(pairs: MinedPairs) -> dict[str, list[Flow]]:
    """Role -> what became of its samples on the training turns; counts of a role sum to its samples.

    Reasons of less than a hundredth of the samples stand together as the last.
    """
    kept = {
        "planner": {"not the gold strategy": pairs.pairs["strategy"]},
        "generator": {label: pairs.errors["response"].get(label, 0) for label in mining.FILTERED},
        "vanilla": {name: sum(labels.values()) for name, labels in pairs.filters["this book"].items()},
    }
    found = {}
    for (role, ends), kind in zip(kept.items(), ("strategy", "response", "vanilla"), strict=True):
        small = 0.01 * pairs.samples[role] * pairs.turns
        left = {why: count for why, count in pairs.left[kind].items() if count >= small}
        rest = sum(pairs.left[kind].values()) - sum(left.values())
        dropped = left | ({"other reasons": rest} if rest else {})
        learner = "coupled model" if role == "vanilla" else role
        found[role] = [Flow(label, count, learner) for label, count in ends.items() if count]
        found[role] += [Flow(why, count, None) for why, count in dropped.items()]
    return found


TITLES = {"planner": "Planner: strategies", "generator": "Generator: replies under gold", "vanilla": "Coupled model: whole turns"}  # fmt: skip
ENDS = {
    "PsNr": "PsNr: strategy right, reply not",
    "NsPr": "NsPr: reply sound, strategy not",
    "NsNr": "NsNr: both wrong",
}


def routing(pairs: MinedPairs) -> Diagram:
    """Inferential Preference Mining as a Sankey diagram: which samples teach whom (`flows`), all widths at one scale."""
    found = flows(pairs)
    scale = 190 / max(sum(flow.count for flow in ends) for ends in found.values())
    y, shapes, told = 0.0, [], []
    for role, ends in found.items():
        total = sum(flow.count for flow in ends)
        shapes.append(_words(0, y + 12, f"{TITLES[role]}, {total:,} sampled", bold=True))
        y += 22
        labels = [wrap(ENDS.get(flow.label, flow.label), 26) for flow in ends]
        slots = [max(flow.count * scale, LINE * (len(lines) + 1)) + 6 for flow, lines in zip(ends, labels, strict=True)]
        start = y + (sum(slots) - total * scale) / 2
        shapes.append(f'<rect x="0" y="{start:.1f}" width="9" height="{total * scale:.1f}"/>')
        for flow, lines, slot in zip(ends, labels, slots, strict=True):
            high, place = flow.count * scale, y + (slot - flow.count * scale) / 2
            shapes.append(_ribbon(10, start, 118, place, high, flow.learns is not None))
            goes = f"{flow.count:,} → {flow.learns}" if flow.learns else f"{flow.count:,}, no pair"
            top = y + slot / 2 - LINE * (len(lines) + 1) / 2 + 11
            shapes.append(_words(134, top, goes, bold=flow.learns is not None))
            shapes += [_words(134, top + LINE * n, line) for n, line in enumerate(lines, 1)]
            start, y = start + high, y + slot
        y += 14
        told.append(f"{TITLES[role]}, {total:,} sampled: " + "; ".join(f"{flow.label} {flow.count:,}, {f'a pair for the {flow.learns}' if flow.learns else 'no pair'}" for flow in ends) + ".")  # fmt: skip
    return Diagram(
        "routing", "What becomes of the sampled strategies and replies", " ".join(told), y - 8, "".join(shapes)
    )


PHASES = {
    "1 Select": ("down to the child with", "the largest PUCB"),
    "2 Expand": ("a child per strategy,", "each with its prior P"),
    "3 Roll out": ("on from the largest P;", "each turn earns r"),
    "4 Back up": ("N + 1, and the mean r", "into Q, up to the root"),
}
TREE = {"r": (80, 36), "a": (38, 72), "b": (80, 72), "c": (122, 72), "d": (20, 108), "e": (56, 108)}
PATH, GROWN = ("r", "a", "e"), ((34, 144), (56, 144), (78, 144))


def search_phases() -> Diagram:
    """The four phases of one iteration of the search, on one small tree."""
    shapes = []
    for number, (title, caption) in enumerate(PHASES.items()):
        x, y = 174 * (number % 2), 204 * (number // 2)
        inner = [_words(0, 13, title, bold=True), *(_words(0, 172 + LINE * n, line) for n, line in enumerate(caption))]
        inner += [_edge(TREE[above], TREE[below]) for above, below in ("ra", "rb", "rc", "ad", "ae")]
        if number:
            inner += [_edge(TREE["e"], place, bold=number == 1) for place in GROWN]
            inner += [_node(place, bold=number == 1) for place in GROWN]
        if number == 0:
            inner += [_arrow(*_between(TREE[above], TREE[below]), bold=True) for above, below in ("ra", "ae")]
        if number >= 2:
            chain = [GROWN[2], (108, 144), (138, 144)]
            inner += [_edge(TREE["e"], GROWN[2], bold=number == 2)]
            inner += [_edge(*ends, bold=number == 2) for ends in zip(chain, chain[1:], strict=False)]
            inner += [_node(place, bold=number == 2) for place in chain]
        if number == 2:
            inner += [_words(place, 132, "r", "middle") for place, _ in chain]
        if number == 3:
            way = [chain[2], chain[1], GROWN[2], TREE["e"], TREE["a"], TREE["r"]]
            inner += [_arrow(*_between(*ends), bold=True) for ends in zip(way[:-1], way[1:], strict=True)]
            inner += [_words(90, 30, "Q, N"), _words(4, 66, "Q, N"), _words(66, 104, "Q, N")]
        inner += [_node(place, bold=name in PATH and number in (0, 3)) for name, place in TREE.items()]
        shapes.append(f'<g transform="translate({x} {y})">{"".join(inner)}</g>')
    text = " ".join(f"{title}: {' '.join(lines)}." for title, lines in PHASES.items())
    return Diagram("phases", "The four phases of one iteration of the search", text, 396, "".join(shapes))


def _words(x: float, y: float, text: str, anchor: str = "start", *, bold: bool = False) -> str:
    weight = ' font-weight="700"' if bold else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _box(x: float, y: float, width: float, lines: Sequence[str], height: float = 0, plain: bool = False) -> str:
    """Lines of text in a frame, the first one bold; ``plain`` is for what goes in or comes out: round, nothing bold."""
    height, middle = height or LINE * len(lines) + (11 if plain else 17), x + width / 2
    top = y + (height - LINE * len(lines)) / 2 + 11.5
    texts = "".join(
        _words(middle, top + LINE * n, line, "middle", bold=not n and not plain) for n, line in enumerate(lines) if line
    )
    frame = f'rx="{13 if plain else 4}" fill="currentColor" fill-opacity="{0 if plain else 0.08}" stroke="currentColor" stroke-opacity=".6"'
    return f'<rect x="{x + 0.5:g}" y="{y + 0.5:g}" width="{width - 1:g}" height="{height - 1:g}" {frame}/>{texts}'


def _arrow(*points: tuple[float, float], bold: bool = False) -> str:
    """A line through ``points`` with a head at the last."""
    (from_x, from_y), (x, y) = points[-2:]
    length = ((x - from_x) ** 2 + (y - from_y) ** 2) ** 0.5
    dx, dy = (x - from_x) / length, (y - from_y) / length
    left, right = ((x - 7 * dx + side * 4 * dy, y - 7 * dy - side * 4 * dx) for side in (1, -1))
    head = f"M{x:.1f} {y:.1f}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}Z"
    line = "L".join(f"{px:g} {py:g}" for px, py in (*points[:-1], (round(x - 5 * dx, 1), round(y - 5 * dy, 1))))
    return (
        f'<path d="M{line}" fill="none" stroke="currentColor" stroke-width="{2 if bold else 1.2}"/><path d="{head}"/>'
    )


def _between(start: tuple[float, float], end: tuple[float, float]) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of a line between two nodes that neither covers."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    part = 9 / (dx * dx + dy * dy) ** 0.5
    a, b = (
        (round(x + sign * part * dx, 1), round(y + sign * part * dy, 1)) for (x, y), sign in ((start, 1), (end, -1))
    )
    return a, b


def _edge(start: tuple[float, float], end: tuple[float, float], bold: bool = False) -> str:
    (x, y), (to_x, to_y) = _between(start, end)
    look = f'stroke-width="{2 if bold else 1}" stroke-opacity="{1 if bold else 0.5}"'
    return f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" fill="none" stroke="currentColor" {look}/>'


def _node(place: tuple[float, float], bold: bool = False) -> str:
    """A circle; full where the phase is about it."""
    look = "" if bold else ' fill-opacity="0.12" stroke="currentColor" stroke-opacity=".7"'
    return f'<circle cx="{place[0]}" cy="{place[1]}" r="7"{look}/>'


def _ribbon(x: float, y: float, to_x: float, to_y: float, height: float, kept: bool) -> str:
    """A band from the left to the right, at least a hair wide; darker, with a rim, where it is ``kept``."""
    height, middle = max(height, 0.8), (x + to_x) / 2
    shape = (
        f"M{x:g} {y:.1f}C{middle:g} {y:.1f} {middle:g} {to_y:.1f} {to_x:g} {to_y:.1f}v{height:.1f}"
        f"C{middle:g} {to_y + height:.1f} {middle:g} {y + height:.1f} {x:g} {y + height:.1f}z"
    )
    look = 'fill-opacity=".55" stroke="currentColor" stroke-width=".8"' if kept else 'fill-opacity=".15"'
    return f'<path d="{shape}" {look}/>'
