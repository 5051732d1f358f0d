"""What chapter 19 says of its studies: the rules of its answers, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from decoupled_esc.evaluate import bias_sources
from decoupled_esc.evaluate.acceptable import GOLD, Order
from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.tables import format_estimate, format_scores

Table = Mapping[str, Mapping[str, Estimate]]

DECODINGS = (bias_sources.ARGMAX, bias_sources.PAPER, bias_sources.ONE)


def excludes_zero(estimate: Estimate) -> bool:
    """Whether the 95% interval lies on one side of 0; without an interval it does not."""
    return estimate.low is not None and (estimate.low > 0 or estimate.high < 0)


def frame(table: Table, columns: Sequence[str], rows: Mapping[str, str] | None = None) -> pd.DataFrame:
    """A line per row of ``table``, as text; ``rows``: which ones, and what they are called."""
    shown = rows or {name: name for name in table}
    return pd.DataFrame(
        {title: format_scores(table[name], columns) for name, title in shown.items() if name in table}
    ).T


def which_part(effects: Table, metric: str) -> str:
    """Which main effect on ``metric`` has an interval that excludes 0, as a clause with both numbers."""
    total, plans, words = (effects[row][metric] for row in ("total", "plans", "words"))
    carried = excludes_zero(plans), excludes_zero(words)
    said = {
        (True, True): "both parts change it",
        (True, False): "the plans change it, and of the words the interval holds 0",
        (False, True): "the words change it, and of the plans the interval holds 0",
        (False, False): "of neither part does the interval exclude 0",
    }[carried]
    numbers = f"plans {format_estimate(plans, 1, '+')}, words {format_estimate(words, 1, '+')}"
    return f"{format_estimate(total, 1, '+')} in all: {said} ({numbers})"


def told(change: Estimate, decimals: int = 1) -> str:
    """A difference, and whether its interval says that there is one."""
    said = "the interval holds 0" if not excludes_zero(change) else "it rises" if change.value > 0 else "it falls"
    return f"{format_estimate(change, decimals, '+')}: {said}"


def answer(changes: Sequence[Estimate], side: int) -> str:
    """Whether every one of ``changes`` has the sign ``side`` (1 or -1) and an interval that excludes 0."""
    sides = {one.value > 0 if excludes_zero(one) else None for one in changes}
    return "yes" if sides == {side > 0} else "no, the other way round" if sides == {side < 0} else "not shown"


def length_carries(whole: Estimate, cut: Estimate) -> str:
    """Whether a difference between whole replies is gone once they are cut to one length."""
    if not excludes_zero(whole):
        return "there is no difference that it could carry"
    return "no" if excludes_zero(cut) and (cut.value > 0) == (whole.value > 0) else "yes"


def better_plan(differences: Table, metric: str) -> str:
    """Whether ``metric`` rises where a wrong plan is replaced by the gold strategy."""
    return told(differences["gold - plan, wrong"][metric])


PARTS = {
    "hiding earlier strategies": ("vanilla-no-tags - vanilla-sft", "decoupled-sft - decoupled-tags"),
    "a planner of its own": ("decoupled-tags - vanilla-sft", "decoupled-sft - vanilla-no-tags"),
    "training twice as long": ("vanilla-long - vanilla-sft",),
}
"""What else is between the coupled and the decoupled system -> the differences in which it alone changes."""


def carried(contrasts: Table, metric: str, decimals: int = 1) -> str:
    """Which of `PARTS` change ``metric``: in every difference the same sign, and an interval that excludes 0."""
    said = []
    for part, names in PARTS.items():
        found = [contrasts[name][metric] for name in names]
        sure = all(map(excludes_zero, found)) and len({one.value > 0 for one in found}) == 1
        numbers = " and ".join(format_estimate(one, decimals, "+") for one in found)
        said.append(f"{part} {'changes it' if sure else 'is not shown to change it'} ({numbers})")
    return "; ".join(said)


def changed(tables: Mapping[str, Table], rows: Mapping[str, str], metrics: Mapping[str, str]) -> dict:
    """For `figures.estimates`: title -> row -> difference; ``rows``: difference -> title, in each of ``tables`` (by a suffix)."""
    return {
        title: {f"{row}{suffix}": table[name][metric] for name, row in rows.items() for suffix, table in tables.items()}
        for metric, title in metrics.items()
    }


def order_changes(orders: Mapping[str, Mapping[str, Order]], metric: str) -> str:
    """Whether any pair of systems that is told apart stands the other way round under another definition."""
    found = {name: own[metric] for name, own in orders.items() if name != GOLD}
    turned = [
        f"{'; '.join(order.reversed)}, and by {name} the other way round"
        for name, order in found.items()
        if order.reversed
    ]
    swapped = ", ".join(f"{order.swapped} of {order.pairs} ({name})" for name, order in found.items())
    what = (
        f"the order changes: under gold alone {', '.join(turned)}"
        if turned
        else "the order of pairs that are told apart never changes"
    )
    return f"{what} (pairs in another order at all, most by chance: {swapped})"


def order_table(orders: Mapping[str, Mapping[str, Order]]) -> pd.DataFrame:
    """Per definition and metric: how many pairs of systems change their order."""
    return pd.DataFrame(
        {
            f"{name}, {metric}": {
                "pairs": one.pairs, "told apart": one.apart, "in another order than under gold alone": one.swapped,
                "of these told apart both ways": "; ".join(one.reversed) or "none",
            }
            for name, own in orders.items()
            for metric, one in own.items()
        }
    ).T  # fmt: skip


def sources_of(parts: Mapping[str, Estimate]) -> str:
    """The parts of one planner's B by argmax, as a sum."""
    names = {"decoding, argmax": "decoding makes", "confidence": "confidence", "shares": "shares of strategies"}
    return ", ".join(f"{words} {format_estimate(parts[part], 2)}" for part, words in names.items())


