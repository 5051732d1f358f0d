"""One function per figure.  Each takes plain numbers, returns a matplotlib Figure, and prints its profile into it.

``show`` hands a figure to the chapter: drawn as SVG, byte for byte the same for the same numbers.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from textwrap import fill

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from turn_trees import subtree_ends

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.decoding import Calibration, StrategyScores
from decoupled_esc.evaluate.published_judges import AgreementTable, PairAccuracy
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.rows import Drawing
from decoupled_esc.taxonomy import ESCONV
from decoupled_esc.train import Preferred

plt.style.use(Path(__file__).with_name("book.mplstyle"))

SHORT = [strategy.abbreviation for strategy in ESCONV]
PALETTE = sns.color_palette(["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F"])


def show(key: str, figure: Figure) -> None:
    """Display ``figure`` in the notebook, its rows with it, and keep it under ``key`` for the book's ``{glue:figure}``."""
    from matplotlib_inline.backend_inline import set_matplotlib_formats
    from myst_nb import glue

    set_matplotlib_formats("svg", metadata={"Date": None})
    glue(key, Drawing(figure))
    plt.close(figure)


def glue_numbers(**numbers) -> None:
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
    axes.set(
        xlabel="stage of the dialogue (0 = opening, 5 = end)", ylabel="share of supporter turns (%)", ylim=(0, 100)
    )
    axes.grid(visible=False)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return source_line(figure, source)


def shares(values: Mapping[str, Mapping[str, Estimate]], source: str, ylabel: str = "share of replies (%)") -> Figure:
    """Bars side by side, such as Figure 2 of DecoupledESC.  ``values``: whose -> of what (an error, a strategy) -> per cent."""
    figure, axes = plt.subplots(figsize=(7.6, 3.6))
    _bars(axes, values)
    axes.set(ylabel=ylabel)
    return source_line(figure, source)


def shares_by_judge(panels: Mapping[str, Mapping[str, Mapping[str, Estimate]]], source: str, ylabel: str) -> Figure:
    """`shares` in a panel per judge, since scores of two judges share no axis.  ``panels``: title -> ``values`` of `shares`.

    The first panel holds what a paper prints, and its bars are hollow.
    """
    figure, rows = plt.subplots(len(panels), 1, figsize=(7.6, 3.2 * len(panels)), squeeze=False)
    for place, (axes, (title, values)) in enumerate(zip(rows[:, 0], panels.items(), strict=True)):
        _bars(axes, values, hollow=not place)
        axes.set(title=title, ylabel=ylabel)
        axes.margins(y=0.25)  # for the legend
    return source_line(figure, source)


def _bars(axes: Axes, values: Mapping[str, Mapping[str, Estimate]], hollow: bool = False) -> None:
    places = np.arange(len(next(iter(values.values()))))
    width = 0.8 / len(values)
    for number, ((name, found), colour) in enumerate(zip(values.items(), PALETTE, strict=False)):
        ends = [(e.value, e.value) if e.low is None else (e.low, e.high) for e in found.values()]
        bars = np.array(
            [[e.value, e.value - low, high - e.value] for e, (low, high) in zip(found.values(), ends, strict=True)]
        )
        look = (
            {"color": "none", "edgecolor": colour, "linewidth": 1.4}
            if hollow
            else {"color": colour, "edgecolor": "white", "linewidth": 0.6}
        )
        axes.bar(places + (number - (len(values) - 1) / 2) * width, bars[:, 0], width, yerr=bars[:, 1:].T if bars[:, 1:].any() else None,
                 hatch=[None, "//", ".."][number % 3], error_kw={"linewidth": 1}, label=name, **look)  # fmt: skip
    axes.set_xticks(places, [label.replace(" ", "\n", 1) for label in next(iter(values.values()))])
    axes.grid(axis="x", visible=False)
    axes.legend()


