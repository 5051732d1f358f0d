"""The tables that this repository has measured so far, beside the paper's; and a status for every cell of both papers.

One function a table, each from stored results to a ``ComparisonTable``.  ``report`` joins them with everything that was
not attempted, so that no number of either paper is without a status.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from decoupled_esc.evaluate import STRATEGY_METRICS, Estimate, Evaluation
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.present.paper import Status, load_tables
from decoupled_esc.present.tables import ComparisonTable, Label, compare

BACKBONES = ("qwen2.5-7b", "llama3.1-8b")
FEWEST_VALID = 30
"""Below so many valid answers, numbers about a system's strategies would be numbers about nothing."""
PAPER_TURNS = 1792
"""Turns of the paper's test split.  B depends on how many it is counted on, so it is compared only near this number."""

JUDGED = ("Flu", "Pro", "Emp", "Hel")
"""Columns of an LLM judge."""
PAPER_JUDGE = "gpt-4.1-mini-2025-04-14"
PAPER_PROTOCOL = {"turns": 100, "gold": "shown", "calls": "each", "context": "last"}
"""How the paper's scores were made.  Others are other scores, and are not set beside them."""

NOT_YET: dict[str, str] = {
    "decoupledesc/table-1": "sums over two backbones, where a profile has one",
    "decoupledesc/table-7": "hyperparameters, in the backbone profiles; nothing to measure",
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
    "cso/table-13": "hyperparameters, in the backbone profiles; nothing to measure",
    "cso/table-14": "hyperparameters, in the backbone profiles; nothing to measure",
    "cso/in-text": "read off Figure 4, of which chapter 13 has three points for other data",
}
"""Why the cells of a table that no function here measures are not attempted."""


def table_1(data: Mapping, profile: str) -> ComparisonTable:
    """Table 1 of DecoupledESC, ESConv's half.  ``data``: payload of stage ``data``."""
    kinds = {
        "utterances": "utterances",
        "turns-per-dialogue": "turns_per_dialogue",
        "characters-per-utterance": "characters_per_utterance",
    }
    sides = ("total", "assistant", "user")
    measured = {
        f"esconv/{row}": {side: Estimate(data["size"][side][key]) for side in sides} for row, key in kinds.items()
    }
    measured["esconv/dialogues"] = {"total": Estimate(data["dialogues"]["train"])}
    n = f"{data['dialogues']['train']:,} dialogues of {data['corpus']}"
    rows = ["esconv/dialogues", *(f"esconv/{row}" for row in kinds)]
    return compare(load_tables()["decoupledesc/table-1"], measured, profile=profile, n=n, rows=rows, columns=sides)


def table_6(data: Mapping, profile: str) -> ComparisonTable:
    """Table 6 of DecoupledESC.  ``data``: payload of stage ``data``."""
    counts = data["strategy_counts"]
    total = sum(counts.values())
    measured = {
        name: {"number": Estimate(count), "proportion": Estimate(100 * count / total)} for name, count in counts.items()
    }
    measured["Overall"] = {"number": Estimate(total), "proportion": Estimate(100.0)}
    n = f"{total:,} supporter turns of the training split"
    return compare(load_tables()["decoupledesc/table-6"], measured, profile=profile, n=n)


COMPARATORS = {"sft": "base", "dpo": "sft", "direct-refine": "base", "self-refine": "base", "emotion-cot": "base"}
"""Which method of its paradigm each method starts from, for the direction of a difference."""


