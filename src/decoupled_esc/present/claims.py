"""The claims of both papers in one view: what they report, what was measured here, and the answer (the landing page)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation, SeedMeans
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import cso_tables, questions
from decoupled_esc.present.figures import PALETTE, source_line
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.tables import format_estimate

BACKBONES = {"qwen2.5-7b": "Qwen", "llama3.1-8b": "Llama", "gemma2-9b": "Gemma"}
METRICS = {
    "F1": "F1 of words", "Q": "macro F1 of strategies", "B": "preference bias", "None": "replies without error, points",
}  # fmt: skip


@dataclass(frozen=True)
class BoardRow:
    """One claim: a difference that should have ``sign`` in ``metric``."""

    about: str
    """Which question of which paper."""
    claim: str
    metric: str
    sign: int
    printed: dict[str, float]
    """Backbone -> the paper's difference."""
    ours: Estimate | None
    single: tuple[float, ...]
    answer: str
    page: str
    """The chapter's page, without an ending."""


@dataclass(frozen=True, repr=False)
class Board:
    """All claims, a row each; Jupyter shows it as a table with a small picture in every row."""

    rows: tuple[BoardRow, ...]
    caption: str

    def __repr__(self) -> str:
        return "\n".join(f"{row.about}: {row.claim}: {row.answer}" for row in self.rows)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in ("", "claim", "papers (hollow) and here", "answer"))
        body = "\n".join(_line(row) for row in self.rows)
        return (
            f'<div class="claim-board"><table><caption>{escape(self.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody></table></div>"
        )


def board(
    asked: SeedEvaluation,
    cso: SeedEvaluation,
    controlled: Evaluation,
    errors: SeedMeans | Missing,
    answers: tuple[str, str],
    caption: str,
) -> Board:
    """The claim board, by the rule and with the families of rows of chapters 07 and 09 to 13.

    ``answers``: what chapter 12 says of *None*, and what the appendix on judges says of the judged differences.
    """  # fmt: skip
    rows = (
        *_observation(controlled), *_questions(asked), _errors(errors, answers[0]), *_cso(cso), _judged(answers[1]),
    )  # fmt: skip
    return Board(rows, caption)


def _observation(controlled: Evaluation) -> Iterator[BoardRow]:
    """Observation 2, under one seed: pairs whose rejected turn has one fault against pairs with both."""
    table = load_tables()["decoupledesc/table-5"]
    for kind, name in {"psnr": "only the reply", "nspr": "only the strategy"}.items():
        contrast = f"vanilla-nsnr - vanilla-{kind}"
        if contrast not in controlled.contrasts:
            continue
        ours = controlled.contrasts[contrast]["paper"]["Q"]
        printed = {
            backbone: table.contrast(f"{backbone}/nsnr", f"{backbone}/{kind}", "Q")
            for backbone in ("qwen2.5-7b", "llama3.1-8b")
        }
        claim = f"Rejected turns with two faults teach strategies better than those where {name} is wrong"
        yield BoardRow(
            "Observation 2", claim, "Q", 1, printed, ours, (ours.value,), questions.answer(1, ours, (ours.value,)),
            "07_train_vanilla_baselines",
        )  # fmt: skip


SHOWN = {
    "RQ1": ("09_ask_rq1", {"F1": "DPO makes the coupled model's replies better"}),
    "RQ2": ("10_ask_rq2", {"Q": "Decoupled, both after DPO: better strategies", "B": "Decoupled, both after DPO: less bias"}),
    "RQ3": ("11_ask_rq3", {"Q": "DPO makes the decoupled system's strategies better", "B": "DPO makes the planner less biased"}),
}  # fmt: skip
"""Question -> (page, metric -> claim) of the first table of its chapter."""


def _questions(asked: SeedEvaluation) -> Iterator[BoardRow]:
    table = load_tables()["decoupledesc/table-3"]
    for question, (page, shown) in SHOWN.items():
        contrast, better, (first, second) = questions.FIRST[question]
        family = {key: questions.claim(asked, contrast, key, sign) for key, sign in better.items()}
        answers = dict(zip(family, questions.decide(list(family.values())), strict=True))
        for key, claim in shown.items():
            printed = {
                backbone: table.contrast(f"{backbone}/{first}", f"{backbone}/{second}", key)
                for backbone in ("qwen2.5-7b", "llama3.1-8b")
            }
            one = family[key]
            yield BoardRow(question, claim, key, one.sign, printed, one.together, one.single, answers[key], page)


