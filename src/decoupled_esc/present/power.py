"""What the papers' comparisons could have seen, judged (appendix Judges) and measured (chapter 19): tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from decoupled_esc.evaluate.power import Spread, pooled, smallest_detectable, spread_of
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments.agreement import JudgedSpread
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.cso_tables import LOSSES
from decoupled_esc.present.figures import PALETTE, nothing_here, source_line
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.questions import FIRST
from decoupled_esc.present.replication import COMPARATORS, PAPER_TURNS
from decoupled_esc.present.tables import format_estimate

TURNS, PAPER_SCALE = 100, 5.0
"""DecoupledESC, section 5: one rating of 100 test turns per system, from 0 to 5."""

DIMENSIONS = {"Flu": "fluency", "Pro": "professionalism", "Emp": "empathy", "Hel": "helpfulness"}
CONTRASTS = {
    "Vanilla-DPO minus Vanilla-SFT": ("vanilla/dpo", "vanilla/sft"),
    "Decoupled-SFT minus Vanilla-SFT": ("decoupled/sft", "vanilla/sft"),
    "Decoupled-DPO minus Vanilla-DPO": ("decoupled/dpo", "vanilla/dpo"),
    "Decoupled-DPO minus Decoupled-SFT": ("decoupled/dpo", "decoupled/sft"),
}
BACKBONES = {"qwen2.5-7b": "Qwen2.5-7B", "llama3.1-8b": "Llama-3.1-8B"}


def detectable(found: JudgedSpread, rater: str) -> float:
    """The smallest difference between two systems that `TURNS` ratings by ``rater`` find, in points from 0 to 5.

    From the median spread over dimensions, rescaled; replies to posts stand for replies in conversations.
    """
    spread = median(row.sd for row in found.spreads if row.rater == rater)
    return smallest_detectable(spread, TURNS) * PAPER_SCALE / found.scale


def raters(found: JudgedSpread) -> list[str]:
    """All raters, experts first."""
    return sorted({row.rater for row in found.spreads}, key=lambda rater: (rater != "experts", rater))


def table(found: JudgedSpread | Missing) -> pd.DataFrame | Missing:
    """What each rater says of the papers' two backbones, and what it could have seen; a row per rater, as text."""
    if isinstance(found, Missing):
        return found
    rows = {}
    for rater in raters(found):
        own = {row.dimension: row for row in found.spreads if row.rater == rater}
        rows[rater] = {
            f"empathy, {found.first} minus {found.second}": format_estimate(own["Empathy"].difference, 2, sign="+"),
            "median over dimensions": f"{median(row.difference.value for row in own.values()):+.2f}",
            "SD of a difference": f"{median(row.sd for row in own.values()):.2f}",
            f"smallest detectable with {TURNS} turns, scale 0 to 5": f"{detectable(found, rater):.2f}",
        }
    return pd.DataFrame(rows).T


def printed() -> Iterator[tuple[str, str, str, float]]:
    """(contrast, backbone, dimension, difference) of the judged columns of DecoupledESC's Table 3."""
    values = load_tables()["decoupledesc/table-3"]
    for contrast, pair in CONTRASTS.items():
        for backbone in BACKBONES:
            for dimension in DIMENSIONS:
                rows = (f"{backbone}/{row}" for row in pair)
                yield contrast, backbone, dimension, values.contrast(*rows, dimension)


def seen(found: JudgedSpread, rater: str) -> list[tuple[str, str, str, float]]:
    """Those of `printed` that are at least as large as what ``rater`` could have seen."""
    bar = detectable(found, rater)
    return [row for row in printed() if abs(row[3]) >= bar]