def table_3(
    evaluation: Evaluation, judged: Mapping, paradigm: str, profile: str, note: str | None = None,
    methods: Sequence[str] = ("base", "sft", "dpo"),
) -> ComparisonTable:  # fmt: skip
    """Table 3 of DecoupledESC: ``methods`` of one paradigm, a line a metric, against both backbones.

    ``judged``: payload of stage ``judged``.  A method is compared with the one it starts from: a number that misses the
    paper's can still differ in its direction.
    """
    columns = [column.key for column in load_tables()["decoupledesc/table-3"].columns]
    rows: dict[str, dict[str, Estimate]] = {}
    reason, scores_by_judge = _judge_columns(judged)
    missing: dict[str | tuple[str, str], str] = dict.fromkeys(JUDGED, reason) if reason else {}
    counted, contrasts = [], {}
    for method in methods:
        row, name = f"{paradigm}/{method}", f"{paradigm}-{method}"
        counted.append(f"{_valid(evaluation, name):,} ({method})")
        why = incomparable(evaluation, name)
        scores = evaluation.systems[name]["paper"]
        rows[row] = {key: estimate for key, estimate in scores.items() if key in columns and key not in why}
        missing |= {(row, key): told for key, told in why.items()}
        if not reason:
            found = scores_by_judge["systems"][name]
            rows[row] |= {key: Estimate(**estimate) for key, estimate in found.items()}
            missing |= {(row, key): "no answer of the judge could be read" for key in JUDGED if key not in found}
    for method in methods:
        other = COMPARATORS.get(method)
        difference = evaluation.contrasts.get(f"{paradigm}-{method} - {paradigm}-{other}", {}).get("paper")
        if difference is None:
            continue
        if not reason:
            judge = scores_by_judge["contrasts"][f"{paradigm}-{method} - {paradigm}-{other}"]
            difference = {**difference, **{key: Estimate(**estimate) for key, estimate in judge.items()}}
        row, start = f"{paradigm}/{method}", f"{paradigm}/{other}"
        # A base model that names next to no strategies has no strategy scores to compare with.
        without = incomparable(evaluation, f"{paradigm}-{other}")
        contrasts[row, start] = {key: difference[key] for key in rows[row] if key in difference and key not in without}
    if not reason:
        note = " ".join([*([note] if note else []), f"Judge: {PAPER_JUDGE}, on {judged['turns']} of the turns, asked in our own words."])
    details = evaluation.details[f"{paradigm}-{methods[0]}"]
    return compare(
        load_tables()["decoupledesc/table-3"],
        rows,
        profile=profile,
        n=f"{details.turns:,} test turns of {details.dialogues} dialogues, strategy metrics on the valid answers: " + ", ".join(counted),
        backbones=BACKBONES,
        rows=list(rows),
        contrasts=contrasts,
        not_attempted=missing,
        note=note,
    ).transposed()


def table_1_mined(pairs: Mapping, profile: str) -> ComparisonTable:
    """Table 1 of DecoupledESC, the mined pairs' half, ours beside each of the paper's two backbones.  ``pairs``: payload of ``pairs``."""
    errors = pairs["errors"]["response"]
    own = {
        "strategy-pairs": pairs["pairs"]["strategy"],
        "response-pairs": pairs["pairs"]["response"],
        "characters-chosen": pairs["characters"]["chosen"],
        "characters-rejected": pairs["characters"]["rejected"],
        "lack-of-empathy": errors.get("Lack of Empathy", 0),
        "early-emotion-shift": errors.get("Early Emotion Shift", 0),
        "template-response": errors.get("Template Response", 0),
    }
    measured = {f"ipm-prefdial/{key}": dict.fromkeys(("qwen", "llama"), Estimate(value)) for key, value in own.items()}
    draws = ", ".join(f"{number} of the {role}" for role, number in pairs["draws"].items())
    return compare(
        load_tables()["decoupledesc/table-1"], measured, profile=profile, rows=list(measured), columns=("qwen", "llama"),
        n=f"{pairs['turns']:,} training turns; draws a turn: {draws}", note=f"Errors judged by: {pairs['judge']}.",
    )  # fmt: skip


