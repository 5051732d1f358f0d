"""The claims of both papers in one view: what they report, what was measured here, and the answer (the landing page)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation, SeedMeans
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import cso_tables, questions
from decoupled_esc.present.figures import PALETTE, source_line
from decoupled_esc.present.forest import ForestRow, backbones
from decoupled_esc.present.paper import load_tables

METRICS = {
    "F1": "F1 of words", "Q": "macro F1 of strategies", "B": "preference bias", "None": "replies without error, points",
}  # fmt: skip


def rows(
    asked: SeedEvaluation,
    cso: SeedEvaluation | None,
    controlled: Evaluation | None,
    errors: SeedMeans | Missing | None,
    answers: tuple[str, str, str],
    tuning: str = "full",
) -> tuple[ForestRow, ...]:
    """The claim board's rows for one backbone, by the rule and with the families of rows of chapters 07 and 09 to 13.

    What is None was not measured on it, and has no row.  ``answers``: what chapter 12 says of *None*, and why; and what the appendix on
    judges says of the judged differences.  ``tuning``: of its runs ``cso-*``.
    """
    return (
        *(() if controlled is None else (_observation(controlled),)), *_questions(asked),
        *(() if errors is None else (_errors(errors, *answers[:2]),)), *(() if cso is None else _cso(cso, tuning)), _judged(answers[2]),
    )  # fmt: skip


def counted_across(board: Sequence[ForestRow]) -> str:
    """How many rows have which answer over the backbones, in a sentence to add to a caption; nothing where there is one backbone."""
    names = backbones(board)
    told = Counter(row.across for row in board if row.across)
    said = "; ".join(f"{count} {answer}" for answer, count in told.items())
    return f" Of the {told.total()} rows that were measured on {' and '.join(names)}: {said}." if names else ""


SHOWN = {
    "RQ1": ("09_ask_rq1", {"F1": "DPO makes the coupled model's replies better (the paper: by a judge)"}),
    "RQ2": ("10_ask_rq2", {"Q": "Decoupled, both after DPO: better strategies", "B": "Decoupled, both after DPO: less bias"}),
    "RQ3": ("11_ask_rq3", {"Q": "DPO makes the decoupled system's strategies better", "B": "DPO makes the planner less biased"}),
}  # fmt: skip
"""Question -> (page, metric -> claim) of the first table of its chapter."""


def _observation(controlled: Evaluation) -> ForestRow:
    (row,) = questions.observation(controlled, ("Q",))
    claim = "Rejected turns with two faults teach strategies better than those where only the reply is wrong"
    return replace(row, claim=claim, note=METRICS["Q"], about="Observation 2", page="07_train_vanilla_baselines")


def _questions(asked: SeedEvaluation) -> Iterator[ForestRow]:
    for about, (page, shown) in SHOWN.items():
        contrast, better, rows = questions.FIRST[about]
        found = questions.question(asked, contrast, rows, better) if contrast in asked.together.contrasts else ()
        for row in found:
            if row.key in shown:
                yield replace(row, claim=shown[row.key], note=METRICS[row.key], about=about, page=page)


def _errors(errors: SeedMeans | Missing, said: str, why: str) -> ForestRow:
    printed = load_tables()["decoupledesc/in-text"].value("figure-7/no-error-gain", "value")
    contrast = "decoupled-dpo - decoupled-sft"
    absent = isinstance(errors, Missing)
    ours = None if absent else errors.contrasts[contrast]["None"]
    single = () if absent else tuple(by[contrast]["None"] for by in errors.by_seed.values())
    claim = "Decoupled-DPO makes fewer psychological errors"
    return ForestRow(
        claim, 1, ours, single, said, {"both backbones": printed}, key="None", note=METRICS["None"], about="RQ4", page="12_ask_rq4",
        why=why,
    )  # fmt: skip


def _cso(cso: SeedEvaluation, tuning: str) -> Iterator[ForestRow]:
    """With all weights and with adapters; the ablation with adapters where it was measured so, as in the paper."""
    rows = cso_tables.claim_rows(cso, cso_tables.verdict_claims(cso.together, tuning))
    ablation = [row for row in rows if "random" in row.claim]
    adapters = [row for row in ablation if row.claim.startswith(cso_tables.ADAPTERS)]
    for row in rows:
        if row in ablation and row not in (adapters or ablation):
            continue
        about = "CSO, ablation" if row in ablation else "CSO"
        claim = row.claim[0].upper() + row.claim[1:]
        yield replace(row, claim=claim, note=METRICS[row.key], about=about, page="13_optimise_strategy_chains")


def _judged(said: str) -> ForestRow:
    claim = "LLM judges and people prefer the new systems' replies"
    return ForestRow(claim, 1, None, (), said, about="both papers", page="92_read_judges")


def findings(
    biases: Mapping[str, Sequence],
    sizes: Mapping[str, tuple[float, Estimate]],
    agreement: Mapping[str, Estimate],
    source: str,
) -> Figure:
    """What this book found and the papers don't say, as three panels.

    ``biases``: planner or system -> rows of a temperature sweep; ``sizes``: system -> (parameters, F1); ``agreement``: raters ->
    quadratic kappa with experts.
    """
    figure, (first, second, third) = plt.subplots(
        1, 3, figsize=(7.6, 2.9), width_ratios=(5, 5, 4), layout="constrained"
    )
    for (name, rows), colour, marker in zip(biases.items(), PALETTE, "os^Dv", strict=False):
        first.plot(
            [row.temperature for row in rows],
            [row.B.value for row in rows],
            marker,
            linestyle="-",
            color=colour,
            markersize=3,
            label=name,
        )
    first.set(title="bias B over decoding", xlabel="temperature (0: argmax)", ylim=(0, None))
    first.legend(fontsize=6.5)
    for (name, (parameters, f1)), colour in zip(sizes.items(), PALETTE, strict=False):
        if f1.low is not None:
            second.plot([parameters] * 2, [f1.low, f1.high], color=colour, linewidth=2)
        second.plot(parameters, f1.value, "o", color=colour, markersize=4)
        like = [other.value for size, other in sizes.values() if 0.5 < size / parameters < 2]
        up = 9 if f1.value == max(like) else -14
        second.annotate(
            name, (parameters, f1.value), xytext=(3, up), textcoords="offset points", fontsize=6.5, color=colour
        )
    second.set(title="F1 of words over size", xlabel="parameters", xscale="log", xlim=(2e6, 2e11))
    second.set_ylim(0, 30)
    for place, kappa in enumerate(agreement.values()):
        third.barh(-place, kappa.value, color=PALETTE[0], height=0.6)
        if kappa.low is not None:
            third.plot([kappa.low, kappa.high], [-place] * 2, color="black", linewidth=1)
    third.set_yticks([-place for place in range(len(agreement))], list(agreement), fontsize=7)
    third.set(title="kappa with experts", xlim=(0, 1))
    third.grid(axis="y", visible=False)
    return source_line(figure, source)
