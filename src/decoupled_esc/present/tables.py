"""Tables that show the paper's numbers beside the measured ones, with a verdict in every cell.

`compare` renders a grid (per metric: the paper's cell for one or two backbones, then ours) from measured numbers keyed by
the paper's own rows and columns. It returns a `ComparisonTable`, which Jupyter shows as HTML and `to_frame` turns into
one line per verdict. `results_table` renders numbers of our own, with no paper beside them.

CSS classes (book/_static/book.css): `paper-table-wrap` (div), `paper-table` (table), `paper` and `measured` (td),
`ci` and `verdict` (span), `paper-table-legend` (p). `data-verdict`, on each `td.measured` and each `span.verdict`,
holds the status; on a td whose two backbones got different verdicts it is "mixed". Where the number agrees, a second sign in
the span shows the direction of the difference from the comparison row.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Literal

import pandas as pd

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.paper import MEANING, PaperTable, Status, Verdict, claimed, unknown, verdict
from decoupled_esc.present.rows import WithRows, slug

# Distinguishable without colour, and saying nothing about up or down: that is the metric's business.
SYMBOL = dict(zip(Status, "=≈⇉⇄?±≠∥§Δ–", strict=True))
ARROW = {
    "higher": ' <abbr title="higher is better">↑</abbr>',
    "lower": ' <abbr title="lower is better">↓</abbr>',
    None: "",
}
INTERVAL = "95% intervals"

LINE = ["table", "row", "column", "paper", "measured", "low", "high", "status", "direction", "why", "source"]
"""What is said of one cell of the papers."""

Measured = Mapping[str, Mapping[str, Estimate | Missing] | Missing]
"""Row key -> column key -> estimate, or why there is none. Row keys are the paper's, without the backbone in front."""


@dataclass(frozen=True)
class Cell:
    """One cell of the paper, what was measured for it, and the verdict. `row` is the paper's full row key.

    `source` is what was measured: cells of one source with one number are one measurement beside several numbers of the papers.
    """

    row: str
    column: str
    paper: float | None
    decimals: int
    measured: Estimate | None
    verdict: Verdict
    source: str


@dataclass(frozen=True)
class Label:
    """What a line or a group of columns is called, and which way is better if it is a metric."""

    text: str
    better: str | None = None

    def html(self) -> str:
        return escape(self.text) + ARROW[self.better]