def table_2(judged: Mapping, profile: str) -> ComparisonTable:
    """Table 2 of DecoupledESC: an LLM judge's scores of the chosen and rejected replies of mined pairs."""
    reason, _ = _judge_columns(judged)
    rows = {"chosen": {}, "rejected": {}, "improve": {}}
    if not reason:
        found = {side: {key: Estimate(**e) for key, e in row.items()} for side, row in judged["mined_pairs"]["systems"].items()}
        rows |= found
        both = [key for key in JUDGED if key in found["chosen"] and key in found["rejected"]]
        rows["improve"] = {key: Estimate(100 * (found["chosen"][key].value / found["rejected"][key].value - 1)) for key in both}
    n = "no pairs were judged" if reason else f"{judged['mined_pairs']['pairs']} pairs"
    missing = dict.fromkeys(JUDGED, reason) if reason else {}
    return compare(
        load_tables()["decoupledesc/table-2"], rows, profile=profile, n=n, backbones=BACKBONES, rows=list(rows), not_attempted=missing
    ).transposed()


def table_4(judged: Mapping, profile: str) -> ComparisonTable:
    """Table 4 of DecoupledESC: an LLM judge's scores of the generator under the gold strategy, before and after DPO."""
    reason, scores = _judge_columns(judged)
    rows = {method: {} if reason else {key: Estimate(**e) for key, e in scores["systems"][f"gold-{method}"].items()} for method in ("sft", "dpo")}
    contrasts = {} if reason else {("dpo", "sft"): {key: Estimate(**e) for key, e in scores["contrasts"]["gold-dpo - gold-sft"].items()}}
    n = "no replies were judged" if reason else f"{judged['turns']} test turns"
    missing = dict.fromkeys(JUDGED, reason) if reason else {}
    return compare(
        load_tables()["decoupledesc/table-4"], rows, profile=profile, n=n, backbones=BACKBONES, rows=list(rows), contrasts=contrasts,
        not_attempted=missing,
    ).transposed()  # fmt: skip


CONTROLLED = {"nsnr": "vanilla-nsnr", "psnr": "vanilla-psnr", "nspr": "vanilla-nspr", "all": "vanilla-dpo"}
"""Rows of Table 5 and the systems that stand for them."""


def table_5(evaluation: Evaluation, profile: str, note: str | None = None) -> ComparisonTable:
    """Table 5 of DecoupledESC: the coupled model after each kind of pair.  ``evaluation``: that of stage ``metrics-controlled``."""
    table = load_tables()["decoupledesc/table-5"]
    columns = [column.key for column in table.columns]
    rows, missing = {}, dict.fromkeys(JUDGED, "needs an LLM judge of the controlled study, which is not asked")
    for row, name in CONTROLLED.items():
        why = incomparable(evaluation, name)
        rows[row] = {key: e for key, e in evaluation.systems[name]["paper"].items() if key in columns and key not in why}
        missing |= {(row, key): told for key, told in why.items()}
    contrasts = {
        (row, "psnr"): {key: e for key, e in evaluation.contrasts[f"vanilla-{row} - vanilla-psnr"]["paper"].items() if key in rows[row]}
        for row in ("nsnr", "nspr")
    }
    details = evaluation.details["vanilla-sft"]
    return compare(
        table, rows, profile=profile, n=f"{details.turns:,} test turns of {details.dialogues} dialogues", backbones=BACKBONES,
        rows=list(rows), contrasts=contrasts, not_attempted=missing, note=note,
    ).transposed()  # fmt: skip


