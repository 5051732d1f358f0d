"""Views that a reader filters on the static page: the replies of all systems, and every cell of the papers' tables.

The data stands in the page as compact JSON in an attribute, and the book's one script (book/_static/explorers.js) makes
the view from it, every text of it as text.  Where no script runs, as in JupyterLab or an EPUB, the fallback is shown.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np
import pandas as pd

from decoupled_esc.evaluate import decoding
from decoupled_esc.evaluate.strategy import strategy_indices
from decoupled_esc.experiments.replies import Replies
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.rows import MIME, as_csv, with_rows
from decoupled_esc.present.tables import SYMBOL
from decoupled_esc.taxonomy import ESCONV, stage


@dataclass(frozen=True, repr=False)
class Explorer:
    """``kind`` is the function of the script that draws ``data``; ``text`` is its text form, ``fallback`` HTML."""

    kind: str
    data: Mapping
    text: str
    fallback: str
    rows: pd.DataFrame | None = field(default=None, compare=False)
    """What is to be downloaded."""

    def __repr__(self) -> str:
        return f"<Explorer of {self.text}>"

    def _repr_html_(self) -> str:
        data = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"))
        data = escape(data, quote=False).replace("'", "&#39;")  # its many double quotes may stay
        html = f'<div class="explorer" data-explorer="{self.kind}" data-rows=\'{data}\'>{self.fallback}</div>'
        return html if self.rows is None else with_rows(f"explorer-{self.kind}", html, self.rows)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {} if self.rows is None else {MIME: as_csv(self.rows)}


def one_per_dialogue(ids: Sequence[str]) -> list[str]:
    """A turn of each dialogue, in order; which one is decided by a checksum of the dialogue's name."""
    by_dialogue: dict[str, list[str]] = {}
    for id in sorted(ids):
        by_dialogue.setdefault(id.rpartition("/")[0], []).append(id)
    return [turns[zlib.crc32(name.encode()) % len(turns)] for name, turns in by_dialogue.items()]


def replies(systems: Mapping[str, Replies], gold: str) -> Explorer:
    """Replies, strategies and probabilities of ``systems`` at one turn of each test dialogue.

    ``gold``: the annotated strategies of all turns in the order of ids, a digit each (`SeedCounts.strategies`).  Of the
    dialogues themselves it holds ids, positions and stages alone.  Probabilities are a softmax of a system's scores, in
    per cent; a system without scores has none.  Raises ValueError where two systems answered other turns.
    """
    ids = sorted(row.id for row in next(iter(systems.values())).rows)
    if len(gold) != len(ids) or any(sorted(row.id for row in found.rows) != ids for found in systems.values()):
        raise ValueError("the systems and the gold strategies are not of the same turns")
    dialogues: dict[str, list[str]] = {}
    for id in ids:
        dialogues.setdefault(id.rpartition("/")[0], []).append(id)
    answers = {name: {row.id: row for row in found.rows} for name, found in systems.items()}
    turns = []
    for id in one_per_dialogue(ids):
        around = dialogues[id.rpartition("/")[0]]
        place = around.index(id)
        shown = [_reply(by_id[id]) for by_id in answers.values()]
        turns.append([id, int(gold[ids.index(id)]), place + 1, len(around), stage(place, len(around)), shown])
    strategies = [[one.name, one.abbreviation] for one in ESCONV]
    data = {"systems": list(systems), "strategies": strategies, "turns": turns}
    text = f"{len(systems)} systems at {len(turns)} turns"
    return Explorer("replies", data, text, f"<p>The replies of {text} are shown here where scripts run.</p>")


def _reply(row) -> list:
    """[strategy or -1, reply, per cents of the eight or nothing]."""
    (place,) = strategy_indices([row.strategy])
    if not (scores := getattr(row, "scores", None)):
        return [int(place), row.reply, []]
    shares = 100 * decoding.probabilities(np.array([scores]), 1.0, 1.0)[0]
    return [int(place), row.reply, np.rint(shares).astype(int).tolist()]


def report(frame: pd.DataFrame, caption: str, beside: Mapping[str, pd.DataFrame] | None = None) -> Explorer:
    """Every line of `replication.report`, to be filtered, read cell by cell, and saved as CSV.

    ``beside``: what other backbones measured of the same cells (`backbones.cells`), told after ours.
    The fallback is a table of the cells that ours measured.
    """
    rows, frame = frame, frame.fillna({"direction": "", "why": ""})
    others: dict[tuple[str, str, str], list[str]] = {}
    for name, lines in (beside or {}).items():
        for line in lines[lines.measured.notna()].itertuples():
            others.setdefault((line.table, line.row, line.column), []).append(_told(name, line))
    reasons = {reason: place for place, reason in enumerate(dict.fromkeys(filter(None, frame.why)))}
    tables = []
    for id, table in load_tables().items():
        cells = []
        for line in frame[frame.table == id].itertuples():
            labels, column = table.row(line.row).labels, table.column(line.column).name
            decimals = table.decimals(line.row, line.column)
            backbone = line.row.split("/")[0] if "backbone" in labels else ""
            label = " · ".join(text for name, text in labels.items() if name != "backbone")
            numbers = [_text(number, decimals) for number in (line.paper, line.measured, line.low, line.high)]
            cells.append([backbone, label, column, *numbers, line.status, line.direction, reasons.get(line.why, -1)])
            if told := others.get((id, line.row, line.column)):
                cells[-1].append("; ".join(told))
        if cells:
            tables.append([table.short, table.name, table.title, cells])
    data = {"signs": {str(status): sign for status, sign in SYMBOL.items()}, "why": list(reasons), "tables": tables}
    measured = [(name, *cell[:9]) for _, name, _, cells in tables for cell in cells if cell[4]]
    text = f"{len(frame)} cells, {len(measured)} of them measured"
    return Explorer("report", data, text, plain_table(("table", *REPORT_COLUMNS), measured, caption), rows)


def _told(backbone: str, line) -> str:
    """What another backbone measured of a cell, in words."""
    decimals = load_tables()[line.table].decimals(line.row, line.column)
    value, low, high = (_text(number, decimals) for number in (line.measured, line.low, line.high))
    return f"{backbone} {value}{f' [{low}, {high}]' if low else ''}, {line.status}"


REPORT_COLUMNS = ("backbone", "row", "metric", "paper", "ours", "low", "high", "verdict", "direction")
"""What the report says of a cell, besides the table before and the reason after it."""


def _text(number: float | None, decimals: int) -> str:
    """A number at the paper's precision, without separators, so that programs read it, too."""
    if pd.isna(number):
        return ""
    return f"{number:g}" if decimals >= 6 else f"{number:.{decimals}f}"


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A plain table as HTML that is XML, too; its first column names the row."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = (
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(text)}</td>" for text in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<table class="plain-table"><caption>{escape(caption)}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )
