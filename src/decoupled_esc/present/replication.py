"""The tables that this repository has measured so far, beside the paper's; and a status for every cell of both papers.

One function a table, each from typed results to a ``ComparisonTable``.  ``report`` joins them with everything that was
not attempted, so that no number of either paper is without a status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from decoupled_esc.evaluate import SINGLE_METRICS, STRATEGY_METRICS, Estimate, Evaluation
from decoupled_esc.evaluate.judged import ScoreTable
from decoupled_esc.experiments.data import DataCounts
from decoupled_esc.experiments.judging import Judged
from decoupled_esc.experiments.preferences import MinedPairs
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import settings
from decoupled_esc.present.paper import Status, load_tables
from decoupled_esc.present.tables import EXPECTED, ComparisonTable, Label, compare, format_estimate

BACKBONES = ("qwen2.5-7b", "llama3.1-8b")
MIN_VALID = 30
"""Below so many valid answers, numbers about a system's strategies would be numbers about nothing."""
MIN_FOLLOWED = 0.5
"""A system that names a strategy in a smaller share of its answers, where every prompt asks for one, follows no instruction."""
PAPER_TURNS = 1792
"""Turns of the paper's test split.  B depends on how many it is counted on, so it is compared only near this number."""

JUDGED = ("Flu", "Pro", "Emp", "Hel")
"""Columns of an LLM judge."""
PAPER_JUDGE = "gpt-4.1-mini-2025-04-14"
PAPER_PROTOCOL = {"turns": 100, "gold": "shown", "calls": "each", "context": "last"}
"""How the paper's scores were made.  Others are other scores, and are not set beside them."""
UNREAD = dict.fromkeys(JUDGED, Missing("no answer of the judge could be read"))

NOT_YET: dict[str, str] = {
    "decoupledesc/table-1": "sums over two backbones, where a profile has one",
    "decoupledesc/in-text": "needs the DPO models, mined pairs or human evaluation",
    "cso/table-1": "people's judgements; chapter 05 has those of the offline judges, which are no people",
    "cso/table-2": "needs both tunings, and this profile has one",
    "cso/table-3": "human evaluation",
    "cso/table-4": "the profile has no search",
    "cso/table-5": "the profile has no search",
    "cso/table-6": "human evaluation",
    "cso/table-7": "the paper used a paid service; chapter 05 has another classifier's numbers beside it, which are no measure of these",
    "cso/table-9": "needs both tunings, and this profile has one",
    "cso/table-10": "needs both tunings, and this profile has one",
    "cso/table-11": "needs both tunings, and this profile has one",
    "cso/in-text": "read off Figure 4, of which chapter 13 has three points for other data",
}
"""Why the cells of a table that no function here measures are not attempted."""


def compare_systems(
    table: str,
    evaluation: Evaluation | Missing,
    systems: Mapping[str, str],
    starts: Mapping[str, str],
    *,
    profile: str,
    n: str,
    shown: Sequence[str] | None = None,
    backbones: Sequence[str] = BACKBONES,
    judged: ScoreTable | Missing | None = None,
    levels: Missing | None = None,
    note: str | None = None,
) -> ComparisonTable:
    """``systems`` (row of the paper's ``table`` -> name in ``evaluation``), variant ``paper``, beside that table.

    ``starts``: row -> the row that it starts from: a number that misses the paper's can still differ from that row's in
    the paper's direction.  ``shown``: the rows to show, all by default.  ``judged``: the scores in the columns of an LLM
    judge, or why there are none; None where the table has no such columns.
    ``levels``: why numbers can't be compared with the paper's, where only differences can.  A system that follows no
    instruction is compared in nothing, and nothing is compared with it.
    """
    printed = load_tables()[table]
    columns = [column.key for column in printed.columns if column.key not in JUDGED]
    rows, contrasts = {}, {}
    for row, name in systems.items():
        found = _part(evaluation, "systems", name) | incomparable(evaluation, name)
        rows[row] = {key: found.get(key) for key in columns}
        if isinstance(judged, Missing):
            rows[row] |= dict.fromkeys(JUDGED, judged)
        elif judged is not None:
            rows[row] |= UNREAD | judged.systems.get(name, {})
    for row, start in starts.items():
        name = f"{systems[row]} - {systems[start]}"
        # A base model that names next to no strategies has no strategy scores to compare with.
        absent = incomparable(evaluation, systems[row]) | incomparable(evaluation, systems[start])
        found = _part(evaluation, "contrasts", name)
        contrasts[row] = (start, {key: found[key] for key in columns if key in found and key not in absent})
        if isinstance(judged, ScoreTable):
            contrasts[row][1].update(judged.contrasts.get(name, {}))
    silent = {row: why for row, name in systems.items() if (why := follows_nothing(evaluation, name))}
    return compare(
        printed,
        rows,
        profile=profile,
        n=n,
        backbones=backbones,
        rows=list(rows) if shown is None else list(shown),
        contrasts=contrasts,
        levels=levels,
        incomparable=silent,
        sources={row: f"{name}, {{column}}" for row, name in systems.items()},
        note=note,
    )


def _part(evaluation: Evaluation | Missing, part: str, name: str) -> dict[str, Estimate]:
    """The scores of a system or a contrast in variant ``paper``, empty where there are none."""
    return {} if isinstance(evaluation, Missing) else getattr(evaluation, part).get(name, {}).get("paper", {})


def incomparable(evaluation: Evaluation | Missing, system: str) -> dict[str, Missing]:
    """Columns in which ``system`` can't be set beside the paper's, and why."""
    metrics = ("D-1", "B-1", "F1", "R-L", *STRATEGY_METRICS)
    if isinstance(evaluation, Missing):
        return dict.fromkeys(metrics, evaluation)
    if system not in evaluation.systems:
        return dict.fromkeys(metrics, Missing(f"{system} was not made under this profile"))
    valid = valid_answers(evaluation, system)
    if valid < MIN_VALID:
        return dict.fromkeys(
            STRATEGY_METRICS, Missing(f"fewer than {MIN_VALID} answers of this system name a strategy")
        )
    if valid < 0.9 * PAPER_TURNS:
        return {"B": Missing(f"B depends on the number of turns: {valid:,} here, {PAPER_TURNS:,} in the paper")}
    return {}


def follows_nothing(evaluation: Evaluation | Missing, system: str) -> Missing | None:
    """Why ``system`` stands for none of the paper's, all of which answer in the form that they are asked for; None if it does."""
    if isinstance(evaluation, Missing) or system not in evaluation.details:
        return None
    share = 1 - evaluation.details[system].invalid_rate
    if share >= MIN_FOLLOWED:
        return None
    return Missing(f"{system} follows no instruction: {100 * share:.0f}% of its answers name a strategy")


def valid_answers(evaluation: Evaluation, system: str) -> int:
    """How many answers of ``system`` name one of the eight strategies."""
    details = evaluation.details[system]
    return round((1 - details.invalid_rate) * details.turns)


def counted_turns(evaluation: Evaluation | Missing, system: str) -> str:
    """How many test turns stand behind a table, in words."""
    if isinstance(evaluation, Missing) or system not in evaluation.details:
        return "no turns"
    details = evaluation.details[system]
    return f"{details.turns:,} test turns of {details.dialogues} dialogues"


def table_1(data: DataCounts, profile: str) -> ComparisonTable:
    """Table 1 of DecoupledESC, ESConv's half."""
    kinds = {
        "utterances": "utterances",
        "turns-per-dialogue": "turns_per_dialogue",
        "characters-per-utterance": "characters_per_utterance",
    }
    sides = ("total", "assistant", "user")
    measured = {"esconv/dialogues": {"total": Estimate(data.dialogues["train"])}}
    measured |= {
        f"esconv/{row}": {side: Estimate(data.size[side][key]) for side in sides} for row, key in kinds.items()
    }
    n = f"{data.dialogues['train']:,} dialogues of {data.corpus}"
    return compare(
        load_tables()["decoupledesc/table-1"], measured, profile=profile, n=n, rows=list(measured), columns=sides
    )