def survives(contrast: Table) -> str:
    """At which decodings a difference in B excludes 0, before and after recalibration.

    Left out is T = 1 after recalibration, where B is near 0 by construction.
    """
    said = []
    for scores, decodings in ((bias_sources.OWN, DECODINGS), (bias_sources.FITTED, DECODINGS[:2])):
        found = {name: contrast[f"{scores}, {name}"]["B"] for name in decodings}
        numbers = ", ".join(f"{name}: {format_estimate(one, 2, '+')}" for name, one in found.items())
        there = sum(map(excludes_zero, found.values()))
        said.append(f"{scores}, the interval excludes 0 at {there} of {len(found)} decodings ({numbers})")
    return "; ".join(said)


def bias_frame(scores: Mapping[str, Table], metric: str) -> pd.DataFrame:
    """``metric`` of every planner (or difference) under every condition, as text."""
    decimals = 2 if metric == "B" else 1
    return pd.DataFrame(
        {
            name: {key: format_estimate(row[metric], decimals) for key, row in own.items()}
            for name, own in scores.items()
        }
    )


def bias_parts(parts: Table, names: Sequence[str]) -> pd.DataFrame:
    """The parts ``names`` of B of every planner, as text."""
    return pd.DataFrame(
        {planner: {name: format_estimate(own[name], 2) for name in names} for planner, own in parts.items()}
    ).T


def panels(scores: Mapping[str, Table], conditions: Mapping[str, str], metric: str) -> dict[str, dict[str, Estimate]]:
    """For `figures.estimates`: title -> planner -> ``metric``; ``conditions``: title -> condition."""
    return {
        title: {name: own[condition][metric] for name, own in scores.items()} for title, condition in conditions.items()
    }


AS_SCORED = f"{bias_sources.OWN}, {bias_sources.ARGMAX}"
RECALIBRATED = f"{bias_sources.FITTED}, {bias_sources.ARGMAX}"
DPO = "decoupled-dpo - decoupled-sft"


def _turned(found) -> str:
    """The pairs of systems that stand the other way round by accuracy, told apart under both definitions."""
    pairs = {name: own["accuracy"].reversed for name, own in found.orders.items() if name != GOLD}
    return (
        "; ".join(
            f"{'; '.join(turned)} under gold alone, the other way round by {name}"
            for name, turned in pairs.items()
            if turned
        )
        or "none"
    )


ANSWERS = (
    ("1. F1, decoupled minus coupled, after SFT", "plans-and-words", lambda of: format_estimate(of.effects["total"]["F1"], 1, "+")),
    ("1. of this, the plans", "plans-and-words", lambda of: format_estimate(of.effects["plans"]["F1"], 1, "+")),
    ("1. of this, the words", "plans-and-words", lambda of: format_estimate(of.effects["words"]["F1"], 1, "+")),
    ("2. F1, gold in place of a wrong plan", "given-strategies", lambda of: better_plan(of.differences, "F1")),
    ("3. pairs of systems that turn round, by accuracy", "accepted-strategies", _turned),
    ("4. B of the planner after SFT, by argmax", "bias-sources", lambda of: format_estimate(of.scores["decoupled-sft"][AS_SCORED]["B"], 2)),
    ("4. where it comes from", "bias-sources", lambda of: sources_of(of.parts["decoupled-sft"])),
    ("4. SP-DPO minus SFT in B, by argmax", "bias-sources", lambda of: format_estimate(of.contrasts[DPO][AS_SCORED]["B"], 2, "+")),
    ("4. the same, both recalibrated", "bias-sources", lambda of: format_estimate(of.contrasts[DPO][RECALIBRATED]["B"], 2, "+")),
)  # fmt: skip
"""The answers of studies 1 to 4: what a row shows, the step that it reads, and how."""


def by_backbone(everywhere: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """`ANSWERS` as text, a column per backbone; ``everywhere``: step -> backbone -> its result, or `Missing`."""
    found: dict[str, dict[str, str]] = {}
    for title, step, text in ANSWERS:
        for backbone, result in everywhere[step].items():
            found.setdefault(backbone, {})[title] = "–" if isinstance(result, Missing) else text(result)
    return pd.DataFrame(found, index=[title for title, *_ in ANSWERS]).fillna("–")
