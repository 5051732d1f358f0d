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
    "set; every row has a scale of its own"
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
        answer = f'<a href="{row.page}.html">{escape(row.answer)}</a>' if row.page else escape(row.answer)
        ours = f" <span>{format_estimate(row.ours, row.decimals, sign='+')}</span>" if row.ours else ""
        return f'<tr id="{_anchor(row)}">{head}<td>{picture(row)}</td><td>{answer}{ours}</td></tr>'


def _anchor(row: ForestRow) -> str:
    return slug(f"verdict {row.about} {row.claim} {row.key}")


def _row(row: ForestRow) -> dict:
    papers = {f"paper, {BACKBONES.get(name, name)}": value for name, value in row.printed.items()}
    ours = row.ours
    found = {"here": ours and ours.value, "low": ours and ours.low, "high": ours and ours.high}
    seeds = {f"here, seed {number}": value for number, value in enumerate(row.single, start=1)}
    should = {"about": row.about, "claim": row.claim, "metric": row.key, "sign": row.sign}
    return {**should, **papers, "chance": row.chance, **found, **seeds, "answer": row.answer, "anchor": _anchor(row)}


WIDTH, HEIGHT, EDGE = 240, 34, 8


def picture(row: ForestRow) -> str:
    """The row as SVG: the papers' differences above ours with its interval and the single seeds; a dash where nothing was measured."""
    if row.ours is None:
        return "–"
    low, high = (row.ours.value,) * 2 if row.ours.low is None else (row.ours.low, row.ours.high)
    widest = max(map(abs, (low, high, *row.single, *row.printed.values(), row.chance or 0.0))) or 1.0

    def x(value: float) -> float:
        return round(WIDTH / 2 + row.sign * value / widest * (WIDTH / 2 - EDGE), 1)

    papers = "".join(_mark(number, x(value)) for number, value in enumerate(row.printed.values()))
    band = (
        f'<rect class="chance" x="{x(-row.sign * row.chance)}" y="3" width="{2 * (x(row.sign * row.chance) - WIDTH / 2):.1f}" height="12"/>'
        if row.chance
        else ""
    )
    seeds = "".join(
        f'<circle cx="{x(value)}" cy="24" r="2.2" opacity="0.6"/>' for value in row.single if len(row.single) > 1
    )
    printed = ", ".join(f"{BACKBONES.get(name, name)} {value:+.{row.decimals}f}" for name, value in row.printed.items())
    printed += f", chance there ±{row.chance:.{row.decimals}f}" if row.chance else ""
    said = f"papers: {printed or 'no number'}; here {format_estimate(row.ours, row.decimals, sign='+')}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<line x1="{WIDTH / 2}" y1="1" x2="{WIDTH / 2}" y2="{HEIGHT - 1}" class="zero"/>{band}'
        f'<g class="papers">{papers}</g><g class="here"><line x1="{x(low)}" y1="24" x2="{x(high)}" y2="24"/>'
        f'<circle cx="{x(row.ours.value)}" cy="24" r="4"/>{seeds}</g></svg>'
    )


def _mark(number: int, x: float) -> str:
    """A circle, a square or a triangle around ``x``: the papers' backbones in order."""
    shapes = (
        f'<circle cx="{x}" cy="9" r="4"/>', f'<rect x="{x - 3.6:.1f}" y="5.4" width="7.2" height="7.2"/>',
        f'<path d="M{x} 4.4l4.4 8h-8.8z"/>',
    )  # fmt: skip
    return shapes[number % len(shapes)]


def in_words(rows: Sequence[ForestRow]) -> str:
    """Which rows have which answer, each with its difference, and how many are not decided."""
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.answer != "not decided":
            found = f"{row.claim} {format_estimate(row.ours, row.decimals, sign='+')}"
            told.setdefault(row.answer, []).append(found)
    said = [f"{answer[0].upper()}{answer[1:]}: {'; '.join(found)}." for answer, found in told.items()]
    left = len(rows) - sum(map(len, told.values()))
    return " ".join(said + [f"Not decided: {left} of {len(rows)} rows."] * (left > 0))