@dataclass(frozen=True)
class Line:
    """One line of the rendered table: per column, one cell for each backbone (all with the same measured number)."""

    label: Label
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, repr=False)
class ComparisonTable(WithRows):
    """The paper's table beside ours. `heads` names the paper's cells in a group: the backbones, or just "paper".

    `others`: name -> the same table of another backbone of ours (`beside`), whose numbers are shown and not counted.
    """

    table: str
    caption: str
    stub: str
    heads: tuple[str, ...]
    columns: tuple[Label, ...]
    lines: tuple[Line, ...]
    name: str = "ours"
    others: Mapping[str, ComparisonTable] = field(default_factory=dict)

    def cells(self) -> Iterator[Cell]:
        """Every cell, line by line, in reading order."""
        return (cell for line in self.lines for group in line.cells for cell in group)

    def transposed(self) -> ComparisonTable:
        """The same table with a line per metric and a group of columns per row of the paper: for few rows, many metrics."""
        lines = tuple(
            Line(column, tuple(line.cells[number] for line in self.lines)) for number, column in enumerate(self.columns)
        )
        return replace(self, stub="metric", columns=tuple(line.label for line in self.lines), lines=lines)

    def beside(self, name: str, others: Mapping[str, ComparisonTable]) -> ComparisonTable:
        """The table with a column each for ``others``, of the same rows and columns; ``name`` is what ours is called beside them."""
        if not others:
            return self
        said = "".join(f" {other}: n = {table.caption.partition('; n = ')[2]}" for other, table in others.items())
        caption = f"{self.caption}{said}"
        return replace(self, name=name, others=dict(others), caption=caption.replace("Ours: ", f"Ours: {name}, ", 1))

    def counts(self, by: Literal["status", "direction"] = "status") -> dict[str, int]:
        """How many cells have each status, or each direction; what does not occur is left out."""
        found = Counter(getattr(cell.verdict, by) for cell in self.cells())
        return {str(status): found[status] for status in Status if found[status]}

    def to_frame(self) -> pd.DataFrame:
        """One line per verdict, with the columns ``LINE``."""
        lines = []
        for cell in self.cells():
            got, said = cell.measured, cell.verdict
            ours = (got.value, got.low, got.high) if got else (None,) * 3
            words = (str(said.status), said.direction and str(said.direction), said.why, cell.source)
            lines.append((self.table, cell.row, cell.column, cell.paper, *ours, *words))
        numbers = dict.fromkeys(["paper", "measured", "low", "high"], float)
        return pd.DataFrame(lines, columns=LINE).astype(numbers)

    def carried(self) -> pd.DataFrame:
        """`to_frame`, and where each verdict stands in the page."""
        groups = [group for line in self.lines for group in line.cells]
        return self.to_frame().assign(anchor=[self._anchor(group) for group in groups for _ in group])

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items())
        return f"<ComparisonTable {self.table}: {counts}>"

    def body(self) -> str:
        body = "\n".join(map(self._line, range(len(self.lines))))
        return (
            '<div class="paper-table-wrap">\n<table class="paper-table">\n'
            f"<caption>{escape(self.caption)}</caption>\n"
            f"<thead>\n{self._head()}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n{self._legend()}\n</div>"
        )

    def _anchor(self, cells: tuple[Cell, ...]) -> str:
        """Of the measured cell that stands beside these."""
        return slug(f"verdict {self.table} {cells[0].row} {cells[0].column}")

    def _head(self) -> str:
        titles = [column.html() for column in self.columns]
        group = [*self.heads, self.name, *self.others]
        tops = "".join(f'<th scope="colgroup" colspan="{len(group)}">{title}</th>' for title in titles)
        subs = "".join(f'<th scope="col">{escape(head)}</th>' for head in group) * len(titles)
        return f'<tr><th scope="col" rowspan="2">{escape(self.stub)}</th>{tops}</tr>\n<tr>{subs}</tr>'

    def _line(self, number: int) -> str:
        line, others = self.lines[number], [table.lines[number].cells for table in self.others.values()]
        groups = "".join(self._group(*same) for same in zip(line.cells, *others, strict=True))
        return f'<tr><th scope="row">{line.label.html()}</th>{groups}</tr>'

    def _group(self, *measured: tuple[Cell, ...]) -> str:
        """The paper's cells, and those of each backbone of ours beside them."""
        paper = "".join(f'<td class="paper">{_number(cell.paper, cell.decimals)}</td>' for cell in measured[0])
        return paper + "".join(self._measured(cells, cells is measured[0]) for cells in measured)

    def _measured(self, cells: tuple[Cell, ...], own: bool) -> str:
        """``own``: of the first backbone, whose cells can be linked to."""
        against = [f"{head}: " if len(cells) > 1 else "" for head in self.heads]
        title = " ".join(name + cell.verdict.sentence() for name, cell in zip(against, cells, strict=True))
        statuses = {cell.verdict.status for cell in cells}
        status = statuses.pop() if len(statuses) == 1 else "mixed"
        marks = "".join(
            f' <span class="verdict" role="img" data-verdict="{cell.verdict.status}"'
            f' aria-label="{escape(name + cell.verdict.label)}">{_signs(cell.verdict)}</span>'
            for name, cell in zip(against, cells, strict=True)
        )
        value, interval = "", ""
        if (ours := cells[0].measured) is not None:
            value, interval = _number(ours.value, cells[0].decimals), _interval(ours, cells[0].decimals)
        inside = (value + (f' <span class="ci">{interval}</span>' if interval else "") + marks).strip()
        anchor = f' id="{self._anchor(cells)}"' if own else ""
        return f'<td class="measured"{anchor} data-verdict="{status}" title="{escape(title)}">{inside}</td>'

    def _legend(self) -> str:
        verdicts = [cell.verdict for table in (self, *self.others.values()) for cell in table.cells()]
        found = {status: MEANING[status] for one in verdicts for status in (one.status, one.direction) if status}
        for status in (Status.NOT_COMPARABLE, Status.NOT_ATTEMPTED):
            # Tooltips don't print and are hard to reach by keyboard; the reasons must be readable without them.
            reasons = [one.why.rstrip(".") for one in verdicts if status in (one.status, one.direction)]
            if reasons:
                found[status] = ", or ".join(dict.fromkeys(reasons))
        entries = (
            f'<span class="verdict" data-verdict="{status}">{SYMBOL[status]}</span> {status}: {escape(found[status])}'
            for status in Status
            if status in found
        )
        return f'<p class="paper-table-legend">{"; ".join(entries)}.</p>'


