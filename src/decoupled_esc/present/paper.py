"""The numbers the two papers print, their figures, and what may be said of a measured number beside one of them.

`load_tables` reads data/paper_values.json: every table of DecoupledESC (Zhang et al. 2025) and CSO (Zhao et al.
2025), transcribed exactly; a table's `notes` say which headers or marks had to be restored, and where the paper's own
arithmetic does not hold. `verdict` compares one number with one estimate.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.pipeline import Missing

VALUES = Path(__file__).parents[3] / "data" / "paper_values.json"


def unknown(what: str, key: str, known: Iterable[str]) -> KeyError:
    """The KeyError for a key that is not there; its message names the nearest known key."""
    known = list(known)
    near = get_close_matches(str(key), known, n=1, cutoff=0)
    hint = f"; did you mean {near[0]!r}?" if near else "; there are none"
    return KeyError(f"no {what} {key!r}{hint}")


@dataclass(frozen=True)
class Column:
    """A column of a paper's table; `better` is "higher", "lower" or None, `decimals` the printed precision."""

    key: str
    name: str
    better: str | None
    decimals: int


@dataclass(frozen=True)
class Row:
    """A row of a paper's table. `values` has one entry per column, None where the paper leaves the cell blank.

    `decimals` overrides the columns' precision in tables whose rows are counts and averages.
    """

    key: str
    labels: dict[str, str]
    values: dict[str, float | str | None]
    decimals: int | None = None


@dataclass(frozen=True)
class PaperTable:
    """One table of one paper. `kind` is "numbers", "claims" (of differences, without a number: 1 is higher and -1 lower), "map"
    (strings) or "text" (rows not kept: it is wording)."""

    id: str
    paper: str
    short: str
    cite: str
    number: int | None
    kind: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: str
    noise: Mapping[str, float] = field(default_factory=dict)
    """Column -> how large a difference of two of its rows chance alone makes in 95 of 100 test sets of the paper's size.

    Known for Tables 3 and 5 of DecoupledESC, of 1,792 test turns of 130 dialogues, in the columns without a judge: half the
    95% interval (bootstrap over dialogues) of the difference between the two systems whose replies the authors released.
    Independent multinomial samples of 1,792 turns at the printed levels give as much (2.8 in Q, 0.10 in B, unpaired).  How
    training runs differ is not in it, so the paper's noise is larger.  CSO does not say how many turns it tests on.
    """

    @property
    def name(self) -> str:
        """For a caption: "Table 3 of DecoupledESC", or "the text of DecoupledESC"."""
        return f"Table {self.number} of {self.short}" if self.number else f"the text of {self.short}"

    def column(self, key: str) -> Column:
        """Raises KeyError, naming the nearest column."""
        return _find(self.columns, key, f"column of {self.id}")

    def row(self, key: str) -> Row:
        """Raises KeyError, naming the nearest row."""
        return _find(self.rows, key, f"row of {self.id}")

    def value(self, row: str, column: str) -> float | str | None:
        """The printed cell, None where the paper leaves it blank. Raises KeyError for an unknown row or column."""
        return self.row(row).values[self.column(column).key]

    def decimals(self, row: str, column: str) -> int:
        """The number of decimals the paper prints in this cell."""
        own = self.row(row).decimals
        return self.column(column).decimals if own is None else own

    def contrast(self, row: str, comparator: str, column: str) -> float | None:
        """The paper's row minus its comparator row, at the printed precision; None where either is blank."""
        value, other = self.value(row, column), self.value(comparator, column)
        if value is None or other is None:
            return None
        return round(value - other, self.decimals(row, column))


def _find(entries: Iterable, key: str, what: str):
    for entry in entries:
        if entry.key == key:
            return entry
    raise unknown(what, key, (entry.key for entry in entries))


class Tables(dict[str, PaperTable]):
    """The tables by id, in the papers' order; a wrong id is answered with the nearest one."""

    def __missing__(self, key: str) -> PaperTable:
        raise unknown("table", key, self)


