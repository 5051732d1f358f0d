"""Differences as pictures: what a paper reports, hollow, above what was measured here; right of the line speaks for the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import pandas as pd

from decoupled_esc.evaluate import Estimate
from decoupled_esc.present.rows import WithRows, slug
from decoupled_esc.present.tables import format_estimate

BACKBONES = {"qwen2.5-7b": "Qwen", "llama3.1-8b": "Llama", "gemma2-9b": "Gemma"}
MARKS = (
    "hollow: the paper's backbones (circle Qwen2.5-7B, square Llama-3.1-8B, triangle Gemma-2-9B); below them ours with a 95% "
    "interval, small dots for single seeds; right of the line speaks for the claim; a band is what chance makes on the paper's test "
    "set's turns; every row has a scale of its own"
)
"""What a caption says of the marks."""


@dataclass(frozen=True)
class ForestRow:
    """One difference that should have ``sign`` (1 or -1)."""

    claim: str
    sign: int
    ours: Estimate | None
    single: Sequence[float]
    """Under each seed."""
    answer: str
    printed: Mapping[str, float] = field(default_factory=dict)
    """Backbone -> the paper's difference."""
    chance: float | None = None
    """How large a difference chance alone makes on the paper's test set."""
    key: str = ""
    """The metric."""
    note: str = ""
    """In small print below the claim."""
    decimals: int = 1
    about: str = ""
    """Which question of which paper."""
    page: str = ""
    """The chapter that decides, without an ending."""
    by_backbone: Mapping[str, ForestRow] = field(default_factory=dict)
    """Where several backbones of ours were measured (`questions.side_by_side`): the same claim's row of each, this one's first."""
    across: str = ""
    """What their answers come to (`questions.answer_across`)."""
    why: str = ""
    """What the answer alone would not tell, in a few words (`questions.reasons`)."""


@dataclass(frozen=True, repr=False)
class Forest(WithRows):
    """A row for every difference; Jupyter shows it as a table with a small picture in every row."""

    rows: tuple[ForestRow, ...]
    caption: str

    def __repr__(self) -> str:
        return "\n".join(f"{row.about}: {row.claim}: {row.answer}" for row in self.rows)

    def to_frame(self) -> pd.DataFrame:
        """A line per difference: what it should be, the papers', ours with its interval, under each seed, and the answer."""
        return pd.DataFrame(map(_row, self.rows))

    def body(self) -> str:
        titles = ("claim", "papers (hollow) and here", "answer")
        head = "".join(f'<th scope="col">{name}</th>' for name in (("",) if self._about else ()) + titles)
        body = "\n".join(self._line(row) for row in self.rows)
        return (
            f'<div class="claim-board"><table><caption>{escape(self.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )

    @property
    def _about(self) -> bool:
        return any(row.about for row in self.rows)

    def _line(self, row: ForestRow) -> str:
        claim = escape(row.claim) + (f" <span>{escape(row.note)}</span>" if row.note else "")
        head = (
            f'<th scope="row">{escape(row.about)}</th><td>{claim}</td>'
            if self._about
            else f'<th scope="row">{claim}</th>'
        )
        said = row.across or row.answer
        answer = f'<a href="{row.page}.html">{escape(said)}</a>' if row.page else escape(said)
        ours = f" <span>{format_estimate(row.ours, row.decimals, sign='+')}</span>" if row.ours else ""
        ours += f" <span>{escape(row.why)}</span>" if row.why else ""
        if row.by_backbone:
            ours = "".join(f" <span>{escape(_told(name, one))}</span>" for name, one in row.by_backbone.items())
        return f'<tr id="{_anchor(row)}">{head}<td>{picture(row)}</td><td>{answer}{ours}</td></tr>'


def _anchor(row: ForestRow) -> str:
    return slug(f"verdict {row.about} {row.claim} {row.key}")


def _row(row: ForestRow) -> dict:
    papers = {f"paper, {BACKBONES.get(name, name)}": value for name, value in row.printed.items()}
    ours = row.ours
    found = {"here": ours and ours.value, "low": ours and ours.low, "high": ours and ours.high}
    seeds = {f"here, seed {number}": value for number, value in enumerate(row.single, start=1)}
    should = {"about": row.about, "claim": row.claim, "metric": row.key, "sign": row.sign}
    said = {"answer": row.answer, "why": row.why, "anchor": _anchor(row)}
    return {**should, **papers, "chance": row.chance, **found, **seeds, **said}


def _told(name: str, row: ForestRow) -> str:
    """``esc-base +1.0 [+0.5, +1.5]: supported``, the numbers on one line."""
    why = f" ({row.why})" if row.why else ""
    return f"{name} {format_estimate(row.ours, row.decimals, sign='+')}".replace(" ", NO_BREAK) + f": {row.answer}{why}"


NO_BREAK = "\N{NO-BREAK SPACE}"


def marks(rows: Sequence[ForestRow]) -> str:
    """What a caption says of the marks of ``rows``: `MARKS`, and which is whose where there are several backbones of ours."""
    names = backbones(rows)
    return f"{MARKS}; ours from above: {', '.join(names)}" if names else MARKS


def backbones(rows: Sequence[ForestRow]) -> list[str]:
    """Ours that stand side by side in ``rows``, in order; none where there is one alone."""
    return list(dict.fromkeys(name for row in rows for name in row.by_backbone))


WIDTH, HEIGHT, EDGE = 240, 34, 8
LINE = 15
"""Between the backbones of ours."""


def picture(row: ForestRow) -> str:
    """The row as SVG: the papers' differences above ours with its interval and the single seeds; a dash where nothing was measured.

    Several backbones of ours stand one below the other, on one scale.
    """
    every = row.by_backbone or {"": row}
    here = [(n, name, one) for n, (name, one) in enumerate(every.items()) if one.ours is not None]
    if not here:
        return "–"
    found = [value for *_, one in here for value in (*_ends(one.ours), *one.single)]
    widest = max(map(abs, (*found, *row.printed.values(), row.chance or 0.0))) or 1.0
    height = HEIGHT + LINE * (len(every) - 1)

    def x(value: float) -> float:
        return round(WIDTH / 2 + row.sign * value / widest * (WIDTH / 2 - EDGE), 1)

    papers = "".join(_mark(number, x(value)) for number, value in enumerate(row.printed.values()))
    band = (
        f'<rect class="chance" x="{x(-row.sign * row.chance)}" y="3" width="{2 * (x(row.sign * row.chance) - WIDTH / 2):.1f}" height="12"/>'
        if row.chance
        else ""
    )

    def ours(one: ForestRow, y: int) -> str:
        low, high = map(x, _ends(one.ours))
        seeds = "".join(
            f'<circle cx="{x(value)}" cy="{y}" r="2.2" opacity="0.6"/>' for value in one.single if len(one.single) > 1
        )
        return (
            f'<line x1="{low}" y1="{y}" x2="{high}" y2="{y}"/><circle cx="{x(one.ours.value)}" cy="{y}" r="4"/>{seeds}'
        )

    groups = "".join(f'<g class="here{" other" * (n > 0)}">{ours(one, 24 + LINE * n)}</g>' for n, _, one in here)
    measured = "; ".join(
        f"{name or 'here'} {format_estimate(one.ours, row.decimals, sign='+')}" for _, name, one in here
    )
    printed = ", ".join(f"{BACKBONES.get(name, name)} {value:+.{row.decimals}f}" for name, value in row.printed.items())
    printed += f", chance there ±{row.chance:.{row.decimals}f}" if row.chance else ""
    said = f"papers: {printed or 'no number'}; {measured}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<line x1="{WIDTH / 2}" y1="1" x2="{WIDTH / 2}" y2="{height - 1}" class="zero"/>{band}'
        f'<g class="papers">{papers}</g>{groups}</svg>'
    )