def question(asked: Mapping, contrast: str, rows: tuple[str, str], better: Mapping[str, int]) -> pd.DataFrame:
    """One research question as a table: the paper's difference for either backbone, ours over all seeds and under each.

    ``asked``: payload of stage ``questions``; ``contrast``: ``"a - b"`` of its systems; ``rows``: Table 3's rows of a and
    b; ``better``: metric -> 1 or -1, the direction that the claim needs.  Text; the last column is `answer`.
    """
    table = load_tables()["decoupledesc/table-3"]
    found = {}
    for key, sign in better.items():
        together = Estimate(**asked["together"]["contrasts"][contrast]["paper"][key])
        single = [by[contrast][key] for by in asked["by_seed"].values()]
        printed = [table.contrast(f"{backbone}/{rows[0]}", f"{backbone}/{rows[1]}", key) for backbone in BACKBONES]
        decimals = table.column(key).decimals
        found[table.column(key).name] = {
            "claim": "higher" if sign > 0 else "lower",
            **{f"paper, {name}": f"{value:+.{decimals}f}" for name, value in zip(("Qwen", "Llama"), printed, strict=True)},
            "ours": written(together, decimals),
            "by seed": ", ".join(f"{value:+.{decimals}f}" for value in single),
            "answer": answer(sign, together, single),
        }
    return pd.DataFrame(found).T


FEWEST_SEEDS = 3
"""With fewer, an interval knows how dialogues differ and little of how trainings do: no claim is decided."""


def answer(sign: int, together: Estimate, single: Sequence[float]) -> str:
    """``supported``, ``contradicted`` or ``not decided``: the interval over all seeds leaves out 0, and every seed is on that side.

    ``sign`` is the direction that the claim needs.  With fewer than ``FEWEST_SEEDS`` seeds the words are weaker: ``for it,
    1 seed`` and ``against it, 1 seed``.
    """
    if together.low is None or together.low <= 0 <= together.high:
        return "not decided"
    side = 1 if together.low > 0 else -1
    if any(side * value <= 0 for value in single):
        return "not decided"
    if len(single) < FEWEST_SEEDS:
        return f"{'for' if side == sign else 'against'} it, {len(single)} seed{'s' * (len(single) > 1)}"
    return "supported" if side == sign else "contradicted"


def _judge_columns(judged: Mapping) -> tuple[str | None, Mapping]:
    """(why there are none to compare or None, scores of the paper's judge) of stage ``judged``'s payload."""
    if "missing" in judged:
        return f"needs an LLM judge, and {judged['missing']}", {}
    if judged["judges"].get(PAPER_JUDGE, {}).get("resolved") != [PAPER_JUDGE]:
        answered = sorted({model for found in judged["judges"].values() for model in found["resolved"]})
        return f"scores by {' and '.join(answered)} are not comparable with those of {PAPER_JUDGE}", {}
    asked = judged["protocol"] | {"turns": judged["turns"]}
    other = [f"{key} {asked[key]}" for key, value in PAPER_PROTOCOL.items() if asked[key] != value]
    if other:
        return f"the judge was asked otherwise than in the paper ({', '.join(other)})", {}
    return None, judged["judges"][PAPER_JUDGE]["scores"]


def judge_scores(judged: Mapping) -> pd.DataFrame:
    """Mean scores of every system by every judge of the profile, a row each; as text with 95% intervals.

    The last column leaves out the turns after a blank message, at which the judge saw nothing that was said.
    """
    return pd.DataFrame(
        [
            {
                "judge": judge,
                "system": system,
                **_cells(row, JUDGED, 2),
                "Emp, after words": _cells((found["scores_after_words"] or {"systems": {}})["systems"].get(system, {}), ["Emp"], 2)["Emp"],
            }
            for judge, found in judged["judges"].items()
            for system, row in found["scores"]["systems"].items()
        ]
    ).set_index("judge")


def judge_errors(judged: Mapping) -> pd.DataFrame:
    """Share of each psychological error, in per cent, by every judge of the profile."""
    return pd.DataFrame(
        [
            {"judge": judge, "system": system, **_cells(row, LABELS, 0)}
            for judge, found in judged["judges"].items()
            for system, row in found["errors"]["systems"].items()
        ]
    ).set_index("judge")


