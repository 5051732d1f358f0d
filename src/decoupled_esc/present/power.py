"""What the papers' judged comparisons could have seen (appendix Judges), as a table and a figure."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from decoupled_esc.evaluate.power import smallest_detectable
from decoupled_esc.experiments.agreement import JudgedSpread
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.figures import PALETTE, nothing_here, source_line
from decoupled_esc.present.paper import load_tables
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
