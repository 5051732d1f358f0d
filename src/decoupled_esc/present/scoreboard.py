"""The scoreboard of published systems (chapter 18) as tables and one figure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from decoupled_esc.evaluate import STRATEGY_METRICS, TEXT_METRICS, VARIANTS, Estimate, Evaluation
from decoupled_esc.experiments.judged_scoreboard import COLUMNS, FREE, WORDS, JudgedScoreboard
from decoupled_esc.experiments.scoreboard import HUMAN, Scoreboard
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.figures import PALETTE, source_line
from decoupled_esc.present.tables import format_estimate

METRICS = (*TEXT_METRICS, *STRATEGY_METRICS)
LOWER = ("B",)
"""Metrics of which less is better."""

PRINTED = {
    "CauESC": {"accuracy": 33.33, "B-1": 18.13, "B-2": 8.17, "F1": 21.76, "R-L": 18.20},
    "TransESC": {"B-1": 17.16, "B-2": 7.11, "F1": 20.66, "R-L": 17.62},
    "TransESC + Muffin": {"B-1": 16.75, "B-2": 6.83, "F1": 20.60, "R-L": 17.52},
}
"""What the systems' repositories print for these files (``metric.json``, ``result.json``), x100."""

AS_PRINTED = {"B-1": "standard", "B-2": "standard", "F1": "paper", "R-L": "paper"}
"""Our variant that has their formula: BLEU of the whole corpus, F1 and ROUGE-L (beta 1.2) as means over replies."""


def _decimals(metric: str) -> int:
    return 2 if metric == "B" else 1


def _systems(board: Scoreboard) -> Iterator[tuple[str, str, dict[str, dict[str, Estimate]]]]:
    """(test set, system, variant -> metric -> estimate); of the human reference only Distinct says anything."""
    for name, scores in board.scores.items():
        for system, variants in scores.systems.items():
            if system == HUMAN:
                variants = {variant: {key: variants[variant][key] for key in ("D-1", "D-2")} for variant in VARIANTS}
            yield name, system, variants


def names(board: Scoreboard) -> list[str]:
    """All systems, without the human reference."""
    return [system for _, system, _ in _systems(board) if system != HUMAN]


def test_sets(board: Scoreboard) -> pd.DataFrame:
    """What each system was asked, a column per test set."""
    return pd.DataFrame(
        {
            name: {
                "replies": f"{found.rows:,}",
                "turns": f"{found.turns:,}",
                "dialogues": f"{found.dialogues:,}",
                "turns per dialogue": f"{found.turns / found.dialogues:.1f}",
                **{f"dialogues in DecoupledESC's {split} split": f"{n:,}" for split, n in found.splits.items()},
                "turns shared with the other sets": ", ".join(map(str, found.shared.values())),
                "found by words alone, %": f"{100 * found.unique / found.rows:.1f}",
            }
            for name, found in board.sets.items()
        }
    )


def reproduced(board: Scoreboard) -> pd.DataFrame:
    """What repositories print for their own files beside what this code gives for them."""
    measured = {system: variants for _, system, variants in _systems(board)}
    rows = []
    for system in [system for system in PRINTED if system in measured]:
        for metric, printed in PRINTED[system].items():
            ours = (
                board.accuracy[system] if metric == "accuracy" else measured[system][AS_PRINTED[metric]][metric].value
            )
            numbers = {"printed": printed, "here": ours, "difference": round(ours, 2) - printed}
            rows.append({"system": system, "metric": metric} | {key: f"{value:.2f}" for key, value in numbers.items()})
    return (
        pd.DataFrame(rows or [{"system": "–", "metric": "no published replies here"}]).set_index("system").fillna("–")
    )


def levels(board: Scoreboard, variant: str) -> pd.DataFrame:
    """Every metric of every system with 95% intervals, as text; a row per system."""
    rows = [
        {"test set": name, "system": system}
        | {key: format_estimate(variants[variant].get(key), _decimals(key)) for key in METRICS}
        for name, system, variants in _systems(board)
    ]
    return pd.DataFrame(rows).set_index("system")


def places(board: Scoreboard, metrics: Sequence[str]) -> pd.DataFrame:
    """The place of every system by each metric in both variants: "paper / standard"."""
    found = [(system, variants) for _, system, variants in _systems(board) if system != HUMAN]
    frame = pd.DataFrame(index=[system for system, _ in found])
    for metric in metrics:
        ranks = [
            pd.Series({s: v[variant][metric].value for s, v in found}).rank(ascending=metric in LOWER).astype(int)
            for variant in VARIANTS
        ]
        frame[metric] = [f"{a} / {b}" for a, b in zip(*ranks, strict=True)]
    return frame


def swapped(board: Scoreboard, metric: str) -> tuple[int, int, int]:
    """(pairs of systems, those whose order differs between the variants, those that neither variant tells apart).

    Two systems are told apart where the interval of their difference excludes zero; on different test sets its half width is
    the root of the sum of squares of theirs, and so it is taken here for all.
    """
    found = [variants for _, system, variants in _systems(board) if system != HUMAN]
    pairs = list(itertools.combinations(found, 2))
    signs = [[_gap(a[variant][metric], b[variant][metric]) for variant in VARIANTS] for a, b in pairs]
    differ = sum(one[0] * other[0] < 0 for one, other in signs)
    blurred = sum(not any(abs(gap) > width for gap, width in both) for both in signs)
    return len(pairs), differ, blurred


