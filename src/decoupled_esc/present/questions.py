"""What is said of the papers' claims, and the one rule by which it is said (chapters 09 to 13)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import GOLD, SeedEvaluation, SeedMeans
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import benchmarks
from decoupled_esc.present.forest import BACKBONES, ForestRow
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import format_estimate

MIN_SEEDS = 3
"""With fewer, an interval knows how dialogues differ and little of how training runs do: no claim is decided."""
LEVEL = 0.05
"""Largest p-value, corrected for the rows of a table, at which a claim is decided."""


BETTER = {"B-1": 1, "F1": 1, "R-L": 1, "Q_W": 1, "Q": 1, "B": -1}
Asked = tuple[str, dict[str, int], tuple[str, str]]
"""A difference, metric -> the sign that the claim needs, Table 3's rows."""

_RQ1, _RQ2, _RQ3 = (
    ("vanilla/dpo", "vanilla/sft"), ("decoupled/dpo", "vanilla/dpo"), ("decoupled/dpo", "decoupled/sft"),
)  # fmt: skip
TABLES: dict[str, dict[str, Asked]] = {
    "RQ1": {
        "sampled": ("vanilla-dpo - vanilla-sft", BETTER, _RQ1),
        "greedy": ("vanilla-dpo-argmax - vanilla-sft-argmax", BETTER, _RQ1),
    },
    "RQ2": {
        "after DPO, sampled": ("decoupled-dpo - vanilla-dpo", {"D-1": 1} | BETTER, _RQ2),
        "after SFT, sampled": ("decoupled-sft - vanilla-sft", {"D-1": 1} | BETTER, ("decoupled/sft", "vanilla/sft")),
        "after DPO, greedy": ("decoupled-dpo-argmax - vanilla-dpo-argmax", {"D-1": 1} | BETTER, _RQ2),
    },
    "RQ3": {
        "sampled": ("decoupled-dpo - decoupled-sft", BETTER, _RQ3),
        "greedy": ("decoupled-dpo-argmax - decoupled-sft-argmax", BETTER, _RQ3),
    },
}
"""Question -> the tables of its chapter, each one family of rows, the paper's own first."""

FIRST = {name: next(iter(tables.values())) for name, tables in TABLES.items()}


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
    single = tuple(by[contrast][key] for by in asked.by_seed.values() if contrast in by)
    return Claim(sign, asked.together.contrasts[contrast]["paper"][key], single)


def answer(
    sign: int, together: Estimate, single: Sequence[float], p: float | None = None, judge_error: float = 0.0
) -> str:
    """``supported``, ``contradicted`` or ``not decided``: there is an effect, and every seed is on its side.

    ``p``: the p-value of no effect corrected for the family of rows, at most ``LEVEL`` where there is one; ``together``'s own
    by default, and where it has none, its interval excludes 0.  ``judge_error``: by how much the judge that measured may itself
    be off; the whole interval has to lie beyond it.  ``sign`` is the direction that the claim needs.  With fewer
    than ``MIN_SEEDS`` seeds the words are weaker: ``trend for, 1 seed`` and ``trend against, 1 seed``.
    """
    p = together.p if p is None else p
    beyond = together.low is not None and (together.low > judge_error or together.high < -judge_error)
    sure = beyond if p is None else p <= LEVEL and (beyond or not judge_error)
    side = 1 if together.value > 0 else -1
    if not sure or any(side * value <= 0 for value in (together.value, *single)):
        return "not decided"
    if len(single) < MIN_SEEDS:
        return f"trend {'for' if side == sign else 'against'}, {len(single)} seed{'s' * (len(single) > 1)}"
    return "supported" if side == sign else "contradicted"


def decide(family: Sequence[Claim]) -> list[str]:
    """`answer` to every row of one table, with p-values corrected for their number (Holm 1979) where all have one."""
    return [answer(one.sign, one.together, one.single, p) for one, p in zip(family, _corrected(family), strict=True)]


def _corrected(family: Sequence[Claim]) -> list[float | None]:
    from statsmodels.stats.multitest import multipletests

    p = [one.together.p for one in family]
    return p if None in p or not p else multipletests(p, method="holm")[1].tolist()


def reasons(family: Sequence[Claim]) -> list[str]:
    """Why rows of one table are not decided although their intervals exclude 0, in a few words; else ""."""
    found = []
    for one, said, p in zip(family, decide(family), _corrected(family), strict=True):
        excludes = one.together.low is not None and (one.together.low > 0 or one.together.high < 0)
        if said != "not decided" or not excludes:
            found.append("")
        elif p is not None and p > LEVEL:
            found.append(f"p = {p:.2f}, corrected for {len(family)} rows")
        else:
            found.append("one seed has the other sign")
    return found


