"""What is said of the papers' claims, and the one rule by which it is said (chapters 09 to 13)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import benchmarks
from decoupled_esc.present.paper import PaperTable, load_tables
from decoupled_esc.present.tables import format_estimate

MIN_SEEDS = 3
"""With fewer, an interval knows how dialogues differ and little of how training runs do: no claim is decided."""
LEVEL = 0.05
"""Largest p-value, corrected for the rows of a table, at which a claim is decided."""


BETTER = {"B-1": 1, "F1": 1, "R-L": 1, "Q_W": 1, "Q": 1, "B": -1}
FIRST = {
    "RQ1": ("vanilla-dpo - vanilla-sft", BETTER, ("vanilla/dpo", "vanilla/sft")),
    "RQ2": ("decoupled-dpo - vanilla-dpo", {"D-1": 1} | BETTER, ("decoupled/dpo", "vanilla/dpo")),
    "RQ3": ("decoupled-dpo - decoupled-sft", BETTER, ("decoupled/dpo", "decoupled/sft")),
}
"""Question -> (difference, metric -> the sign that the claim needs, Table 3's rows): the first table of its chapter, one family."""


@dataclass(frozen=True)
class Claim:
    """One row of a table: a difference, and the sign that the claim needs (1 or -1)."""

    sign: int
    together: Estimate
    """Over all training runs, with its 95% interval and, over several runs, the p-value of no effect."""
    single: tuple[float, ...]
    """Under each seed."""


def claim(asked: SeedEvaluation, contrast: str, key: str, sign: int) -> Claim:
    """That the difference ``contrast`` (``a - b`` of ``asked``) has ``sign`` in metric ``key``."""
    single = tuple(by[contrast][key] for by in asked.by_seed.values())
    return Claim(sign, asked.together.contrasts[contrast]["paper"][key], single)


def answer(sign: int, together: Estimate, single: Sequence[float], p: float | None = None) -> str:
    """``supported``, ``contradicted`` or ``not decided``: there is an effect, and every seed is on its side.

    ``p``: the p-value of no effect corrected for the family of rows, at most ``LEVEL`` where there is one; ``together``'s own
    by default, and where it has none, its interval excludes 0.  ``sign`` is the direction that the claim needs.  With fewer
    than ``MIN_SEEDS`` seeds the words are weaker: ``trend for, 1 seed`` and ``trend against, 1 seed``.
    """
    p = together.p if p is None else p
    sure = together.low is not None and not together.low <= 0 <= together.high if p is None else p <= LEVEL
    side = 1 if together.value > 0 else -1
    if not sure or any(side * value <= 0 for value in (together.value, *single)):
        return "not decided"
    if len(single) < MIN_SEEDS:
        return f"trend {'for' if side == sign else 'against'}, {len(single)} seed{'s' * (len(single) > 1)}"
    return "supported" if side == sign else "contradicted"


def decide(family: Sequence[Claim]) -> list[str]:
    """`answer` to every row of one table, with p-values corrected for their number (Holm 1979) where all have one."""
    from statsmodels.stats.multitest import multipletests

    p = [one.together.p for one in family]
    corrected = p if None in p or not p else multipletests(p, method="holm")[1]
    return [answer(one.sign, one.together, one.single, own) for one, own in zip(family, corrected, strict=True)]


def rule_error_rate(seeds: int) -> float | Missing:
    """Share of tables in which `decide` decides any row though nothing has an effect, in the worst case of bench/coverage.py."""
    try:
        simulated = benchmarks.load("coverage")["rows"]
    except FileNotFoundError:
        simulated = []
    rates = [case["question"] for case in simulated if case["trainings"] == seeds]
    return max(rates) if rates else Missing(f"not simulated for {seeds} seed{'s' * (seeds > 1)}")


def rule(asked: SeedEvaluation) -> str:
    """How the rows of a table are decided, and how often wrongly where nothing has an effect, in words."""
    rate = rule_error_rate(len(asked.seeds))
    found = (
        f"in up to {100 * rate:.1f}% of simulated tables of three rows under {len(asked.seeds)} seeds"
        if isinstance(rate, float)
        else rate.reason
    )
    return (
        f"A row is supported or contradicted if the p-value of no effect, corrected for the number of rows in its table (Holm), "
        f"is at most {LEVEL} and the difference has the same sign under every one of at least {MIN_SEEDS} seeds; otherwise it is "
        f"not decided. Each table is a question of its own, the first of them the paper's. With fewer seeds it is at most a trend for or against the claim. How often this decides any "
        f"row where nothing has an effect: {found}."
    )


def question(
    asked: SeedEvaluation, contrasts: Mapping[str, tuple[str, tuple[str, str]]], better: Mapping[str, int]
) -> dict[str, pd.DataFrame]:
    """One research question as tables: the paper's difference for either backbone, ours over all seeds and under each.

    ``contrasts``: title of a table -> (``a - b`` of the systems of ``asked``, Table 3's rows of a and b); ``better``: metric ->
    1 or -1, the direction that the claim needs.  The rows of a table are one family of `decide`.  Text; the last column is `answer`,
    and *chance* is `PaperTable.noise`.
    """
    table, found = load_tables()["decoupledesc/table-3"], {}
    for title, (contrast, rows) in contrasts.items():
        family = [claim(asked, contrast, key, sign) for key, sign in better.items()]
        found[title] = pd.DataFrame(
            {
                table.column(key).name: {"claim": "higher" if one.sign > 0 else "lower"}
                | _printed(table, rows, key)
                | texts(one, table.column(key).decimals)
                | {"answer": said}
                for key, one, said in zip(better, family, decide(family), strict=True)
            }
        ).T
    return found


def _printed(table: PaperTable, rows: tuple[str, str], key: str) -> dict[str, str]:
    """The paper's difference for either backbone, and how large chance alone makes one."""
    decimals, names = table.column(key).decimals, {"Qwen": "qwen2.5-7b", "Llama": "llama3.1-8b"}
    found = {
        f"paper, {name}": f"{table.contrast(*(f'{backbone}/{row}' for row in rows), key):+.{decimals}f}"
        for name, backbone in names.items()
    }
    return found | {"chance there": f"±{table.noise[key]:.{decimals}f}" if key in table.noise else "–"}


def texts(one: Claim, decimals: int) -> dict[str, str]:
    """The difference with its interval, and those under each seed."""
    return {
        "ours": format_estimate(one.together, decimals),
        "by seed": ", ".join(f"{value:+.{decimals}f}" for value in one.single),
    }


def answers(table: pd.DataFrame) -> str:
    """How many rows of a table of `question` have which answer, in words."""
    return ", ".join(f"{count} {word}" for word, count in Counter(table["answer"]).items())