def judge_pairs(judged: Mapping) -> pd.DataFrame:
    """How often the first of two systems was preferred in both orders, and how often the place in the question decided."""
    columns = ("win", "tie", "lose", "same_in_both_orders", "first_place", "second_place")
    rows = [
        {"judge": judge, "pair": pair, "dimension": key, **{name.replace("_", " "): text for name, text in _cells(row, columns, 0).items()}}
        for judge, found in judged["judges"].items()
        for pair, dimensions in found["pairs"].items()
        for key, row in dimensions.items()
    ]
    return pd.DataFrame(rows or [{"judge": "–", "pair": "not asked"}]).set_index("judge")


def judge_agreement(judged: Mapping) -> pd.DataFrame:
    """Of every judge with itself, asked again and in both orders, and with the others; a row each, as text."""
    def shown(cell: Mapping) -> str:
        equal = "–" if cell["equal"] is None else f"{cell['equal']:.0f}% equal"
        return f"{written(Estimate(**cell['kappa']), 2) if cell['kappa'] else '–'} ({equal} of {cell['items']})"

    rows = {
        **{f"{judge}, asked again": again for judge, found in judged["judges"].items() for again in found["repeats"]},
        **{f"{judge}, {pair} in both orders": orders for judge, found in judged["judges"].items() for pair, orders in found["orders"].items()},
        **judged["between"],
    }
    cells = {what: {key: shown(cell) for key, cell in row.items()} for what, row in rows.items()}
    return pd.DataFrame(cells or {"asked once, alone": {"agreement": "nothing to compare"}}).T


def _cells(row: Mapping[str, Mapping], columns: Sequence[str], decimals: int) -> dict[str, str]:
    return {key: written(Estimate(**row[key]), decimals) if key in row else "–" for key in columns}


RELEASED = {"qwen-sft": "qwen2.5-7b/vanilla/sft", "llama-sft": "llama3.1-8b/vanilla/sft"}
"""The replies that the authors released, and the rows of Table 3 that they belong to."""


def released_table_3(evaluation: Evaluation, profile: str) -> ComparisonTable:
    """Table 3's two Vanilla-SFT rows, computed again from the authors' own replies; a line a metric."""
    columns = [column.key for column in load_tables()["decoupledesc/table-3"].columns]
    rows = {
        row: {key: estimate for key, estimate in evaluation.systems[source]["paper"].items() if key in columns}
        for source, row in RELEASED.items()
    }
    details = evaluation.details["qwen-sft"]
    table = compare(
        load_tables()["decoupledesc/table-3"],
        rows,
        profile=profile,
        n=f"{details.turns:,} test turns of {details.dialogues} dialogues",
        rows=list(rows),
        not_attempted=dict.fromkeys(JUDGED, "the judge's scores were not released"),
        note="The replies are the authors' Vanilla-SFT models'; only the scoring is ours.",
    ).transposed()
    return replace(table, columns=(Label("Qwen2.5-7B"), Label("Llama-3.1-8B")))


def largest_difference(table: ComparisonTable) -> tuple[float, str, str]:
    """(how far, row, column) of the measured cell that lies farthest from the paper's number."""
    measured = [cell for cell in table.cells() if cell.measured]
    worst = max(measured, key=lambda cell: abs(cell.measured.value - cell.paper))
    return abs(worst.measured.value - worst.paper), worst.row, worst.column


def decoding(evaluation: Evaluation, paradigm: str) -> pd.DataFrame:
    """Table 3's columns without a judge for one paradigm's SFT systems: the paper's two rows, ours drawn and by argmax.

    Text, at the paper's precision; ours with 95% intervals.  A dash where :func:`table_3` would not compare either.
    """
    table = load_tables()["decoupledesc/table-3"]
    printed = {backbone: f"{backbone}/{paradigm}/sft" for backbone in BACKBONES}

    def ours(system: str, key: str, decimals: int) -> str:
        if key in incomparable(evaluation, system):
            return "–"
        return written(evaluation.systems[system]["paper"][key], decimals)

    rows = {}
    for column in table.columns:
        if column.key not in JUDGED:
            decimals = table.decimals(printed[BACKBONES[0]], column.key)
            rows[column.name] = {
                **{f"paper, {name}": f"{table.value(row, column.key):.{decimals}f}" for name, row in printed.items()},
                "ours, sampled": ours(f"{paradigm}-sft", column.key, decimals),
                "ours, argmax": ours(f"{paradigm}-sft-argmax", column.key, decimals),
            }
    return pd.DataFrame(rows).T