def compare(
    table: PaperTable,
    measured: Measured | Missing,
    *,
    profile: str,
    n: str,
    backbones: Sequence[str] = (),
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    note: str | None = None,
    **more,
) -> ComparisonTable:
    """The paper's table beside the measured numbers.

    * `backbones`: the first part of the paper's row keys, one or two; rows are then keyed by the rest
      ("vanilla/sft"). Without it, rows are keyed whole.
    * `rows`, `columns`: what to show, in this order; all of the table's by default. `measured` may hold more.
    * `measured`: an estimate or `Missing` for every shown cell that the paper does not leave blank; a `Missing` may stand
      for a whole row, or for everything.
    * `more`: what decides beside the numbers, `contrasts`, `levels`, `incomparable` and `sources` of `_Comparison`.
    * `profile`, `n` (what was counted, in words) and `note` go into the caption.

    Raises ValueError for a shown cell with neither a number nor a reason (it names table, row and column), a blank paper
    cell beside a number, nothing to show, or a table without numbers, and where `verdict` does; KeyError, naming the
    nearest key, for a backbone, row or column that the paper's table does not have.
    """
    comparison = _Comparison(table, tuple(backbones) or (None,), measured, **more)
    keys = comparison.rows() if rows is None else list(rows)
    shown = table.columns if columns is None else tuple(table.column(key) for key in columns)
    if not keys or not shown:
        raise ValueError(f"{table.id}: no row or no column to show")
    labels = table.row(comparison.full(comparison.backbones[0], keys[0])).labels
    named = [table.row(f"{backbone}/{keys[0]}").labels["backbone"] for backbone in backbones]
    lines = tuple(
        Line(Label(comparison.label(key)), tuple(comparison.group(key, column.key) for column in shown)) for key in keys
    )
    got = [cell.measured for line in lines for group in line.cells for cell in group if cell.measured]
    how = "computed without sampling, so without intervals" if got else "nothing measured"
    if any(estimate.low is not None for estimate in got):
        how = f"brackets: {INTERVAL}"
    return ComparisonTable(
        table=table.id,
        caption=f"{table.name}: {table.title}. Ours: profile {profile}; n = {n}; {how}." + (f" {note}" if note else ""),
        stub=" · ".join(name for name in labels if not (backbones and name == "backbone")),
        # Both papers use instruction-tuned models throughout.
        heads=tuple(name.removesuffix("-Instruct").removesuffix("-it") for name in named) or ("paper",),
        columns=tuple(Label(column.name, column.better) for column in shown),
        lines=lines,
    )