def table_1_mined(pairs: MinedPairs | Missing, profile: str) -> ComparisonTable:
    """Table 1 of DecoupledESC, the mined pairs' half, ours beside each of the paper's two backbones."""
    table, columns = load_tables()["decoupledesc/table-1"], ("qwen", "llama")
    if isinstance(pairs, Missing):
        rows = [row.key for row in table.rows if row.key.startswith("ipm-prefdial/")]
        return compare(table, pairs, profile=profile, n="no pairs", rows=rows, columns=columns)
    found = pairs.errors["response"]
    own = {
        "strategy-pairs": pairs.pairs["strategy"],
        "response-pairs": pairs.pairs["response"],
        "characters-chosen": pairs.characters.chosen,
        "characters-rejected": pairs.characters.rejected,
        "lack-of-empathy": found.get("Lack of Empathy", 0),
        "early-emotion-shift": found.get("Early Emotion Shift", 0),
        "template-response": found.get("Template Response", 0),
    }
    measured = {f"ipm-prefdial/{key}": dict.fromkeys(columns, Estimate(value)) for key, value in own.items()}
    samples = ", ".join(f"{number} of the {role}" for role, number in pairs.samples.items())
    n = f"{pairs.turns:,} training turns; samples per turn: {samples}"
    note = f"Errors judged by: {pairs.judge}."
    rows = list(measured)
    return compare(
        table, measured, profile=profile, n=n, rows=rows, columns=columns, sources=dict(zip(rows, rows)), note=note
    )


def table_2(judged: Judged | Missing, profile: str) -> ComparisonTable:
    """Table 2 of DecoupledESC: an LLM judge's scores of the chosen and rejected replies of mined pairs."""
    scores = paper_judge(judged)
    measured, n = scores, "no pairs were judged"
    if not isinstance(scores, Missing):
        measured = {side: UNREAD | judged.mined_pairs.systems.get(side, {}) for side in ("chosen", "rejected")}
        chosen, rejected = measured.values()
        both = [key for key in JUDGED if isinstance(chosen[key], Estimate) and isinstance(rejected[key], Estimate)]
        improved = {key: Estimate(100 * (chosen[key].value / rejected[key].value - 1)) for key in both}
        measured["improve"], n = UNREAD | improved, f"{judged.mined_pairs.pairs} pairs"
    rows = ["chosen", "rejected", "improve"]
    table = load_tables()["decoupledesc/table-2"]
    return compare(table, measured, profile=profile, n=n, backbones=BACKBONES, rows=rows).transposed()


COMPARATORS = {"sft": "base", "dpo": "sft", "direct-refine": "base", "self-refine": "base", "emotion-cot": "base"}
"""Which method of its paradigm each method starts from, for the direction of a difference."""


def table_3(
    evaluation: Evaluation | Missing,
    judged: Judged | Missing,
    paradigm: str,
    profile: str,
    note: str | None = None,
    methods: Sequence[str] = ("base", "sft", "dpo"),
) -> ComparisonTable:
    """Table 3 of DecoupledESC: ``methods`` of one paradigm, a line per metric, against both backbones."""
    starts = {
        f"{paradigm}/{method}": f"{paradigm}/{COMPARATORS[method]}" for method in methods if method in COMPARATORS
    }
    shown = [f"{paradigm}/{method}" for method in methods]
    systems = {row: row.replace("/", "-") for row in [*shown, *starts.values()]}
    scores, n, notes = (
        paper_judge(judged),
        counted_turns(evaluation, f"{paradigm}-{methods[0]}"),
        [note, EXPECTED] if note else [EXPECTED],
    )
    if isinstance(scores, ScoreTable):
        notes.append(f"Judge: {PAPER_JUDGE}, on {judged.turns} of the turns, asked in our own words.")
    if isinstance(evaluation, Evaluation):
        counted = [f"{valid_answers(evaluation, f'{paradigm}-{method}'):,} ({method})" for method in methods]
        n += f", strategy metrics on the valid answers: {', '.join(counted)}"
    table = compare_systems(
        "decoupledesc/table-3",
        evaluation,
        systems,
        starts,
        profile=profile,
        n=n,
        shown=shown,
        judged=scores,
        note=" ".join(notes),
    )
    return table.transposed()


