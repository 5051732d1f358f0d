"""The tables that this repository has measured so far, beside the paper's; and a status for every cell of both papers.

One function a table, each from typed results to a ``ComparisonTable``.  ``report`` joins them with everything that was
not attempted, so that no number of either paper is without a status.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from decoupled_esc.evaluate import STRATEGY_METRICS, Estimate, Evaluation
from decoupled_esc.evaluate.judged import ScoreTable
from decoupled_esc.evaluate.judges import Protocol
from decoupled_esc.evaluate.seeds import GOLD, SeedMeans
from decoupled_esc.experiments.data import DataCounts
from decoupled_esc.experiments.judging import ErrorsOverSeeds, Judged
from decoupled_esc.experiments.preferences import MinedPairs
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import settings
from decoupled_esc.present.paper import PaperTable, Status, load_tables
from decoupled_esc.present.tables import ComparisonTable, Label, compare, format_estimate
from decoupled_esc.taxonomy import NO_ERROR

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
"""How the paper's scores were made.  Scores that were made otherwise are shown, and nothing of them is compared."""
UNREAD = dict.fromkeys(JUDGED, Missing("no answer of the judge could be read"))

NOT_YET: dict[str, str] = {
    "decoupledesc/table-1": "sums over two backbones, where a profile has one",
    "cso/table-1": "people's judgements; chapter 05 has those of the offline judges, which are no people",
    **{f"cso/table-{n}": "human evaluation" for n in (3, 6)},
    **{f"cso/table-{n}": "the profile has no search" for n in (4, 5)},
    "cso/table-7": "the paper used a paid service; chapter 05 has another classifier's numbers beside it, which are no measure of these",
    **{f"cso/table-{n}": "needs both tunings, and this profile has one" for n in (2, 9, 10, 11)},
    "cso/in-text": "read off Figure 4, of which chapter 13 has three points for other data",
}
"""Why the cells of a table that no function here measures are not attempted."""


def compare_systems(
    table: str,
    evaluation: Evaluation | Missing,
    systems: Mapping[str, str],
    starts: Mapping[str, str],
    *,
    judged: ScoreTable | Missing | None = None,
    otherwise: Missing | None = None,
    **options,
) -> ComparisonTable:
    """``systems`` (row of the paper's ``table`` -> name in ``evaluation``), variant ``paper``, beside that table.

    ``starts``: row -> the row that it starts from: a number that misses the paper's can still differ from that row's in
    the paper's direction.  ``judged``: the scores in the columns of an LLM judge, or why there are none; None where the
    table has no such columns.  ``otherwise``: `asked_otherwise`.  ``options``: of `compare`; all of ``systems`` are shown
    unless it names ``rows``.  A system that follows no instruction is compared in nothing, and nothing is compared with it.
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
    if isinstance(judged, ScoreTable):
        printed = with_judge_noise(printed, judged)
    silent = {row: why for row, name in systems.items() if (why := follows_nothing(evaluation, name))}
    sources = {row: f"{name}, {{column}}" for row, name in systems.items()}
    options = {"backbones": BACKBONES, "rows": list(systems), "incomparable": silent | unlike(otherwise)} | options
    return compare(printed, rows, contrasts=contrasts, sources=sources, **options)


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
        few = Missing(f"fewer than {MIN_VALID} answers of this system name a strategy")
        return dict.fromkeys(STRATEGY_METRICS, few)
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


def strategy_distributions(evaluation: Evaluation, systems: Mapping[str, str]) -> dict[str, list[float] | Missing]:
    """Title -> share of each strategy among a system's valid answers, or why these are too few to say.  ``systems``: title -> name."""
    found = {}
    for title, name in systems.items():
        details, valid = evaluation.details[name], valid_answers(evaluation, name)
        few = Missing(f"{valid} of {details.turns:,} answers name a strategy")
        found[title] = few if valid < MIN_VALID else details.distribution
    return found


def counted_turns(evaluation: Evaluation | Missing, system: str) -> str:
    """How many test turns stand behind a table, in words."""
    if isinstance(evaluation, Missing) or system not in evaluation.details:
        return "no turns"
    details = evaluation.details[system]
    return f"{details.turns:,} test turns of {details.dialogues} dialogues"