def figure(found: JudgedSpread | Missing, source: str) -> Figure:
    """The paper's judged differences against what its design could see: shaded for the sharpest rater and the dullest."""
    if isinstance(found, Missing):
        return nothing_here(found.reason, source)
    bars = [detectable(found, rater) for rater in raters(found)]
    drawing, axes = plt.subplots(figsize=(7.6, 3.4))
    for bar, shade in ((max(bars), 0.10), (min(bars), 0.14)):
        axes.axvspan(-bar, bar, color="0.3", alpha=shade, linewidth=0)
    axes.axvline(0, color="0.4", linewidth=0.8)
    rows = list(printed())
    for number, (contrast, colour) in enumerate(zip(CONTRASTS, PALETTE, strict=False)):
        for backbone, marker in zip(BACKBONES, "os", strict=True):
            mine = [(d, value) for c, b, d, value in rows if (c, b) == (contrast, backbone)]
            places = [-list(DIMENSIONS).index(d) + 0.3 - 0.2 * number for d, _ in mine]
            axes.plot(
                [value for _, value in mine], places, marker, color=colour, markersize=5, linestyle="none",
                markerfacecolor="none", label=contrast if marker == "o" else None,
            )  # fmt: skip
    axes.set_yticks([-place for place in range(len(DIMENSIONS))], list(DIMENSIONS.values()))
    axes.set(xlabel="the paper's difference in points from 0 to 5 (circle Qwen2.5-7B, square Llama-3.1-8B)")
    axes.grid(axis="y", visible=False)
    axes.legend(fontsize=7.5, loc="lower right")
    return source_line(drawing, source)


# --- Measured columns (chapter 19) ---

SAMPLED = {"D-1": "D-1", "B-1": "B-1", "F1": "F1", "R-L": "R-L", "B": "B1", "Q_W": "Q_W1", "Q": "Q1"}
"""Column of the papers -> our metric of one sample per turn, which is what both papers take."""

_QUADRANTS = (("nsnr", "psnr"), ("nspr", "psnr"), ("nsnr", "all"), ("psnr", "all"), ("nspr", "all"))
_LOSSES = tuple((f"{tuning}/{loss}", f"{tuning}/sft") for tuning in ("full", "lora") for loss in LOSSES)
COMPARED: dict[str, tuple[tuple[str, str], ...]] = {
    "decoupledesc/table-3": (
        *((f"{one}/{a}", f"{one}/{b}") for one in ("vanilla", "decoupled") for a, b in COMPARATORS.items()),
        *((f"decoupled/{method}", f"vanilla/{method}") for method in ("base", "sft", "dpo")),
    ),
    "decoupledesc/table-5": _QUADRANTS,
    "cso/table-2": (
        *((prompted, "base") for prompted in ("direct-refine", "self-refine", "with-example")),
        *((f"{tuning}/{a}", b.format(tuning)) for tuning in ("full", "lora") for a, b in (("sft", "base"), ("cso", "{}/sft"))),
    ),
    "cso/table-4": (("sft", "base"), ("cso", "sft"), ("cso-random", "sft"), ("cso", "cso-random")),
    **{f"cso/table-{number}": _LOSSES for number in (9, 10, 11)},
}  # fmt: skip
"""Table -> rows (without their backbone) that it puts beside one another, each the first minus the second."""


@dataclass(frozen=True)
class Published:
    """A published difference, and its size in units of the smallest that its design could see."""

    pair: tuple[str, str]
    """Rows, without their backbone."""
    column: str
    difference: float
    ratio: float


def spreads(asked: SeedEvaluation, contrasts: Sequence[str]) -> dict[str, Spread]:
    """Column of the papers -> how much differences vary here: pooled over those of ``contrasts`` that were measured."""
    turns = next(iter(asked.together.details.values())).turns
    there = [name for name in contrasts if name in asked.together.contrasts]

    def one(name: str, key: str) -> Spread:
        single = [by[name][key] for by in asked.by_seed.values() if name in by]
        return spread_of(asked.together.contrasts[name]["paper"][key], single, turns)

    return {column: pooled([one(name, key) for name in there]) for column, key in SAMPLED.items()}