def table_4(judged: Judged | Missing, profile: str) -> ComparisonTable:
    """Table 4 of DecoupledESC: an LLM judge's scores of the generator under the gold strategy, before and after DPO."""
    scores = paper_judge(judged)
    measured, contrasts, n = scores, {}, "no replies were judged"
    if not isinstance(scores, Missing):
        measured = {method: UNREAD | scores.systems[f"gold-{method}"] for method in ("sft", "dpo")}
        contrasts, n = {"dpo": ("sft", scores.contrasts["gold-dpo - gold-sft"])}, f"{judged.turns} test turns"
    table = load_tables()["decoupledesc/table-4"]
    return compare(
        table, measured, profile=profile, n=n, backbones=BACKBONES, rows=["sft", "dpo"], contrasts=contrasts
    ).transposed()


def table_5(evaluation: Evaluation | Missing, profile: str, note: str | None = None) -> ComparisonTable:
    """Table 5 of DecoupledESC: the coupled model after each kind of pair.  ``evaluation``: that of ``metrics-controlled``."""
    systems = {"nsnr": "vanilla-nsnr", "psnr": "vanilla-psnr", "nspr": "vanilla-nspr", "all": "vanilla-dpo"}
    unasked = Missing("needs an LLM judge of the controlled study, which is not asked")
    n = counted_turns(evaluation, "vanilla-sft")
    return compare_systems(
        "decoupledesc/table-5",
        evaluation,
        systems,
        {"nsnr": "psnr", "nspr": "psnr"},
        profile=profile,
        n=n,
        judged=unasked,
        note=f"{note} {EXPECTED}" if note else EXPECTED,
    ).transposed()


def table_6(data: DataCounts, profile: str) -> ComparisonTable:
    """Table 6 of DecoupledESC."""
    total = sum(data.strategy_counts.values())
    measured = {
        name: {"number": Estimate(count), "proportion": Estimate(100 * count / total)}
        for name, count in data.strategy_counts.items()
    }
    measured["Overall"] = {"number": Estimate(total), "proportion": Estimate(100.0)}
    n = f"{total:,} supporter turns of the training split"
    return compare(load_tables()["decoupledesc/table-6"], measured, profile=profile, n=n)


def paper_judge(judged: Judged | Missing) -> ScoreTable | Missing:
    """The scores of the paper's judge, asked as the paper asked; or why there are none to compare."""
    if isinstance(judged, Missing):
        return Missing(f"needs an LLM judge, and {judged.reason}")
    found = judged.judges.get(PAPER_JUDGE)
    if found is None or found.resolved != [PAPER_JUDGE]:
        resolved = sorted({model for one in judged.judges.values() for model in one.resolved})
        return Missing(f"scores by {' and '.join(resolved)} are not comparable with those of {PAPER_JUDGE}")
    asked = judged.protocol.model_dump() | {"turns": judged.turns}
    other = [f"{key} {asked[key]}" for key, value in PAPER_PROTOCOL.items() if asked[key] != value]
    if other:
        return Missing(f"the judge was asked otherwise than in the paper ({', '.join(other)})")
    return found.scores


def released_table_3(evaluation: Evaluation, profile: str) -> ComparisonTable:
    """Table 3's two Vanilla-SFT rows, computed again from the replies that the authors released; a line per metric."""
    table = compare_systems(
        "decoupledesc/table-3",
        evaluation,
        {"qwen2.5-7b/vanilla/sft": "qwen-sft", "llama3.1-8b/vanilla/sft": "llama-sft"},
        {},
        profile=profile,
        n=counted_turns(evaluation, "qwen-sft"),
        backbones=(),
        judged=Missing("the judge's scores were not released"),
        note="The replies are the authors' Vanilla-SFT models'; only the scoring is ours.",
    )
    return replace(table.transposed(), columns=(Label("Qwen2.5-7B"), Label("Llama-3.1-8B")))


def largest_difference(table: ComparisonTable) -> tuple[float, str, str]:
    """(how far, row, column) of the measured cell that lies farthest from the paper's number."""
    worst = max(
        (cell for cell in table.cells() if cell.measured), key=lambda cell: abs(cell.measured.value - cell.paper)
    )
    return abs(worst.measured.value - worst.paper), worst.row, worst.column


