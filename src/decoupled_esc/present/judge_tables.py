"""What LLM judges said of the systems' replies, as tables of text (chapters 08, 10, 12); `Missing` where none was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import pandas as pd

from decoupled_esc.evaluate import Estimate
from decoupled_esc.evaluate.errors import LABELS
from decoupled_esc.evaluate.judges import Agreement
from decoupled_esc.evaluate.offline import ErrorValidity
from decoupled_esc.evaluate.seeds import SeedMeans
from decoupled_esc.experiments.agreement import JudgementAgreement
from decoupled_esc.experiments.judging import Judged, JudgeScores
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import questions
from decoupled_esc.present.replication import JUDGED
from decoupled_esc.present.tables import format_estimate


def _by_judge(judged: Judged | Missing, rows: Callable[[JudgeScores], Iterable[dict]]) -> pd.DataFrame | Missing:
    """``rows``: what one judge said -> its rows, text."""
    if isinstance(judged, Missing):
        return judged
    found = [{"judge": judge, **row} for judge, said in judged.judges.items() for row in rows(said)]
    return pd.DataFrame(found or [{"judge": "–", "pair": "not asked"}]).set_index("judge")


def _cells(row: Mapping[str, Estimate], columns: Sequence[str], decimals: int) -> dict[str, str]:
    return {key: format_estimate(row.get(key), decimals) for key in columns}


def judge_scores(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Mean scores of every system by every judge of the profile, a row each; as text with 95% intervals.

    The last column leaves out the turns after a blank message, at which the judge saw nothing that was said.
    """

    def rows(said):
        words = said.scores_after_words.systems if said.scores_after_words else {}
        for system, row in said.scores.systems.items():
            after = format_estimate(words.get(system, {}).get("Emp"), 2)
            yield {"system": system, **_cells(row, JUDGED, 2), "Emp, after words": after}

    return _by_judge(judged, rows)


def judge_errors(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Share of each psychological error, in per cent, by every judge of the profile."""
    return _by_judge(
        judged,
        lambda said: [{"system": system, **_cells(row, LABELS, 0)} for system, row in said.errors.systems.items()],
    )


def answer_errors(
    found: SeedMeans | Missing, worth: ErrorValidity | Missing, difference: str, label: str, sign: int
) -> str:
    """`questions.answer` to a ``difference`` in the share of ``label``, beyond the largest error of the classifier's differences."""
    if isinstance(found, Missing) or isinstance(worth, Missing):
        return "not decided"
    gap = max(abs(share.known - share.labelled) for row in worth.differences.values() for share in row.values())
    gain, single = found.contrasts[difference][label], [of[difference][label] for of in found.by_seed.values()]
    sure = gain.low is not None and (gain.low > gap or gain.high < -gap)
    return questions.answer(sign, gain, single) if sure else "not decided"


def judge_pairs(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """How often the first of two systems was preferred in both orders, and how often the place in the question decided."""
    columns = ("win", "tie", "lose", "same_in_both_orders", "first_place", "second_place")
    return _by_judge(
        judged,
        lambda said: [
            {"pair": pair, "dimension": key}
            | {name.replace("_", " "): format_estimate(getattr(outcome, name), 0) for name in columns}
            for pair, dimensions in said.pairs.items()
            for key, outcome in dimensions.items()
        ],
    )


def judge_agreement(judged: Judged | Missing) -> pd.DataFrame | Missing:
    """Of every judge with itself, asked again and in both orders, and with the others; a row each, as text."""
    if isinstance(judged, Missing):
        return judged

    def shown(found: Agreement) -> str:
        equal = "–" if found.equal is None else f"{found.equal:.0f}% equal"
        return f"{format_estimate(found.kappa, 2)} ({equal} of {found.items})"

    rows = {f"{judge}, asked again": again for judge, said in judged.judges.items() for again in said.repeats}
    for judge, said in judged.judges.items():
        rows |= {f"{judge}, {pair} in both orders": orders for pair, orders in said.orders.items()}
    rows |= judged.between
    cells = {what: {key: shown(found) for key, found in row.items()} for what, row in rows.items()}
    return pd.DataFrame(cells or {"asked once, alone": {"agreement": "nothing to compare"}}).T


def published_agreement(found: JudgementAgreement | Missing) -> pd.DataFrame | Missing:
    """Of people and LLMs with experts, in the published judgements: medians over dimensions, a row per group of raters."""
    if isinstance(found, Missing):
        return found
    rows = []
    for what, part in {"conversations": found.conversations, "replies": found.replies}.items():
        if isinstance(part, Missing):
            rows.append({"raters": "–", "rated": what, "dimensions": part.reason})
            continue
        for row in part.medians:
            measures = {"kappa": row.kappa, "kappa with each expert": row.each, "rank correlation": row.rank}
            cells = {name: format_estimate(value, 2) for name, value in measures.items()}
            where = {"rated": what, "dimensions": row.dimension, "pairs of ratings": f"{row.items:,}"}
            rows.append({"raters": row.raters, **where, **cells})
    return pd.DataFrame(rows).set_index("raters").fillna("–")