def table_1(data: DataCounts, profile: str) -> ComparisonTable:
    """Table 1 of DecoupledESC, ESConv's half."""
    table, sides = load_tables()["decoupledesc/table-1"], ("total", "assistant", "user")
    measured = {"esconv/dialogues": {"total": Estimate(data.dialogues["train"])}}
    for key in ("utterances", "turns_per_dialogue", "characters_per_utterance"):
        row = f"esconv/{key.replace('_', '-')}"
        measured[row] = {side: Estimate(data.size[side][key]) for side in sides}
    n = f"{data.dialogues['train']:,} dialogues of {data.corpus}"
    return compare(table, measured, profile=profile, n=n, rows=list(measured), columns=sides)


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
    rows, note = list(measured), f"Errors judged by: {pairs.judge}."
    sources = {row: row for row in rows}
    return compare(table, measured, profile=profile, n=n, rows=rows, columns=columns, sources=sources, note=note)


def table_2(judged: Judged | Missing, profile: str) -> ComparisonTable:
    """Table 2 of DecoupledESC: an LLM judge's scores of the chosen and rejected replies of mined pairs."""
    measured, n, otherwise = pair_scores(judged), "no pairs were judged", None
    if not isinstance(measured, Missing):
        n = f"{judged.mined_pairs.pairs} pairs"
        otherwise = asked_otherwise(judged.mined_pairs.protocol, judged.mined_pairs.pairs)
    return compare(
        load_tables()["decoupledesc/table-2"], measured, profile=profile, n=n, backbones=BACKBONES,
        rows=["chosen", "rejected", "improve"], incomparable=unlike(otherwise), note=otherwise and otherwise.reason,
    ).transposed()  # fmt: skip


def pair_scores(judged: Judged | Missing) -> dict[str, dict[str, Estimate | Missing]] | Missing:
    """Table 2's rows by the paper's judge: its scores of either side of mined pairs, and the improvement in per cent."""
    if isinstance(judged, Missing):
        return paper_judge(judged)
    found = judged.mined_pairs
    if found.judge is None:
        return Missing("there is no pair")
    if found.judge != PAPER_JUDGE:
        return Missing(f"scores by {found.judge} are not comparable with those of {PAPER_JUDGE}")
    chosen, rejected = (UNREAD | found.systems.get(side, {}) for side in ("chosen", "rejected"))
    both = [key for key in JUDGED if isinstance(chosen[key], Estimate) and isinstance(rejected[key], Estimate)]
    improved = {key: Estimate(100 * (chosen[key].value / rejected[key].value - 1)) for key in both}
    return {"chosen": chosen, "rejected": rejected, "improve": UNREAD | improved}


def in_text(errors: ErrorsOverSeeds | Missing, judged: Judged | Missing, profile: str) -> ComparisonTable:
    """The numbers that DecoupledESC's text alone states: replies without an error after Decoupled-DPO, how many more these are than
    after Vanilla-SFT (section 6.2), and how much more empathy the chosen replies have (section 4.3)."""
    measured = dict.fromkeys(("figure-7/no-error-share", "figure-7/no-error-gain"), errors)
    incomparable, n = {}, "nothing judged"
    if not isinstance(errors, Missing):
        share, gain = errors.systems["decoupled-dpo"], errors.contrasts["decoupled-dpo - vanilla-sft"]
        measured = {key: {"value": row[NO_ERROR]} for key, row in zip(measured, (share, gain), strict=True)}
        other = Missing(f"by an offline classifier ({errors.learned_from}), which is another judge than the paper's")
        incomparable, n = dict.fromkeys(measured, other), f"replies of {len(errors.seeds)} seed(s) to all test turns"
    scores = pair_scores(judged)
    gained = scores if isinstance(scores, Missing) else scores["improve"]["Emp"]
    measured["table-2/empathy-gain"] = {"value": gained}
    if isinstance(gained, Estimate):
        incomparable["table-2/empathy-gain"] = asked_otherwise(judged.mined_pairs.protocol, judged.mined_pairs.pairs)
    table = load_tables()["decoupledesc/in-text"]
    note = "Error shares in per cent of replies, by the offline error classifier."
    return compare(table, measured, profile=profile, n=n, incomparable=incomparable, note=note)