def decoding(evaluation: Evaluation | Missing, paradigm: str) -> pd.DataFrame | Missing:
    """Table 3's columns without a judge for one paradigm's SFT systems: the paper's two rows, ours sampled and greedy.

    Text, at the paper's precision; ours with 95% intervals.  Strategy metrics of the sampled system are expected over
    samples, with those of the one sample that was printed beside them.  A dash where `table_3` would not compare either.
    """
    if isinstance(evaluation, Missing):
        return evaluation
    table = load_tables()["decoupledesc/table-3"]
    single = dict(zip(STRATEGY_METRICS, SINGLE_METRICS, strict=True))
    systems = {
        "ours, sampled": (f"{paradigm}-sft", {}),
        "one sample": (f"{paradigm}-sft", single),
        "ours, argmax": (f"{paradigm}-sft-argmax", {}),
    }
    rows = {}
    for column in table.columns:
        if column.key in JUDGED:
            continue
        row = rows[column.name] = {}
        for backbone in BACKBONES:
            row[f"paper, {backbone}"] = f"{table.value(f'{backbone}/{paradigm}/sft', column.key):.{column.decimals}f}"
        for name, (system, keys) in systems.items():
            absent = column.key in incomparable(evaluation, system)
            found = None if absent else evaluation.systems[system]["paper"][keys.get(column.key, column.key)]
            row[name] = format_estimate(found, column.decimals)
    return pd.DataFrame(rows).T


def report(measured: Sequence[ComparisonTable]) -> pd.DataFrame:
    """One line (`tables.LINE`) for every number of both papers; those of settings are compared with the profiles.

    Raises ValueError for a cell without a status, that is for a table of the papers that ``NOT_YET`` does not know, and
    for a cell that two tables measure.
    """
    unknown, cell = "no status", ["table", "row", "column"]
    rest = [
        compare(table, Missing(NOT_YET.get(table.id, unknown)), profile="", n="").to_frame()
        for table in load_tables().values()
        if table.kind == "numbers" and table.id not in settings.KEYS
    ]
    frame, every = (
        pd.concat(frames, ignore_index=True)
        for frames in ([*(table.to_frame() for table in measured), settings.statuses()], rest)
    )
    frame, every = (found[found.paper.notna()] for found in (frame, every))
    if frame.duplicated(cell).any():
        raise ValueError("a cell of the papers is measured twice")
    every = every[~pd.MultiIndex.from_frame(every[cell]).isin(pd.MultiIndex.from_frame(frame[cell]))]
    for line in every[every.why == unknown].itertuples():
        raise ValueError(f"{line.table}, row {line.row}, column {line.column} has no status")
    return pd.concat([frame, every], ignore_index=True)


def measurements(frame: pd.DataFrame) -> int:
    """How many different things were measured for :func:`report`'s lines: one may stand beside many numbers of the papers."""
    found = frame[frame.measured.notna()]
    return len(found.drop_duplicates(["source", "measured", "low", "high"]))


def summary(frame: pd.DataFrame, by: str = "status") -> pd.DataFrame:
    """Of :func:`report`'s lines: how many cells of each table have each status (or, ``by="direction"``, each direction).

    Tables in the papers' order; ``measurements`` says how many `measurements` the cells are (one may stand in several tables).
    """
    counts = frame.groupby(["table", by]).size().unstack(fill_value=0)
    order = [table for table in load_tables() if table in counts.index]
    counts = counts.reindex(index=order, columns=[str(s) for s in Status if str(s) in counts.columns])
    counts.insert(0, "cells", counts.sum(axis=1))
    shown = frame[frame[by].notna()]
    counts.insert(1, "measurements", [measurements(shown[shown.table == table]) for table in order])
    return counts


def listing(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`report`'s measured lines as text, at the paper's precision, for reading."""
    tables = load_tables()

    def printed(line: pd.Series) -> pd.Series:
        table = tables[line.table]
        decimals = table.decimals(line.row, line.column)
        numbers = [
            f"{line[key]:,.{decimals}f}" if pd.notna(line[key]) else "" for key in ("paper", "measured", "low", "high")
        ]
        interval = f"[{numbers[2]}, {numbers[3]}]" if numbers[2] else ""
        return pd.Series([table.name, line.row, line.column, *numbers[:2], interval, line.status, line.direction or ""])

    names = ["table", "row", "column", "paper", "ours", "interval", "status", "direction"]
    return frame.apply(printed, axis=1).set_axis(names, axis=1)