def written(estimate: Estimate, decimals: int = 1) -> str:
    """``value [low, high]``, or the value alone where there is no interval."""
    interval = "" if estimate.low is None else f" [{estimate.low:.{decimals}f}, {estimate.high:.{decimals}f}]"
    return f"{estimate.value:.{decimals}f}{interval}"


def incomparable(evaluation: Evaluation, system: str) -> dict[str, str]:
    """Columns in which ``system`` can't be set beside the paper's, and why."""
    valid = _valid(evaluation, system)
    if valid < FEWEST_VALID:
        return dict.fromkeys(STRATEGY_METRICS, f"fewer than {FEWEST_VALID} answers of this system name a strategy")
    if valid < 0.9 * PAPER_TURNS:
        return {"B": f"B depends on the number of turns: {valid:,} here, {PAPER_TURNS:,} in the paper"}
    return {}


def _valid(evaluation: Evaluation, system: str) -> int:
    details = evaluation.details[system]
    return round((1 - details.invalid_rate) * details.turns)


def report(measured: Sequence[ComparisonTable]) -> pd.DataFrame:
    """One line for every number of both papers: table, row, column, paper, measured, low, high, status, why.

    Raises ValueError for a cell without a status, that is for a table of the papers that ``NOT_YET`` does not know, and
    for a cell that two tables measure.
    """
    frame = pd.concat([table.to_frame() for table in measured], ignore_index=True)
    frame = frame[frame.paper.notna()]
    if frame.duplicated(["table", "row", "column"]).any():
        raise ValueError("a cell of the papers is measured twice")
    done = set(zip(frame.table, frame.row, frame.column, strict=True))
    rest = []
    for table in load_tables().values():
        for row in table.rows:
            for column in table.columns:
                value = table.value(row.key, column.key) if table.kind == "numbers" else None
                if value is None or (table.id, row.key, column.key) in done:
                    continue
                if table.id not in NOT_YET:
                    raise ValueError(f"{table.id}, row {row.key}, column {column.key} has no status")
                why = NOT_YET[table.id]
                rest.append((table.id, row.key, column.key, value, None, None, None, str(Status.NOT_ATTEMPTED), why))
    numbers = dict.fromkeys(["paper", "measured", "low", "high"], float)
    return pd.concat([frame, pd.DataFrame(rest, columns=frame.columns).astype(numbers)], ignore_index=True)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`report`'s lines: how many cells of each table have each status, tables in the papers' order."""
    counts = frame.groupby(["table", "status"]).size().unstack(fill_value=0)
    order = [table for table in load_tables() if table in counts.index]
    counts = counts.reindex(index=order, columns=[str(s) for s in Status if str(s) in counts.columns])
    counts.insert(0, "cells", counts.sum(axis=1))
    return counts


def listing(frame: pd.DataFrame) -> pd.DataFrame:
    """:func:`report`'s measured lines as text, at the paper's precision, for reading."""
    tables = load_tables()

    def printed(line: pd.Series) -> pd.Series:
        table = tables[line.table]
        decimals = table.decimals(line.row, line.column)
        numbers = [f"{line[key]:,.{decimals}f}" if pd.notna(line[key]) else "" for key in ("paper", "measured", "low", "high")]
        interval = f"[{numbers[2]}, {numbers[3]}]" if numbers[2] else ""
        return pd.Series([table.name, line.row, line.column, *numbers[:2], interval, line.status])

    names = ["table", "row", "column", "paper", "ours", "interval", "status"]
    return frame.apply(printed, axis=1).set_axis(names, axis=1)