def _errors(errors: SeedMeans | Missing, said: str) -> BoardRow:
    printed = load_tables()["decoupledesc/in-text"].value("figure-7/no-error-gain", "value")
    contrast = "decoupled-dpo - decoupled-sft"
    absent = isinstance(errors, Missing)
    ours = None if absent else errors.contrasts[contrast]["None"]
    single = () if absent else tuple(by[contrast]["None"] for by in errors.by_seed.values())
    claim = "Decoupled-DPO makes fewer psychological errors"
    return BoardRow("RQ4", claim, "None", 1, {"both backbones": printed}, ours, single, said, "12_ask_rq4")


def _cso(cso: SeedEvaluation) -> Iterator[BoardRow]:
    family = cso_tables.verdict_claims(cso.together)
    claims = [questions.claim(cso, *asked) for asked in family.values()]
    answers = dict(zip(family, questions.decide(claims), strict=True))
    main, ablation = load_tables()["cso/table-2"], load_tables()["cso/table-4"]
    rows = {name: (f"{name}/full/cso", f"{name}/full/sft") for name in BACKBONES}
    random = {name: (f"{name}/cso", f"{name}/cso-random") for name in BACKBONES}
    for (title, (contrast, key, sign)), one in zip(family.items(), claims, strict=True):
        if "adapters" in title:
            continue
        table, of = (ablation, random) if "random" in contrast else (main, rows)
        printed = {name: table.contrast(*pair, key) for name, pair in of.items()}
        claim = title[0].upper() + title[1:]
        about = "CSO, ablation" if "random" in contrast else "CSO"
        yield BoardRow(
            about, claim, key, sign, printed, one.together, one.single, answers[title], "13_optimise_strategy_chains"
        )


def _judged(said: str) -> BoardRow:
    claim = "LLM judges and people prefer the new systems' replies"
    return BoardRow("both papers", claim, "", 1, {}, None, (), said, "92_read_judges")


def _line(row: BoardRow) -> str:
    metric = f" <span>{escape(METRICS[row.metric])}</span>" if row.metric else ""
    return (
        f'<tr><th scope="row">{escape(row.about)}</th><td>{escape(row.claim)}{metric}</td><td>{_picture(row)}</td>'
        f'<td><a href="{row.page}.html">{escape(row.answer)}</a></td></tr>'
    )


WIDTH, HEIGHT, EDGE = 240, 34, 8


def _picture(row: BoardRow) -> str:
    """The papers' differences as hollow marks above ours with its interval and the single seeds; right is for the claim."""
    if row.ours is None:
        return "–"
    decimals = 2 if row.metric == "B" else 1
    low, high = (row.ours.value,) * 2 if row.ours.low is None else (row.ours.low, row.ours.high)
    widest = max(map(abs, (low, high, *row.single, *row.printed.values()))) or 1.0

    def x(value: float) -> float:
        return round(WIDTH / 2 + row.sign * value / widest * (WIDTH / 2 - EDGE), 1)

    papers = "".join(_mark(number, x(value)) for number, value in enumerate(row.printed.values()))
    seeds = "".join(
        f'<circle cx="{x(value)}" cy="24" r="2.2" opacity="0.6"/>' for value in row.single if len(row.single) > 1
    )
    printed = ", ".join(f"{BACKBONES.get(name, name)} {value:+.{decimals}f}" for name, value in row.printed.items())
    said = f"papers: {printed}; here {format_estimate(row.ours, decimals, sign='+')}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}"><title>{escape(said)}</title>'
        f'<line x1="{WIDTH / 2}" y1="1" x2="{WIDTH / 2}" y2="{HEIGHT - 1}" class="zero"/>'
        f'<g class="papers">{papers}</g><g class="here"><line x1="{x(low)}" y1="24" x2="{x(high)}" y2="24"/>'
        f'<circle cx="{x(row.ours.value)}" cy="24" r="4"/>{seeds}</g></svg>'
    )


def _mark(number: int, x: float) -> str:
    """A circle, a square or a triangle around ``x``: the papers' backbones in order."""
    shapes = (
        f'<circle cx="{x}" cy="9" r="4"/>', f'<rect x="{x - 3.6:.1f}" y="5.4" width="7.2" height="7.2"/>',
        f'<path d="M{x} 4.4l4.4 8h-8.8z"/>',
    )  # fmt: skip
    return shapes[number % len(shapes)]


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