@dataclass(frozen=True, repr=False)
class ResultsTable(WithRows):
    """A rendered table.  Its text form is its caption: a pandas Styler would print its address, which always differs."""

    caption: str
    html: str
    frame: pd.DataFrame = field(compare=False)

    def to_frame(self) -> pd.DataFrame:
        return self.frame

    def body(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return f"<ResultsTable {self.caption}>"


def results_table(frame: pd.DataFrame | Missing, caption: str, numbers: str | None = None) -> ResultsTable:
    """``frame`` as a table of our own numbers, with no paper beside it, all text escaped.  The same frame gives the same HTML.

    ``numbers`` is a format for every number, such as ``"{:.2f}"``; a missing one is shown as a dash.  `Missing` is one
    row with its reason.
    """
    if isinstance(frame, Missing):
        frame = pd.DataFrame({"reason": {str(Status.NOT_ATTEMPTED): frame.reason}})
    # The Styler escapes texts alone, so that a list or a dictionary has to be one.
    frame = rows = frame.where(frame.map(pd.api.types.is_scalar), frame.astype(str))
    # An index with a name would get a header row of its own; as the columns' name it shares theirs.
    frame = frame.rename_axis(columns=frame.index.name and escape(str(frame.index.name))).rename_axis(index=None)
    styler = frame.style.set_caption(escape(caption, quote=False))
    styler = styler.set_table_attributes('class="plain-table"').format(na_rep="–", escape="html")
    styler = styler.format_index(escape="html", axis=0).format_index(escape="html", axis=1)
    if numbers:
        styler = styler.format(numbers, na_rep="–", escape="html", subset=list(frame.select_dtypes("number")))
    html = re.sub(r' id="T_\w+"', "", styler.to_html())  # random, on every cell, and nothing refers to them
    return ResultsTable(caption, html, rows)


def format_estimate(estimate: Estimate | None, decimals: int = 1, sign: str = "") -> str:
    """``value [low, high]``, the value alone where there is no interval, a dash for None; ``sign="+"`` shows plus signs."""
    if estimate is None:
        return "–"
    return f"{_number(estimate.value, decimals, sign)} {_interval(estimate, decimals, sign)}".strip()


def format_scores(scores: Mapping[str, Estimate], keys: Sequence[str]) -> dict[str, str]:
    """`format_estimate` of each of ``keys``, a dash where it is absent: B has two decimals, all others one."""
    return {key: format_estimate(scores.get(key), 2 if key in ("B", "B1") else 1) for key in keys}


@dataclass(frozen=True)
class _Comparison:
    """What `compare` was given, checked; answers with the cells of one row and column."""

    table: PaperTable
    backbones: tuple[str | None, ...]
    measured: Measured | Missing
    contrasts: Mapping[str, tuple[str, Mapping[str, Estimate]]] = field(default_factory=dict)
    """Row -> (comparison row, column -> our paired difference, row minus comparison row).  The paper's difference is computed from
    its cells.  It decides between *same direction* and *opposite*."""
    levels: Missing | None = None
    """Why no number of ours can be compared with the paper's, where only differences can."""
    incomparable: Mapping[str, Missing] = field(default_factory=dict)
    """Row, or column -> why neither it nor a difference in it or from it can be compared."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Row -> what was measured in it, where several cells of the papers stand beside one measurement; "{column}" in it stands for the
    column."""

    def __post_init__(self):
        if self.table.kind not in ("numbers", "claims"):
            raise ValueError(f"{self.table.id} holds no numbers (kind {self.table.kind!r})")
        fronts = {row.key.split("/")[0] for row in self.table.rows}
        for backbone in self.backbones:
            if backbone is not None and backbone not in fronts:
                raise unknown(f"backbone of {self.table.id}", backbone, fronts)
        # A misspelled key must not be taken for a row or column that is merely not shown.
        given = [] if isinstance(self.measured, Missing) else list(self.measured.items())
        for row, (other, found) in self.contrasts.items():
            given += [(row, found), (other, found)]
        for row, found in given:
            self.full(self.backbones[0], row)
            for column in () if isinstance(found, Missing) else found:
                self.table.column(column)

    def rows(self) -> list[str]:
        """The table's row keys, without the first backbone."""
        front = f"{self.backbones[0]}/" if self.backbones[0] else ""
        return [row.key.removeprefix(front) for row in self.table.rows if row.key.startswith(front)]

    def full(self, backbone: str | None, row: str) -> str:
        """The paper's key of a row. Raises KeyError where the paper has no such row."""
        return self.table.row(f"{backbone}/{row}" if backbone else row).key

    def label(self, row: str) -> str:
        labels = self.table.row(self.full(self.backbones[0], row)).labels
        return " · ".join(text for name, text in labels.items() if self.backbones[0] is None or name != "backbone")

    def group(self, row: str, column: str) -> tuple[Cell, ...]:
        """One cell for each backbone."""
        found = self.measured
        for key in (row, column):
            found = found if found is None or isinstance(found, Missing) else found.get(key)
        return tuple(self._cell(backbone, row, column, found) for backbone in self.backbones)

    def _cell(self, backbone: str | None, row: str, column: str, found: Estimate | Missing | None) -> Cell:
        key = self.full(backbone, row)
        where = f"{self.table.id}: row {key!r}, column {column!r}"
        paper, decimals = self.table.value(key, column), self.table.decimals(key, column)
        source = self.sources.get(row, f"{self.table.id}: {row}, {{column}}").format(column=column)

        def cell(measured: Estimate | None, said: Verdict) -> Cell:
            return Cell(key, column, paper, decimals, measured, said, source)

        if paper is None:
            if isinstance(found, Estimate):
                raise ValueError(f"{where} was measured, but the paper leaves it blank")
            return cell(None, Verdict(Status.NOT_ATTEMPTED, "the paper leaves it blank"))
        if found is None:
            raise ValueError(f"{where} has neither a measured number nor a reason")
        measured = found if isinstance(found, Estimate) else None
        if self.table.kind == "claims":
            return cell(measured, claimed(paper, found))
        unlike = self.incomparable.get(row) or self.incomparable.get(column)
        level = unlike or self.levels
        other, differences = self.contrasts.get(row, (row, {}))
        ours = unlike or self.incomparable.get(other) or differences.get(column)
        theirs = self.table.contrast(key, self.full(backbone, other), column) if measured and other != row else None
        if theirs is None or ours is None:
            return cell(measured, verdict(paper, found, decimals=decimals, level=level))
        noise = self.table.noise.get(column)
        said = verdict(paper, found, decimals=decimals, paper_contrast=theirs, contrast=ours, noise=noise, level=level)
        if isinstance(ours, Missing):
            return cell(measured, replace(said, why=ours.reason))
        there, here = _number(theirs, decimals, "+"), format_estimate(ours, decimals, "+")
        chance = "" if noise is None else f" (chance: ±{_number(noise, decimals)})"
        why = f"against {self.label(other)} the paper has {there}{chance}, we have {here}"
        return cell(measured, replace(said, why=why))


def _signs(said: Verdict) -> str:
    """The sign of the status, and that of the direction where it says more."""
    return SYMBOL[said.status] + (SYMBOL[said.direction] if said.direction not in (None, said.status) else "")


def _number(value: float | None, decimals: int, sign: str = "") -> str:
    """A number at the paper's precision; learning rates, with six decimals or more, in scientific notation."""
    if value is None:
        return ""
    return f"{value:{sign}g}" if decimals >= 6 else f"{value:{sign},.{decimals}f}"


def _interval(estimate: Estimate, decimals: int, sign: str = "") -> str:
    if estimate.low is None:
        return ""
    return f"[{_number(estimate.low, decimals, sign)}, {_number(estimate.high, decimals, sign)}]"