def nothing_here(why: str, source: str) -> Figure:
    """An empty frame that says why there is nothing to draw."""
    figure, axes = plt.subplots(figsize=(7.6, 1.6))
    axes.text(0.5, 0.5, why, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    return source_line(figure, source)


def training_curves(logs: Mapping[str, Sequence[Mapping[str, float]]], source: str) -> Figure:
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


def preference_curves(runs: Mapping[str, Preferred], source: str) -> Figure:
    """Rewards, their margin, accuracy, and drift from the reference over the steps of preference optimisation.

    Drift is the mean of ln(reference / policy) over the rejected answers, which the reference wrote: an estimate of
    KL(reference || policy) in nats per answer, from answers that the mining has selected.
    """
    figure, grid = plt.subplots(2, 2, figsize=(7.6, 5.4), sharex=True)
    panels = grid.ravel()
    for (name, run), colour, style in zip(runs.items(), PALETTE, ["-", "--", "-."], strict=False):
        steps = [step for step in run.steps if "reward_chosen" in step]
        place, accuracy, chosen, rejected = (
            np.array([step[key] for step in steps]) for key in ("step", "accuracy", "reward_chosen", "reward_rejected")
        )
        panels[0].plot(place, chosen, "-", color=colour, linewidth=1.3, label=f"{name}: chosen")
        panels[0].plot(place, rejected, ":", color=colour, linewidth=1.3, label=f"{name}: rejected")
        for axes, values in zip(
            panels[1:], (chosen - rejected, 100 * accuracy, -rejected / run.loss.beta), strict=True
        ):
            axes.plot(place, values, style, color=colour, label=name)
    panels[2].axhline(50, color="black", linewidth=0.7)
    titles = ("Rewards (nats)", "Margin (nats)", "Preference accuracy (%)", "KL from the reference (nats per answer)")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
    for axes in grid[1]:
        axes.set_xlabel("step")
    panels[0].legend(fontsize=6.5)
    panels[1].legend(fontsize=7)
    return source_line(figure, source)


def over_temperatures(
    sweeps: Mapping[str, Sequence[StrategyScores]], metrics: Mapping[str, str], source: str
) -> Figure:
    """One panel per metric over the temperature that strategies are sampled at, a line per planner, with 95% intervals.

    ``metrics``: key -> title.
    """
    figure, (panels,) = plt.subplots(1, len(metrics), figsize=(7.6, 3.2), squeeze=False)
    for axes, (key, title) in zip(panels, metrics.items(), strict=True):
        for (name, rows), colour, marker in zip(sweeps.items(), PALETTE, "os^Dv", strict=False):
            place, scores = [row.temperature for row in rows], [getattr(row, key) for row in rows]
            axes.plot(place, [e.value for e in scores], marker=marker, markersize=3.5, color=colour, label=name)
            if scores[0].low is not None:
                axes.fill_between(place, [e.low for e in scores], [e.high for e in scores], color=colour, alpha=0.15)
        axes.axvline(0.7, color="black", linewidth=0.7, linestyle=":")
        axes.set(title=title, xlabel="temperature (0: argmax)")
    panels[-1].legend(fontsize=7)
    return source_line(figure, source)


def reliability(calibrations: Mapping[str, Calibration], source: str) -> Figure:
    """How often the most probable strategy is gold, over how probable it was said to be; size of dots by turns."""
    figure, axes = plt.subplots(figsize=(4.6, 4.0))
    axes.plot([0, 100], [0, 100], color="black", linewidth=0.8)
    for (name, found), colour, marker in zip(calibrations.items(), PALETTE, "os^Dv", strict=False):
        turns = np.array([row.turns for row in found.bins])
        place, height = [row.confidence for row in found.bins], [row.accuracy for row in found.bins]
        axes.plot(place, height, color=colour, linewidth=1)
        axes.scatter(place, height, 12 + 90 * turns / turns.sum(), color=colour, marker=marker, label=name)
    axes.set(xlabel="said to be probable (%)", ylabel="was gold (%)", xlim=(0, 100), ylim=(0, 100))
    axes.legend(fontsize=7.5)
    return source_line(figure, source)


def strategy_distributions(
    shares: Mapping[str, Sequence[float] | Missing], gold: Sequence[float], source: str, columns: int = 4
) -> Figure:
    """Figure 3 of DecoupledESC: how often each system uses each strategy, against the gold annotation.

    ``shares``: system -> [8] summing to 1, or why there are none; ``gold`` [8].  At most 8 systems, ``columns`` in a line.
    """
    lines, columns = -(-len(shares) // columns), min(columns, len(shares))
    figure, grid = plt.subplots(
        lines, columns, figsize=(7.6, 0.6 + 3.0 * lines), sharey=True, sharex=True, squeeze=False
    )
    rows = np.arange(len(SHORT))[::-1]
    for axes, (name, share), colour in zip(grid.flat, shares.items(), PALETTE, strict=False):
        if isinstance(share, Missing):
            axes.text(0.5, 0.5, fill(share.reason, 18), transform=axes.transAxes, ha="center", va="center", fontsize=8)
        else:
            axes.barh(rows, 100 * np.asarray(share), color=colour, height=0.62)
            axes.plot(100 * np.asarray(gold), rows, "d", color="black", markersize=4.5, label="gold")
        axes.set_title(name.replace(", ", ",\n"), fontsize=9)
        axes.grid(axis="y", visible=False)
    grid[0, 0].set_yticks(rows, [f"{s.name.split(' or ')[0]} ({s.abbreviation})" for s in ESCONV], fontsize=8)
    for axes in [axes for axes in grid.flat if axes.lines][:1]:
        axes.legend(loc="lower right", fontsize=7.5, handletextpad=0.2)
    figure.supxlabel("share of valid strategies (%)", fontsize=9)
    return source_line(figure, source)


def strategy_strengths(strengths: Mapping[str, Sequence[float]], source: str) -> Figure:
    """Figure 4 (b) of DecoupledESC: how strongly each system prefers each strategy.

    ``strengths``: system -> [8] with sum 8, the strengths whose standard deviation is B; 1 is neither favoured nor avoided.
    """
    figure, axes = plt.subplots(figsize=(7.6, 3.4))
    places = np.arange(len(SHORT))
    axes.axhline(1, color="black", linewidth=0.8)
    for number, ((name, own), colour, marker) in enumerate(zip(strengths.items(), PALETTE, "os^Dv*PX", strict=False)):
        apart = places + 0.14 * (number - (len(strengths) - 1) / 2)
        axes.vlines(apart, 1, own, color=colour, linewidth=1.2)
        axes.plot(apart, own, marker, color=colour, markersize=5, label=name)
    axes.set_xticks(places, [s.name.split(" or ")[0].replace(" ", "\n", 1) for s in ESCONV], fontsize=7.5)
    axes.set(ylabel="strength $p_i$", ylim=(0, None))
    axes.grid(axis="x", visible=False)
    axes.legend(fontsize=8, ncols=len(strengths))
    return source_line(figure, source)


def confusion(matrices: Mapping[str, np.ndarray], source: str) -> Figure:
    """Where predictions go: one panel per system, rows gold, columns predicted, each row in per cent.

    ``matrices``: system -> int [8, 8], rows predicted and columns gold, as ``evaluate`` counts them.
    """
    figure, (panels,) = plt.subplots(1, len(matrices), figsize=(7.6, 3.9), sharey=True, squeeze=False)
    for axes, (name, counts) in zip(panels, matrices.items(), strict=True):
        by_gold = np.asarray(counts).T
        shares = 100 * by_gold / np.maximum(by_gold.sum(axis=1, keepdims=True), 1)
        sns.heatmap(shares, ax=axes, cmap="Blues", vmin=0, vmax=100, annot=True, fmt=".0f", cbar=False, square=True,
                    xticklabels=SHORT, yticklabels=SHORT, annot_kws={"fontsize": 7}, linewidths=0.4)  # fmt: skip
        axes.set(title=name, xlabel="predicted")
        axes.tick_params(length=0)
        axes.tick_params(axis="y", rotation=0)
    panels[0].set_ylabel("gold")
    return source_line(figure, source)


BACKBONES = {"qwen2.5-7b": ("Qwen2.5-7B", "o"), "llama3.1-8b": ("Llama-3.1-8B", "s"), "gemma2-9b": ("Gemma-2-9B", "^")}
"""Of the papers: name and mark, which is hollow in every figure."""


def estimates(
    values: Mapping[str, Mapping[str, Estimate]],
    source: str,
    printed: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
) -> Figure:
    """Point estimates with 95% intervals: one panel per metric, one line per system.  ``values``: metric -> system -> estimate.

    ``printed``: metric -> system -> backbone -> what the paper prints, a hollow mark above ours; it may have systems of its own,
    which stand below.  A panel whose intervals reach to both sides of 0 has a line there: it holds differences.
    """
    printed = printed or {}
    systems = list(dict.fromkeys(name for by in (*values.values(), *printed.values()) for name in by))
    height = max(2.6, 0.8 + (0.4 if printed else 0.26) * len(systems))
    figure, (panels,) = plt.subplots(1, len(values), figsize=(7.6, height), sharey=True, squeeze=False)
    for axes, (metric, found) in zip(panels, values.items(), strict=True):
        ends = [end for one in found.values() for end in (one.value, one.low, one.high) if end is not None]
        if min(ends) < 0 < max(ends):
            axes.axvline(0, color="black", linewidth=0.8)
        for row, (name, colour) in enumerate(zip(systems, cycle(PALETTE), strict=False)):
            if (estimate := found.get(name)) is not None:
                if estimate.low is not None:
                    axes.plot([estimate.low, estimate.high], [-row, -row], color=colour, linewidth=2.2)
                axes.plot(estimate.value, -row, "o", color=colour, markersize=5)
            for backbone, value in printed.get(metric, {}).get(name, {}).items():
                up = 0.26 if estimate is not None else 0
                known, mark = BACKBONES[backbone]
                axes.plot(
                    value, up - row, mark, color="0.25", markerfacecolor="white", markersize=5, label=f"paper: {known}"
                )
        axes.set(title=metric, ylim=(-len(systems) + 0.5, 0.5))
        axes.set_yticks(-np.arange(len(systems)), systems)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.12)
    if printed:
        handles, labels = panels[0].get_legend_handles_labels()
        named = dict(zip(labels, handles, strict=True))
        figure.legend(named.values(), named, loc="outside upper right", ncols=len(named), fontsize=8)
    return source_line(figure, source)


def published_judges(
    conversations: AgreementTable | Missing, preferences: PairAccuracy | Missing, source: str
) -> Figure:
    """Left: kappa with experts, a line per dimension; right: how often simple rules pick the chat that a person preferred."""
    for part in (conversations, preferences):
        if isinstance(part, Missing):
            return nothing_here(part.reason, source)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 6.2), width_ratios=(3, 2), layout="constrained")
    names = list(dict.fromkeys(f"{row.dimension} ({row.sample})" for row in conversations.rows))
    groups = list(dict.fromkeys(row.raters for row in conversations.rows))
    for number, (group, colour, marker) in enumerate(zip(groups, PALETTE, "osD^vP", strict=False)):
        rows = [row for row in conversations.rows if row.raters == group and row.kappa]
        lines = [-names.index(f"{row.dimension} ({row.sample})") + 0.26 - 0.13 * number for row in rows]
        for line, kappa in zip(lines, [row.kappa for row in rows], strict=True):
            if kappa.low is not None:
                left.plot([kappa.low, kappa.high], [line, line], color=colour, linewidth=0.8)
        left.plot([row.kappa.value for row in rows], lines, marker, color=colour, markersize=4, label=group)
    short = [re.sub("^(m|level)_", "", name).replace("_", " ") for name in names]
    left.set_yticks(-np.arange(len(names)), short, fontsize=7.5)
    left.set(xlabel="quadratic kappa", title="agreement with experts")
    left.legend(fontsize=7.5, ncols=3, loc="lower center", bbox_to_anchor=(0.3, -0.22))
    for line, rule in enumerate(preferences.rules):
        kinds = {"all pairs": rule.accuracy, f"pairs without {preferences.best}": rule.without_best}
        for up, (name, found), colour in zip((0.12, -0.12), kinds.items(), PALETTE, strict=False):
            right.plot([found.low, found.high], [up - line] * 2, color=colour, linewidth=2.2)
            right.plot(found.value, up - line, "o", color=colour, markersize=5, label=None if line else name)
    right.axvline(50, color="0.4", linewidth=1, linestyle=":")
    broken = [re.sub(" (by|that) ", r"\n\1 ", rule.rule) for rule in preferences.rules]
    right.set_yticks(-np.arange(len(broken)), broken, fontsize=7.5)
    right.set(xlabel="preferred chat picked (%)", title="people's preferences (iEval)")
    right.legend(fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, -0.22))
    return source_line(figure, source)


