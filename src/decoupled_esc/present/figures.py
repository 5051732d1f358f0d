"""One function a figure.  Each takes plain numbers, returns a matplotlib Figure, and prints its profile into it.

``show`` hands a figure to the chapter: drawn as SVG, byte for byte the same for the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.taxonomy import ESCONV

plt.style.use(Path(__file__).with_name("book.mplstyle"))

SHORT = [strategy.abbreviation for strategy in ESCONV]
PALETTE = sns.color_palette(["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F"])


def show(key: str, figure: Figure) -> None:
    """Display ``figure`` in the notebook and keep it under ``key`` for the book's ``{glue:figure}``."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats
    from myst_nb import glue

    set_matplotlib_formats("svg", metadata={"Date": None})
    glue(key, figure)
    plt.close(figure)


def say(**numbers) -> None:
    """Keep ``numbers`` for the running text's ``{glue:text}``, printing nothing."""
    from myst_nb import glue

    for key, value in numbers.items():
        glue(key, value, display=False)


def source_line(figure: Figure, text: str) -> Figure:
    """Print who made this figure under it, inside the drawing, so that a copied figure still says so."""
    figure.text(0.995, -0.005, text, ha="right", va="top", fontsize=7.5, color="#8a3f00")
    return figure


def strategy_by_stage(counts: np.ndarray, source: str) -> Figure:
    """Figure 8 of DecoupledESC: share of each strategy at each stage.  ``counts`` int [6, 8]."""
    shares = 100 * counts / counts.sum(axis=1, keepdims=True)
    figure, axes = plt.subplots(figsize=(7.2, 4.0))
    stages = np.arange(len(shares))
    below = np.zeros(len(shares))
    for index, strategy in enumerate(ESCONV):
        hatch = "//" if index % 2 else None  # neighbours differ in more than colour
        axes.bar(stages, shares[:, index], bottom=below, width=0.82, color=PALETTE[index], hatch=hatch,
                 edgecolor="white", linewidth=0.6, label=f"{strategy.name} ({strategy.abbreviation})")  # fmt: skip
        for stage in stages:
            if shares[stage, index] >= 6:
                axes.text(stage, below[stage] + shares[stage, index] / 2, f"{shares[stage, index]:.0f}", ha="center",
                          va="center", fontsize=7.5, bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none"})  # fmt: skip
        below += shares[:, index]
    axes.set(xlabel="stage of the dialogue (0 = opening, 5 = end)", ylabel="share of supporter turns (%)", ylim=(0, 100))
    axes.grid(visible=False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return source_line(figure, source)


def training_curves(logs: Mapping[str, Sequence[Mapping]], source: str) -> Figure:
    """Loss and learning rate over tokens read.  ``logs``: name -> steps of ``train.Log``."""
    figure, (loss, rate) = plt.subplots(1, 2, figsize=(7.6, 3.2), width_ratios=(3, 2))
    styles = ["-", "--", "-.", ":"]
    for (name, steps), style in zip(logs.items(), styles, strict=False):
        tokens = [step["tokens"] / 1e3 for step in steps]
        loss.plot(tokens, [step["loss"] for step in steps], style, label=name)
        rate.plot(tokens, [step["learning_rate"] for step in steps], style, label=name)
    loss.set(xlabel="tokens read (thousands)", ylabel="loss on the target (nats per token)", title="Loss")
    rate.set(xlabel="tokens read (thousands)", title="Learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    loss.legend()
    return source_line(figure, source)


def strategy_distributions(shares: Mapping[str, Sequence[float]], gold: Sequence[float], source: str) -> Figure:
    """Figure 3 of DecoupledESC: how often each system uses each strategy, against the gold annotation.

    ``shares``: system -> [8] summing to 1; ``gold`` [8].
    """
    figure, panels = plt.subplots(1, len(shares), figsize=(7.6, 3.6), sharey=True, sharex=True)
    rows = np.arange(len(SHORT))[::-1]
    for axes, (name, share), colour in zip(np.atleast_1d(panels), shares.items(), PALETTE, strict=False):
        axes.barh(rows, 100 * np.asarray(share), color=colour, height=0.62)
        axes.plot(100 * np.asarray(gold), rows, "d", color="black", markersize=4.5, label="gold")
        axes.set_title(name, fontsize=9)
        axes.grid(axis="y", visible=False)
    np.atleast_1d(panels)[0].set_yticks(rows, [f"{s.name.split(' or ')[0]} ({s.abbreviation})" for s in ESCONV], fontsize=8)
    np.atleast_1d(panels)[0].legend(loc="lower right", fontsize=7.5, handletextpad=0.2)
    figure.supxlabel("share of valid strategies (%)", fontsize=9)
    return source_line(figure, source)


def confusion(matrices: Mapping[str, np.ndarray], source: str) -> Figure:
    """Where predictions go: one panel a system, rows gold, columns predicted, each row in per cent.

    ``matrices``: system -> int [8, 8], rows predicted and columns gold, as ``evaluate`` counts them.
    """
    figure, panels = plt.subplots(1, len(matrices), figsize=(7.6, 3.9), sharey=True)
    for axes, (name, counts) in zip(np.atleast_1d(panels), matrices.items(), strict=True):
        by_gold = np.asarray(counts).T
        shares = 100 * by_gold / np.maximum(by_gold.sum(axis=1, keepdims=True), 1)
        sns.heatmap(shares, ax=axes, cmap="Blues", vmin=0, vmax=100, annot=True, fmt=".0f", cbar=False, square=True,
                    xticklabels=SHORT, yticklabels=SHORT, annot_kws={"fontsize": 7}, linewidths=0.4)  # fmt: skip
        axes.set(title=name, xlabel="predicted")
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
    np.atleast_1d(panels)[0].set_ylabel("gold")
    return source_line(figure, source)


def estimates(values: Mapping[str, Mapping[str, Estimate]], source: str) -> Figure:
    """Point estimates with 95% intervals: one panel a metric, one line a system.  ``values``: metric -> system -> estimate."""
    figure, panels = plt.subplots(1, len(values), figsize=(7.6, 2.6), sharey=True)
    for axes, (metric, systems) in zip(np.atleast_1d(panels), values.items(), strict=True):
        for row, ((_, estimate), colour) in enumerate(zip(systems.items(), PALETTE, strict=False)):
            if estimate.low is not None:
                axes.plot([estimate.low, estimate.high], [-row, -row], color=colour, linewidth=2.2)
            axes.plot(estimate.value, -row, "o", color=colour, markersize=5)
        axes.set(title=metric, ylim=(-len(systems) + 0.5, 0.5))
        axes.set_yticks(-np.arange(len(systems)), list(systems))
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    return source_line(figure, source)