def text_claims(shares: SeedMeans | Missing, profile: str) -> ComparisonTable:
    """What DecoupledESC's text claims without a number: that Vanilla-DPO leans on *Question* (section 3.2).

    Measured is by how many points of all turns it exceeds the human reference.
    """
    measured, n = shares, "no turns"
    if not isinstance(shares, Missing):
        measured = {"section-3.2/question": {"sign": shares.contrasts[f"vanilla-dpo - {GOLD}"]["Question"]}}
        n = f"replies of {len(shares.seeds)} seed(s) to all test turns"
    return compare(load_tables()["decoupledesc/claims"], measured, profile=profile, n=n)


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
    """Table 3 of DecoupledESC: ``methods`` of one paradigm, a line per metric, against both backbones of the paper."""
    starts = {f"{paradigm}/{one}": f"{paradigm}/{COMPARATORS[one]}" for one in methods if one in COMPARATORS}
    shown = [f"{paradigm}/{method}" for method in methods]
    systems = {row: row.replace("/", "-") for row in [*shown, *starts.values()]}
    made = [one for one in methods if isinstance(evaluation, Evaluation) and f"{paradigm}-{one}" in evaluation.details]
    scores, n = paper_judge(judged), counted_turns(evaluation, f"{paradigm}-{(made or methods)[0]}")
    notes, otherwise = [note] if note else [], None
    if isinstance(scores, ScoreTable):
        notes.append(f"Judge: {PAPER_JUDGE}, on {judged.turns} of the turns, asked in our own words.")
        otherwise = asked_otherwise(judged.protocol, judged.turns)
        notes += [otherwise.reason] if otherwise else []
    if made:
        counted = [f"{valid_answers(evaluation, f'{paradigm}-{method}'):,} ({method})" for method in made]
        n += f", strategy metrics on the valid answers: {', '.join(counted)}"
    said = {"profile": profile, "n": n, "note": " ".join(notes), "rows": shown}
    table = compare_systems(
        "decoupledesc/table-3", evaluation, systems, starts, judged=scores, otherwise=otherwise, **said
    )
    return table.transposed()


def table_4(judged: Judged | Missing, profile: str) -> ComparisonTable:
    """Table 4 of DecoupledESC: an LLM judge's scores of the generator under the gold strategy, before and after DPO."""
    scores, table = paper_judge(judged), load_tables()["decoupledesc/table-4"]
    measured, contrasts, n, otherwise = scores, {}, "no replies were judged", None
    if not isinstance(scores, Missing):
        table, otherwise = with_judge_noise(table, scores), asked_otherwise(judged.protocol, judged.turns)
        measured = {method: UNREAD | scores.systems[f"gold-{method}"] for method in ("sft", "dpo")}
        contrasts, n = {"dpo": ("sft", scores.contrasts["gold-dpo - gold-sft"])}, f"{judged.turns} test turns"
    return compare(
        table, measured, profile=profile, n=n, backbones=BACKBONES, rows=["sft", "dpo"], contrasts=contrasts,
        incomparable=unlike(otherwise), note=otherwise and otherwise.reason,
    ).transposed()  # fmt: skip


def table_5(evaluation: Evaluation | Missing, profile: str, note: str | None = None) -> ComparisonTable:
    """Table 5 of DecoupledESC: the coupled model after each kind of pair.  ``evaluation``: that of ``metrics-controlled``."""
    systems = {"nsnr": "vanilla-nsnr", "psnr": "vanilla-psnr", "nspr": "vanilla-nspr", "all": "vanilla-dpo"}
    unasked = Missing("needs an LLM judge of the controlled study, which is not asked")
    starts, n = {"nsnr": "psnr", "nspr": "psnr"}, counted_turns(evaluation, "vanilla-sft")
    return compare_systems(
        "decoupledesc/table-5", evaluation, systems, starts, judged=unasked, profile=profile, n=n, note=note
    ).transposed()


def table_6(data: DataCounts, profile: str) -> ComparisonTable:
    """Table 6 of DecoupledESC."""
    total = sum(data.strategy_counts.values())
    measured = {
        name: {"number": Estimate(count), "proportion": Estimate(100 * count / total)}
        for name, count in [*data.strategy_counts.items(), ("Overall", total)]
    }
    n = f"{total:,} supporter turns of the training split"
    return compare(load_tables()["decoupledesc/table-6"], measured, profile=profile, n=n)