def _ends(estimate: Estimate) -> tuple[float, float]:
    """The ends of the interval, or twice the value where there is none."""
    return (estimate.value,) * 2 if estimate.low is None else (estimate.low, estimate.high)


def _mark(number: int, x: float) -> str:
    """A circle, a square or a triangle around ``x``: the papers' backbones in order."""
    shapes = (
        f'<circle cx="{x}" cy="9" r="4"/>', f'<rect x="{x - 3.6:.1f}" y="5.4" width="7.2" height="7.2"/>',
        f'<path d="M{x} 4.4l4.4 8h-8.8z"/>',
    )  # fmt: skip
    return shapes[number % len(shapes)]


def in_words(rows: Sequence[ForestRow]) -> str:
    """Which rows have which answer, each with its difference, and how many are not decided.

    Where several backbones stand side by side: for each of them, and over all.
    """
    names = backbones(rows)
    if not names:
        return _in_words([(row.answer, _difference(row)) for row in rows])
    told = []
    for name in names:
        own = [row.by_backbone[name] for row in rows if name in row.by_backbone]
        told.append(f"{name}: {_in_words([(row.answer, _difference(row)) for row in own])}")
    return " ".join(
        [*told, f"Over {_all(names)}: {_in_words([(row.across or row.answer, row.claim) for row in rows])}"]
    )


def _all(names: Sequence[str]) -> str:
    return "both backbones" if len(names) == 2 else f"{len(names)} backbones"


def _difference(row: ForestRow) -> str:
    return f"{row.claim} {format_estimate(row.ours, row.decimals, sign='+')}"


def _in_words(said: Sequence[tuple[str, str]]) -> str:
    """(answer, of what), grouped by the answers."""
    told: dict[str, list[str]] = {}
    for answer, what in said:
        if answer != "not decided":
            told.setdefault(answer, []).append(what)
    words = [f"{answer[0].upper()}{answer[1:]}: {'; '.join(found)}." for answer, found in told.items()]
    left = len(said) - sum(map(len, told.values()))
    return " ".join(words + [f"Not decided: {left} of {len(said)} rows."] * (left > 0))