def decided(every: SeedEvaluation, cso: Sequence[ForestRow] = ()) -> str:
    """Which rows of all `TABLES`, and of ``cso``, are decided, each with its difference, in words."""
    rows = [
        (f"{name}, {title}: {row.claim}", row)
        for name, tables in TABLES.items()
        for title, asked in tables.items()
        if asked[0] in every.together.contrasts
        for row in question(every, asked[0], asked[2], asked[1])
    ] + [(f"CSO: {row.claim}", row) for row in cso]
    told = {
        word: [f"{title} {format_estimate(row.ours, row.decimals, '+')}" for title, row in rows if row.answer == word]
        for word in DECIDED
    }
    return "; ".join(f"{word}: {', '.join(some) or 'none'}" for word, some in told.items())


def answer_across(answers: Mapping[str, str]) -> str:
    """What the answers of several backbones (backbone -> `answer`) come to; with one backbone, or one answer alone, that.

    Each backbone is asked by itself, and a trend decides nothing.  ``supported on every backbone``, or contradicted: decided
    alike on all of them.  ``depends on the backbone``: supported on one, contradicted on another.  ``supported on A, not
    decided on B``, or contradicted: decided on some alone.  Else ``not decided``.
    """
    said = list(dict.fromkeys(answers.values()))
    if len(said) == 1:
        return f"{said[0]} on every backbone" if len(answers) > 1 and said[0] in DECIDED else said[0]
    decided = {word: [name for name, one in answers.items() if one == word] for word in DECIDED if word in said}
    if len(decided) != 1:
        return "depends on the backbone" if decided else "not decided"
    ((word, names),) = decided.items()
    left = [name for name in answers if name not in names]
    return f"{word} on {' and '.join(names)}, not decided on {' and '.join(left)}"


DECIDED = ("supported", "contradicted")

RULE_ACROSS = (
    "Over several backbones each is asked by itself, and a trend decides nothing: a claim is supported, or contradicted, on every "
    "backbone where all decide alike; it depends on the backbone where one supports and another contradicts; where some alone decide, "
    "these are named; and otherwise it is not decided. Where nothing has an effect, any of two backbones decides a row up to "
    "twice as often as one. A backbone of one seed has intervals for other dialogues alone: narrower for that reason, not because it is surer. "
    "Where backbones differ, nothing here says why: they differ in size, pre-training, tuning (all weights, adapters), data, seeds, and in how "
    "their learning rates were set."
)
"""`answer_across` in words."""


def side_by_side(rows: Mapping[str, Sequence[ForestRow]]) -> tuple[ForestRow, ...]:
    """The rows of the first backbone, each with the same claim's rows of the others (``rows``: backbone -> rows) and their answer across.

    Nothing changes where there is one backbone.
    """
    first, *others = rows
    found = []
    for row in rows[first]:
        key = (row.about, row.claim, row.key)
        same = {name: one for name in others for one in rows[name] if (one.about, one.claim, one.key) == key}
        if any(one.ours is not None for one in same.values()):
            same = {first: row} | same
            across = answer_across({name: one.answer for name, one in same.items()})
            row = replace(row, by_backbone=same, across=across)
        found.append(row)
    return tuple(found)


def rule_error_rate(seeds: int) -> float | Missing:
    """Share of tables in which `decide` decides any row though nothing has an effect, in the worst case of bench/coverage.py."""
    try:
        simulated = benchmarks.load("coverage")["rows"]
    except FileNotFoundError:
        simulated = []
    rates = [case["question"] for case in simulated if case["trainings"] == seeds]
    return max(rates) if rates else Missing(f"not simulated for {seeds} seed{'s' * (seeds > 1)}")


def rule(asked: SeedEvaluation, several: bool = False) -> str:
    """How the rows of a table are decided, and how often wrongly where nothing has an effect, in words; ``several``: backbones."""
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
        f"row where nothing has an effect: {found}. Beside the paper's differences stands how large a difference chance makes on its test set, in 95 cases of 100: what is smaller is no "
        f"finding of the paper's. That counts test turns alone; a difference that one training run of each system would show in four cases of five is about twice as large (chapter 19, study 6)."
    ) + f" {RULE_ACROSS}" * several


def question(
    asked: SeedEvaluation, contrast: str, rows: tuple[str, str], better: Mapping[str, int]
) -> tuple[ForestRow, ...]:
    """One table of a research question, which is one family of `decide`: a row for every metric.

    ``contrast``: ``a - b`` of the systems of ``asked``; ``rows``: Table 3's rows of a and b; ``better``: metric -> 1 or -1, the
    direction that the claim needs.
    """
    table = load_tables()["decoupledesc/table-3"]
    family = [claim(asked, contrast, key, sign) for key, sign in better.items()]
    found = []
    for key, one, said, why in zip(better, family, decide(family), reasons(family), strict=True):
        printed = {
            name: table.contrast(*(f"{name}/{row}" for row in rows), key) for name in ("qwen2.5-7b", "llama3.1-8b")
        }
        chance = table.noise.get(key)
        if said in DECIDED and chance and all(abs(value) <= chance for value in printed.values()):
            why = "the paper's own differences are such as chance makes there"
        found.append(
            ForestRow(
                table.column(key).name, one.sign, one.together, one.single, said, key=key, printed=printed, chance=chance,
                decimals=table.column(key).decimals, note="higher" if one.sign > 0 else "lower", why=why,
            )
        )  # fmt: skip
    return tuple(found)