def load_tables(path: Path = VALUES) -> Tables:
    """Every table of both papers by id, e.g. "decoupledesc/table-3", "cso/table-13", "cso/in-text"."""
    data = json.loads(path.read_text(encoding="utf-8"))
    tables = Tables()
    for entry in data["tables"]:
        paper = data["papers"][entry["paper"]]
        entry["columns"] = tuple(Column(**column) for column in entry["columns"])
        entry["rows"] = tuple(Row(**row) for row in entry["rows"])
        tables[entry["id"]] = PaperTable(short=paper["short"], cite=paper["cite"], **entry)
    return tables


@dataclass(frozen=True)
class PaperFigure:
    """A figure of a paper, or several alike: what of it is ``printed`` in tables or text, and so stands as hollow marks here.

    Nothing was read off a picture: a value that only the picture shows is not known here.  ``chapter``: where ours is.
    """

    paper: str
    number: str
    title: str
    kind: str
    """plot, drawing, example or prompt."""
    chapter: str | None
    printed: str | None
    note: str | None


def load_figures(path: Path = VALUES) -> tuple[PaperFigure, ...]:
    """Every figure of both papers, in their order."""
    return tuple(PaperFigure(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["figures"])


class Status(StrEnum):
    """What one cell of ours says of the paper's cell."""

    EXACT = "exact"
    WITHIN = "within the interval"
    SAME = "same direction"
    OPPOSITE = "opposite"
    UNDECIDED = "undecided"
    PAPER_NOISE = "within the paper's noise"
    DIFFERS = "differs"
    NOT_COMPARABLE = "not comparable"
    FROM_PAPER = "taken from the paper"
    CHANGED = "changed"
    NOT_ATTEMPTED = "not attempted"


MEANING: dict[Status, str] = {
    Status.EXACT: "computed without sampling, and equal at the precision the paper prints",
    Status.WITHIN: "our interval contains the paper's number; a second sign shows the direction of the difference",
    Status.SAME: "the difference from the comparison row has the paper's sign",
    Status.OPPOSITE: "the difference from the comparison row has the opposite sign",
    Status.UNDECIDED: "the difference from the comparison row may be zero here, or is printed as zero in the paper",
    Status.PAPER_NOISE: "the paper's own difference from the comparison row is within its noise: no direction to confirm",
    Status.DIFFERS: "another number, and no comparison row decides",
    Status.NOT_COMPARABLE: "measured, but of another kind than the paper's, for the stated reason",
    Status.FROM_PAPER: "a setting, and the profile of this backbone has the paper's",
    Status.CHANGED: "a setting, and the profile of this backbone has another one, for the stated reason",
    Status.NOT_ATTEMPTED: "not measured here, for the stated reason",
}


@dataclass(frozen=True)
class Verdict:
    """A status and, where there is more to say, the reason; a cell that can't be compared always has one.

    ``direction``: what the difference from the comparison row says, also where the number itself agrees; None without such a row.
    """

    status: Status
    why: str | None = None
    direction: Status | None = None

    @property
    def label(self) -> str:
        """The status, with the direction where it says more."""
        return f"{self.status}, {self.direction}" if self.direction not in (None, self.status) else str(self.status)

    def sentence(self) -> str:
        """One short sentence for a tooltip."""
        if self.status in (Status.NOT_ATTEMPTED, Status.NOT_COMPARABLE):
            return f"{str(self.status).capitalize()}: {self.why.rstrip('.')}."
        tail = f" ({self.why.rstrip('.')})" if self.why else ""
        return f"{self.label.capitalize()}: {MEANING[self.status]}{tail}."


def verdict(
    paper: float,
    measured: Estimate | Missing,
    *,
    decimals: int,
    paper_contrast: float | None = None,
    contrast: Estimate | Missing | None = None,
    noise: float | None = None,
    level: Missing | None = None,
) -> Verdict:
    """Compares the paper's number with a measured one; the answer is never stronger than the measured interval.

    ``paper`` is printed with ``decimals`` decimals. ``paper_contrast`` and ``contrast`` are this row minus a comparison row,
    in the paper and here (a paired difference, or why it says nothing about the paper's); they decide where the numbers
    themselves do not agree, and are shown beside an agreement.  ``noise``: `PaperTable.noise`.  ``level``: why the numbers
    themselves can't be compared.

    Raises ValueError for a `Missing` without a reason, a number that is not finite, an interval that does not run from
    low to high, one contrast without the other, or a contrast without an interval beside a measured value that has one.
    """
    if isinstance(measured, Missing):
        return Verdict(Status.NOT_ATTEMPTED, _reason(measured))
    if (paper_contrast is None) != (contrast is None):
        raise ValueError("a comparison needs both differences, the paper's and ours")
    sampled = _has_interval(measured)
    if not math.isfinite(paper) or (paper_contrast is not None and not math.isfinite(paper_contrast)):
        raise ValueError(f"the paper's number is not finite: {paper}, difference {paper_contrast}")
    if isinstance(contrast, Estimate) and not _has_interval(contrast) and sampled:
        raise ValueError("the difference of sampled numbers needs an interval")

    direction = None if contrast is None else _direction(paper_contrast, contrast, noise)
    half = 0.5 * 10.0**-decimals  # a printed 2.65 stands for every number that rounds to it
    if level is None and sampled and measured.low - half <= paper <= measured.high + half:
        return Verdict(Status.WITHIN, None, direction)
    if level is None and not sampled and rounds_to(measured.value, paper, decimals):
        return Verdict(Status.EXACT, None, direction)
    if direction is not None:
        return Verdict(direction, _reason(contrast) if isinstance(contrast, Missing) else None, direction)
    return Verdict(Status.DIFFERS) if level is None else Verdict(Status.NOT_COMPARABLE, _reason(level))


def claimed(sign: float, measured: Estimate | Missing) -> Verdict:
    """What a measured difference says of a claim that has a direction, ``sign``, and no number."""
    if isinstance(measured, Missing):
        return Verdict(Status.NOT_ATTEMPTED, _reason(measured))
    said = _direction(sign, measured, None)
    return Verdict(said, None, said)


def _direction(theirs: float, ours: Estimate | Missing, noise: float | None) -> Status:
    """What our difference says of the paper's; one that chance can make has no direction that could be confirmed."""
    if isinstance(ours, Missing):
        return Status.NOT_COMPARABLE
    if noise is not None and abs(theirs) <= noise:
        return Status.PAPER_NOISE
    low, high = (ours.value,) * 2 if ours.low is None else (ours.low, ours.high)
    if theirs == 0 or low <= 0 <= high:
        return Status.UNDECIDED
    return Status.SAME if (low > 0) == (theirs > 0) else Status.OPPOSITE


def _reason(missing: Missing) -> str:
    if not missing.reason.strip():
        raise ValueError("a cell that was not attempted, or can't be compared, needs a reason")
    return missing.reason.strip()


def rounds_to(value: float, printed: float, decimals: int) -> bool:
    """True where `value` at `decimals` decimals is `printed`, with halves rounded up (away from 0) or to even."""
    # repr() gives the shortest decimal that names the float, so 0.125 is a half and is treated as one.
    unit, number, target = Decimal(1).scaleb(-decimals), Decimal(repr(float(value))), Decimal(repr(float(printed)))
    return any(number.quantize(unit, rounding) == target for rounding in (ROUND_HALF_UP, ROUND_HALF_EVEN))


def _has_interval(estimate: Estimate) -> bool:
    value, low, high = estimate.value, estimate.low, estimate.high
    if (low is None) != (high is None) or not all(math.isfinite(x) for x in (value, low, high) if x is not None):
        raise ValueError(f"neither a number alone nor a number with both ends of an interval: {estimate}")
    if low is not None and low > high:
        raise ValueError(f"an interval runs from low to high: {estimate}")
    return low is not None