def tree_of_words(words: Sequence[str], depths: Sequence[int], learned: Sequence[int], source: str) -> Figure:
    """Who attends to whom in a small packed sequence: rows ask, columns are read; ``learned`` rows predict a target."""
    shades = _mask(depths) * (1 + np.isin(np.arange(len(words)), learned)[:, None])
    figure, axes = plt.subplots(figsize=(6.6, 6.4))
    axes.imshow(shades, cmap=_BLUES, vmin=0, vmax=2, clip_on=False)
    places = np.arange(len(words))
    axes.set_xticks(places, [f"{depth}" for depth in depths], fontsize=7)
    axes.set_yticks(places, words, fontsize=7.5)
    axes.set_xticks(places - 0.5, minor=True)
    axes.set_yticks(places - 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(visible=True, which="minor", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    axes.set(xlabel="position of the token that is read", ylabel="the token that reads")
    return source_line(figure, source)


def masks(trees: Mapping[str, Sequence[int]], source: str) -> Figure:
    """The attention mask of one dialogue in several layouts, at one scale.  ``trees``: layout -> depths [L]."""
    lengths = [len(depths) for depths in trees.values()]
    figure, (panels,) = plt.subplots(1, len(trees), figsize=(7.6, 3.0), width_ratios=lengths, squeeze=False)
    for axes, (name, depths) in zip(panels, trees.items(), strict=True):
        axes.imshow(_mask(depths), cmap=_BLUES, vmin=0, vmax=2, interpolation="nearest", clip_on=False)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"{len(depths):,} tokens", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
    return source_line(figure, source)


def speed_ratios(rows: Sequence[Mapping], source: str) -> Figure:
    """How many times faster packed training is.  ``rows``: name, contender, ratio, ideal (of tokens alone)."""
    figure, axes = plt.subplots(figsize=(7.4, 0.6 + 0.32 * len(rows)))
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    for place, row in enumerate(rows):
        colour = PALETTE[contenders.index(row["contender"])]
        axes.barh(-place, row["ratio"], color=colour, height=0.66)
        axes.text(row["ratio"], -place, f" {row['ratio']:.1f}", va="center", fontsize=8)
        axes.plot([row["ideal"]] * 2, [-place - 0.4, -place + 0.4], color="black", linewidth=2)
    axes.set_yticks(-np.arange(len(rows)), [f"{row['name']} against {row['contender']}" for row in rows], fontsize=8)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="times faster (bar); ratio of tokens (line)", xlim=(0, 1.12 * max(row["ratio"] for row in rows)))
    return source_line(figure, source)


def growth(series: Mapping[str, Sequence[Mapping]], source: str) -> Figure:
    """Time and peak memory over the number of dialogues.  ``series``: name -> rows with dialogues, seconds, peak_bytes."""
    figure, (time, memory) = plt.subplots(1, 2, figsize=(7.6, 3.1))
    for (name, rows), marker in zip(series.items(), "os^", strict=False):
        count = np.array([row["dialogues"] for row in rows])
        seconds = np.array([row["seconds"] for row in rows])
        (line,) = time.plot(count, seconds, marker=marker, linestyle="none", label=name)
        time.plot(count, count * seconds[-1] / count[-1], color=line.get_color(), linewidth=0.8)
        memory.plot(count, [row["peak_bytes"] / 2**30 for row in rows], marker=marker, label=name)
    time.set(xlabel="dialogues", ylabel="seconds", title="Time of one epoch", xscale="log", yscale="log")
    top = max(row["peak_bytes"] for rows in series.values() for row in rows) / 2**30
    memory.set(xlabel="dialogues", ylabel="GiB", title="Peak memory", xscale="log", ylim=(0, 1.15 * top))
    for axes in (time, memory):
        axes.set_xticks(count, [f"{n:,}" for n in count])
        axes.minorticks_off()
    time.legend(fontsize=8)
    return source_line(figure, source)


_BLUES = matplotlib.colors.ListedColormap(["#ffffff", "#9cc7e4", "#0072B2"])


def _mask(depths: Sequence[int]) -> np.ndarray:
    """bool [L, L]: row attends to column."""
    ends = np.array(subtree_ends(depths))
    index = np.arange(len(ends))
    return (index[None, :] <= index[:, None]) & (index[:, None] < ends[None, :])