def by_backbone(
    every: Mapping[str, SeedEvaluation], contrast: str, rows: tuple[str, str], better: Mapping[str, int]
) -> tuple[ForestRow, ...]:
    """`question` to each backbone (``every``: backbone -> its results), `side_by_side`; one without that difference is left out."""
    measured = {name: asked for name, asked in every.items() if contrast in asked.together.contrasts}
    return side_by_side({name: question(asked, contrast, rows, better) for name, asked in measured.items()})


def tables(every: Mapping[str, SeedEvaluation], name: str) -> list[tuple[ForestRow, ...]]:
    """`by_backbone` of each of the `TABLES` of the question ``name``; empty where no backbone was asked."""
    return [by_backbone(every, contrast, rows, better) for contrast, better, rows in TABLES[name].values()]


def observation(controlled: Evaluation, keys: Sequence[str] = ("B", "Q_W", "Q")) -> tuple[ForestRow, ...]:
    """Observation 2, under one seed: pairs whose rejected turn has two faults against those where only the reply is wrong."""
    table, contrast = load_tables()["decoupledesc/table-5"], "vanilla-nsnr - vanilla-psnr"
    rows = []
    for key in keys:
        ours, sign = controlled.contrasts[contrast]["paper"][key], BETTER[key]
        printed = {name: table.contrast(f"{name}/nsnr", f"{name}/psnr", key) for name in ("qwen2.5-7b", "llama3.1-8b")}
        said, note = answer(sign, ours, (ours.value,)), "higher" if sign > 0 else "lower"
        column = table.column(key)
        rows.append(
            ForestRow(
                column.name, sign, ours, (ours.value,), said, printed, table.noise.get(key), key, note, column.decimals
            )
        )
    return tuple(rows)


def numbers(rows: Sequence[ForestRow]) -> pd.DataFrame:
    """What a `Forest` of ``rows`` draws, as text: the claim, the papers' differences, ours and those under each seed, the answer.

    *chance* is `PaperTable.noise`: how large a difference chance alone makes on the paper's test set.
    """
    return pd.DataFrame({row.claim: _texts(row) for row in rows}).T


def _texts(row: ForestRow) -> dict[str, str]:
    known = {"claim": "higher" if row.sign > 0 else "lower"}
    known |= {
        f"paper, {BACKBONES.get(name, name)}": f"{value:+.{row.decimals}f}" for name, value in row.printed.items()
    }
    known |= {} if row.chance is None else {"chance there": f"±{row.chance:.{row.decimals}f}"}
    known |= _ours(row)
    for name in list(row.by_backbone)[1:]:
        known |= {f"{what}, {name}": text for what, text in _ours(row.by_backbone[name]).items()}
    return known | ({"over backbones": row.across} if row.across else {})


def _ours(row: ForestRow) -> dict[str, str]:
    by_seed = ", ".join(f"{value:+.{row.decimals}f}" for value in row.single)
    said = f"{row.answer} ({row.why})" if row.why else row.answer
    return {"ours": format_estimate(row.ours, row.decimals), "by seed": by_seed, "answer": said}


def strategy_shares(shares: SeedMeans) -> pd.DataFrame:
    """How often the human reference and the coupled models use each strategy, in per cent of all turns, and the differences; text."""
    differences = {f"vanilla-dpo - {GOLD}": "DPO minus human reference", "vanilla-dpo - vanilla-sft": "DPO minus SFT"}
    systems = {GOLD: "human reference", "vanilla-sft": "Vanilla-SFT", "vanilla-dpo": "Vanilla-DPO"}
    columns = {title: shares.systems[name] for name, title in systems.items()}
    columns |= {title: shares.contrasts[name] for name, title in differences.items()}
    return pd.DataFrame(
        {title: {key: format_estimate(found) for key, found in column.items()} for title, column in columns.items()}
    )


def leaning(shares: SeedMeans) -> str:
    """The answer to section 3.2 of DecoupledESC: Vanilla-DPO uses *Question* more than people do."""
    name = f"vanilla-dpo - {GOLD}"
    single = tuple(by[name]["Question"] for by in shares.by_seed.values())
    return decide([Claim(1, shares.contrasts[name]["Question"], single)])[0]


def answers(rows: Sequence[ForestRow]) -> str:
    """How many of ``rows`` have which answer, over all backbones, in words."""
    return ", ".join(f"{count} {word}" for word, count in Counter(row.across or row.answer for row in rows).items())