def _gap(a: Estimate, b: Estimate) -> tuple[float, float]:
    """(difference, half width of its interval)."""
    halves = [0.0 if e.low is None else (e.high - e.low) / 2 for e in (a, b)]
    return a.value - b.value, float(np.hypot(*halves))


def paired(board: Scoreboard, metrics: Sequence[str]) -> pd.DataFrame:
    """Ours minus theirs on the turns of both test sets, with 95% intervals, variant ``paper``."""
    rows = [
        {"turns": next(iter(found.details.values())).turns, "difference": contrast}
        | {key: format_estimate(variants["paper"].get(key), _decimals(key), sign="+") for key in metrics}
        for found in board.paired.values()
        for contrast, variants in found.contrasts.items()
    ]
    return pd.DataFrame(rows).set_index("difference") if rows else pd.DataFrame({"turns": {"no test set is shared": 0}})


def judged(board: JudgedScoreboard | Missing) -> pd.DataFrame | Missing:
    """Every system by the offline judges, a row per system, and its paired difference from the human reference at the same turns; as text."""
    if isinstance(board, Missing):
        return board
    rows = []
    for name, table in board.tables.items():
        for system, scores in table.systems.items():
            gaps = table.contrasts.get(f"{system} - {HUMAN}", {})
            row = {"test set": name, "system": system}
            for column in COLUMNS:
                row[column] = format_estimate(scores[column], 1 if column == WORDS else 2)
                row[f"minus human: {column}"] = format_estimate(gaps.get(column), 1 if column == WORDS else 2, sign="+")
            rows.append(row)
    return pd.DataFrame(rows).set_index("system")


def judged_gaps(board: JudgedScoreboard | Missing) -> list[Estimate]:
    """Every system's difference from the human reference in the share without error, in points."""
    if isinstance(board, Missing):
        return []
    contrasts = [pair for table in board.tables.values() for pair in table.contrasts.items()]
    return [row[FREE] for name, row in contrasts if name.endswith(f" - {HUMAN}")]


def standing(found: Evaluation, name: str) -> str:
    """Where the system ``name`` stands among those of ``found``: levels in both variants, places, differences; plain text."""
    parts = []
    for variant in VARIANTS:
        scores = {system: variants[variant] for system, variants in found.systems.items()}
        cells = {
            key: {system: format_estimate(row.get(key), _decimals(key)) for system, row in scores.items()}
            | {
                "place": f"{pd.Series({s: r[key].value for s, r in scores.items()}).rank(ascending=key in LOWER)[name]:.0f} of {len(scores)}"
            }
            for key in METRICS
        }
        parts.append(
            f"variant {variant}, 95% intervals over {found.details[name].dialogues} dialogues\n{pd.DataFrame(cells).to_string()}"
        )
    gaps = {
        contrast.removeprefix(f"{name} - "): {
            key: format_estimate(row["paper"][key], _decimals(key), sign="+") for key in METRICS
        }
        for contrast, row in found.contrasts.items()
    }
    if gaps:
        parts.append(f"{name} minus each, variant paper\n{pd.DataFrame(gaps).T.to_string()}")
    invalid = 100 * found.details[name].invalid_rate
    return "\n\n".join(
        [f"{name}: {found.details[name].turns:,} turns, {invalid:.1f}% without a valid strategy", *parts]
    )


def forest(board: Scoreboard, metrics: Mapping[str, str], source: str) -> Figure:
    """One panel per metric, a line per system, grouped by test set: full marks ``paper``, hollow ``standard``.

    ``metrics``: key -> title.
    """
    lines = [row for row in _systems(board) if row[1] != HUMAN]
    sets = list(dict.fromkeys(name for name, _, _ in lines))
    height, ticks, place = 0.5, [], {}
    for (name, system, _), before in zip(lines, [None, *lines], strict=False):
        height -= 1.6 if before and before[0] != name else 1
        place[name, system] = height
        ticks.append(system)
    figure, (panels,) = plt.subplots(1, len(metrics), figsize=(7.6, 0.8 + 0.27 * -height), sharey=True, squeeze=False)
    for axes, (key, title) in zip(panels, metrics.items(), strict=True):
        for name, system, variants in lines:
            colour = PALETTE[sets.index(name) % len(PALETTE)]
            for variant, up, face in (("standard", -0.16, "white"), ("paper", 0.16, colour)):
                found, y = variants[variant][key], place[name, system] + up
                if found.low is not None:
                    axes.plot([found.low, found.high], [y, y], color=colour, linewidth=1.6)
                axes.plot(found.value, y, "o", color=colour, markerfacecolor=face, markersize=4)
        axes.set(title=title)
        axes.set_yticks(list(place.values()), ticks, fontsize=7.5)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
    return source_line(figure, source)