def bars(found: Mapping[str, Spread], judged: JudgedSpread | Missing, turns: int = PAPER_TURNS) -> dict[str, float]:
    """Column -> the smallest difference that one training run of each system shows at ``turns`` turns; of judges, to experts."""
    own = {column: one.detectable(turns) for column, one in found.items()}
    return own | (
        {} if isinstance(judged, Missing) else dict.fromkeys(DIMENSIONS, detectable(judged, raters(judged)[0]))
    )


def held_against(table: str, smallest: Mapping[str, float]) -> list[Published]:
    """Every difference of ``table`` in `COMPARED`, of each backbone, in the columns of ``smallest``."""
    values = load_tables()[table]
    known, columns = {row.key for row in values.rows}, [one.key for one in values.columns if one.key in smallest]
    backbones = dict.fromkeys(row.key.partition("/")[0] for row in values.rows)
    differences = {
        (backbone, pair, column): values.contrast(*(f"{backbone}/{row}" for row in pair), column)
        for backbone in backbones
        for pair in COMPARED[table]
        if known.issuperset(f"{backbone}/{row}" for row in pair)
        for column in columns
    }
    return [
        Published(pair, column, change, abs(change) / smallest[column] if smallest[column] else float("inf"))
        for (_, pair, column), change in differences.items()
        if change is not None
    ]


def share_seen(found: Sequence[Published], columns: Sequence[str] | None = None) -> str:
    """How many of ``found`` are as large as the smallest that can be seen, as text."""
    own = [one for one in found if columns is None or one.column in columns]
    return f"{sum(one.ratio >= 1 for one in own)} of {len(own)}"


def ratios_figure(panels: Mapping[str, Mapping[str, Sequence[Published]]], source: str) -> Figure:
    """Published differences over the smallest that their design sees, log scale; ``panels``: title -> table's name -> differences."""
    drawing, axes_of = plt.subplots(1, len(panels), figsize=(7.6, 4.0), sharex=True)
    for axes, (title, tables) in zip(axes_of, panels.items(), strict=True):
        columns = list(dict.fromkeys(one.column for own in tables.values() for one in own))
        axes.axvspan(1e-3, 1, color="0.3", alpha=0.12, linewidth=0)
        for number, ((name, own), colour) in enumerate(zip(tables.items(), PALETTE, strict=False)):
            high = 0.32 - 0.64 * number / max(1, len(tables) - 1)
            places = [high - columns.index(one.column) for one in own]
            shown = [max(one.ratio, 0.02) for one in own]  # equal numbers have no place on a log scale
            axes.plot(
                shown, places, "os^Dv"[number], color=colour, markersize=3.5, linestyle="none", alpha=0.7, label=name
            )
        axes.set_yticks([-place for place in range(len(columns))], columns)
        axes.set(title=title, xscale="log", xlim=(0.015, 60), xlabel="published / smallest that can be seen")
        axes.grid(axis="y", visible=False)
        axes.legend(fontsize=6.5, loc="lower right")
    return source_line(drawing, source)


def runs_table(found: Mapping[str, Spread], turns: int = PAPER_TURNS) -> pd.DataFrame:
    """Training runs of each system that the differences of the research questions need at ``turns`` turns, as text."""
    values, rows = load_tables()["decoupledesc/table-3"], {}
    for question, (_, _, pair) in FIRST.items():
        for column in ("F1", "Q_W", "Q", "B"):
            rows[f"{question}, {column}"] = row = {"seen with one run": f"{found[column].detectable(turns):.2f}"}
            for backbone, title in BACKBONES.items():
                change = values.contrast(*(f"{backbone}/{one}" for one in pair), column)
                row |= {title: f"{change:+.2f}", f"runs, {title}": _runs(found[column], change, turns)}
    return pd.DataFrame(rows).T


MOST_RUNS = 50
"""Where more are needed, the number hangs on digits that nobody knows."""


def _runs(spread: Spread, change: float, turns: int) -> str:
    needed = spread.runs_needed(change, turns) if change else None
    if needed is None:
        return "none: too few turns"
    many = f"over {MOST_RUNS}" if needed > MOST_RUNS else str(needed)
    return "1 or more" if spread.runs is None else many