def paper_judge(judged: Judged | Missing) -> ScoreTable | Missing:
    """The scores of the paper's judge, or why there are none; whether it was asked as in the paper says `asked_otherwise`."""
    if isinstance(judged, Missing):
        return Missing(f"needs an LLM judge, and {judged.reason}")
    found = judged.judges.get(PAPER_JUDGE)
    if found is None or found.resolved != [PAPER_JUDGE]:
        resolved = sorted({model for one in judged.judges.values() for model in one.resolved})
        return Missing(f"scores by {' and '.join(resolved)} are not comparable with those of {PAPER_JUDGE}")
    return found.scores


def asked_otherwise(protocol: Protocol, items: int) -> Missing | None:
    """Why scores of ``items`` turns or pairs under ``protocol`` can't be compared with the paper's; None if it asked like that."""
    asked = protocol.model_dump() | {"turns": items}
    other = [f"{key} {asked[key]}, there {value}" for key, value in PAPER_PROTOCOL.items() if asked[key] != value]
    why = f"The judge was asked under another protocol than the paper's, and nothing of it is compared: {'; '.join(other)}."
    return Missing(why) if other else None


def unlike(otherwise: Missing | None) -> dict[str, Missing]:
    """For `compare`: that no column of the judge can be compared."""
    return dict.fromkeys(JUDGED, otherwise) if otherwise else {}


def with_judge_noise(table: PaperTable, scores: ScoreTable) -> PaperTable:
    """``table`` with its noise in the judge's columns: half the widest 95% interval of a difference by the same judge here."""
    widths: dict[str, float] = {}
    for row in scores.contrasts.values():
        for key, found in row.items():
            if found.low is not None:
                widths[key] = max(widths.get(key, 0.0), (found.high - found.low) / 2)
    return replace(table, noise={**table.noise, **widths})


def released_table_3(evaluation: Evaluation, profile: str) -> ComparisonTable:
    """Table 3's two Vanilla-SFT rows, computed again from the replies that the authors released; a line per metric."""
    systems = {"qwen2.5-7b/vanilla/sft": "qwen-sft", "llama3.1-8b/vanilla/sft": "llama-sft"}
    table = compare_systems(
        "decoupledesc/table-3", evaluation, systems, {}, judged=Missing("the judge's scores were not released"), profile=profile,
        n=counted_turns(evaluation, "qwen-sft"), backbones=(),
        note="The replies are the authors' Vanilla-SFT models'; only the scoring is ours.",
    )  # fmt: skip
    return replace(table.transposed(), columns=(Label("Qwen2.5-7B"), Label("Llama-3.1-8B")))


def largest_difference(table: ComparisonTable) -> tuple[float, str, str]:
    """(how far, row, column) of the measured cell that lies farthest from the paper's number."""
    apart = ((abs(cell.measured.value - cell.paper), cell) for cell in table.cells() if cell.measured)
    worst, cell = max(apart, key=lambda pair: pair[0])
    return worst, cell.row, cell.column


def decoding(evaluation: Evaluation | Missing, paradigm: str) -> pd.DataFrame | Missing:
    """Table 3's columns without a judge for one paradigm's SFT systems: the paper's two rows, ours sampled and greedy.

    Text, at the paper's precision; ours with 95% intervals.  A dash where `table_3` would not compare either.
    """
    if isinstance(evaluation, Missing):
        return evaluation
    table = load_tables()["decoupledesc/table-3"]
    systems = {"ours, sampled": f"{paradigm}-sft", "ours, argmax": f"{paradigm}-sft-argmax"}
    rows = {}
    for column in table.columns:
        if column.key in JUDGED:
            continue
        row = rows[column.name] = {}
        for backbone in BACKBONES:
            row[f"paper, {backbone}"] = f"{table.value(f'{backbone}/{paradigm}/sft', column.key):.{column.decimals}f}"
        for name, system in systems.items():
            absent = column.key in incomparable(evaluation, system)
            found = None if absent else evaluation.systems[system]["paper"][column.key]
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
        if table.kind in ("numbers", "claims") and table.id not in settings.KEYS
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
