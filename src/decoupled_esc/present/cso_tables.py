"""CSO's tables beside what was measured for them (chapters 05 and 13): one function a table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments.profiles import Profile
from decoupled_esc.experiments.searches import SearchedPairs, SearchSummary
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import forest
from decoupled_esc.present.figures import PALETTE, source_line
from decoupled_esc.present.forest import ForestRow
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.questions import claim, decide, reasons
from decoupled_esc.present.replication import compare_systems
from decoupled_esc.present.tables import ComparisonTable, compare, format_estimate, format_scores

BACKBONES = {"cso/table-9": "llama3.1-8b", "cso/table-10": "qwen2.5-7b", "cso/table-11": "gemma2-9b"}
"""The backbone of each table of losses."""
LOSSES = ("dpo", "simpo", "ipo", "kto", "orpo")
SETTING = (
    "Test turns and strategies are ESConv's here, and in CSO those of ExTES and of a test set after Kang et al. (2024), so that levels "
    "can't be equal, and the direction of a difference is all that compares; how many turns CSO tests on it does not say, so that how much of "
    "its differences is chance is unknown. Intervals are for other training runs as well, where there are several seeds."
)


LEVELS = Missing("CSO tests on other dialogues, whose strategies are others")
"""Why no number of ours stands for one of CSO's test sets; differences do."""


def tunings(measured: Evaluation, tuning: str) -> dict[str, str]:
    """Tuning -> how its systems' names begin: the profile's own ``tuning`` (full, lora), and adapters where it has both."""
    return {tuning: "cso"} | ({"lora": "cso-lora"} if "cso-lora-dpo" in measured.systems else {})


def table_2(measured: Evaluation, prompted: Evaluation, tuning: str, profile: str) -> ComparisonTable:
    """Table 2 of CSO for the profile's ``tuning``, or both.  ``measured``: over the seeds, of ``metrics-cso``; ``prompted``: of ``metrics``."""
    systems = {name: f"vanilla-{name}" for name in ("base", "direct-refine", "self-refine", "with-example")}
    own = tunings(measured, tuning)
    for name, front in own.items():
        systems |= {f"{name}/sft": f"{front}-sft", f"{name}/cso": f"{front}-dpo"}
    both = replace(measured, systems=prompted.systems | measured.systems, details=prompted.details | measured.details)
    return _table(
        "cso/table-2", both, systems, {f"{name}/cso": f"{name}/sft" for name in own}, tuple(BACKBONES.values()), profile
    )


def table_4(measured: Evaluation, tuning: str, profile: str) -> ComparisonTable:
    """Table 4 of CSO, whose rows are of adapters: what the search's rejected turns are worth against random ones.

    ``tuning``: which of `tunings` stands beside it.
    """
    front = tunings(measured, tuning)[tuning]
    systems = {"base": "vanilla-base", "sft": f"{front}-sft", "cso": f"{front}-dpo", "cso-random": f"{front}-random"}
    return _table(
        "cso/table-4", measured, systems, {"cso": "sft", "cso-random": "sft"}, tuple(BACKBONES.values()), profile
    )


Volumes = Mapping[str, Mapping[str, tuple[Mapping[float, Estimate], Estimate]]]
"""Metric -> tuning or backbone -> (share in per cent -> score, score after SFT)."""


VOLUME_METRICS = {"Q": "macro F1 (Q)", "Q_W": "weighted F1 (Q_W)", "B": "bias (B)"}


def volumes(measured: Evaluation, tuning: str, start: str) -> Volumes:
    """Figure 4 of CSO for `over_volume`, for the profile's ``tuning``, or both; ``start``: the system with no pair at all."""
    names = {"full": "all weights", "lora": "adapters"}

    def score(system: str, key: str) -> Estimate:
        return measured.systems[system]["paper"][key]

    shares = {0: start, 25: "{}-quarter", 50: "{}-half", 100: "{}-dpo"}
    return {
        title: {
            names[name]: (
                {share: score(system.format(front), key) for share, system in shares.items()},
                score(f"{front}-sft", key),
            )
            for name, front in tunings(measured, tuning).items()
        }
        for key, title in VOLUME_METRICS.items()
    }


def printed_volumes() -> tuple[Volumes, tuple[float, float]]:
    """What the paper prints of its Figure 4: both ends of its lines and SFT, with adapters (Table 2), and between which shares of
    the trees, in per cent, SFT is passed (its text).  What lies between stands in the figure alone.
    """
    table, text = load_tables()["cso/table-2"], load_tables()["cso/in-text"]
    whole = load_tables()["cso/table-5"].value("dialogues", "esc-pro")
    passes = tuple(
        100 * text.value(f"figure-4/dialogues-to-pass-sft/{end}", "value") / whole for end in ("low", "high")
    )

    def score(backbone: str, system: str, key: str) -> Estimate:
        return Estimate(table.value(f"{backbone}/{system}", key))

    lines = {
        title: {
            name: (
                {0: score(backbone, "base", key), 100: score(backbone, "lora/cso", key)},
                score(backbone, "lora/sft", key),
            )
            for backbone, name in forest.BACKBONES.items()
        }
        for key, title in VOLUME_METRICS.items()
    }
    return lines, passes


def over_volume(values: Volumes, source: str, printed: Volumes, passes: tuple[float, float]) -> Figure:
    """Figure 4 of CSO, of `volumes`: scores over the share of the trees that were trained on, with 95% intervals, and dashed those after SFT on all.

    ``printed``: what the paper prints of its figure, hollow in panels of their own above, since its test set is another;
    ``passes``: between which shares (per cent) it says that SFT is passed.
    """
    figure, rows = plt.subplots(2, len(values), figsize=(7.6, 5.4), sharex=True, squeeze=False)
    for panels, lines, hollow in ((rows[0], printed, True), (rows[1], values, False)):
        for axes, (metric, tunings) in zip(panels, lines.items(), strict=True):
            for number, ((name, (points, sft)), colour, marker) in enumerate(
                zip(tunings.items(), PALETTE, "os^", strict=False)
            ):
                apart = np.array(list(points)) + 1.5 * number  # intervals beside each other
                face = "white" if hollow else colour
                axes.plot(apart, [e.value for e in points.values()], marker=marker, color=colour, markerfacecolor=face,
                          linestyle="" if hollow else "-", label=name)  # fmt: skip
                for place, e in zip(apart, points.values(), strict=True):
                    if e.low is not None:
                        axes.plot([place, place], [e.low, e.high], color=colour, linewidth=1.6)
                axes.axhline(sft.value, color=colour, linestyle="--", linewidth=1, label=f"SFT, {name}")
            if hollow:
                axes.axvspan(*passes, color="0.9", zorder=0)
            axes.set(title=f"{'paper' if hollow else 'here'}: {metric}", xticks=[0, 25, 50, 100])
        panels[-1].legend(handles=[line for line in axes.lines if line.get_label() in lines[metric]], fontsize=7)
    for axes in rows[1]:
        axes.set(xlabel="share of the trees (%)")
    return source_line(figure, source)


def losses(measured: Evaluation, table: str, tuning: str, profile: str) -> ComparisonTable:
    """Table 9, 10 or 11 of CSO: five preference losses, for the profile's ``tuning``, or both."""
    systems, starts = {"base": "vanilla-base"}, {}
    for name, front in tunings(measured, tuning).items():
        systems |= {f"{name}/{kind}": f"{front}-{kind}" for kind in ("sft", *LOSSES)}
        starts |= {f"{name}/{loss}": f"{name}/sft" for loss in LOSSES}
    return _table(table, measured, systems, starts, (BACKBONES[table],), profile)


def _table(
    table: str,
    measured: Evaluation,
    systems: Mapping[str, str],
    starts: Mapping[str, str],
    backbones: Sequence[str],
    profile: str,
) -> ComparisonTable:
    details = measured.details["vanilla-sft"]
    turns = min(measured.details[name].turns for name in systems.values() if name in measured.details)
    most, once = details.turns // turns, [row for row, name in systems.items() if _turns(measured, name) == turns]
    n = f"{turns:,} replies per seed and system, to the turns of {details.dialogues} test dialogues"
    if most > 1:
        n += (
            f"; {most} seeds, but one for {', '.join(once)}, whose intervals know other dialogues alone"
            if once
            else f"; {most} seeds"
        )
    said = {"profile": profile, "n": n, "backbones": backbones, "levels": LEVELS, "note": SETTING}
    return compare_systems(table, measured, systems, starts, **said)


def _turns(measured: Evaluation, system: str) -> int | None:
    return measured.details[system].turns if system in measured.details else None


def search_size(searched: SearchSummary, pro: SearchedPairs) -> dict[str, str]:
    """How large a search was and what it gave, as text."""
    sizes, answers = searched.trees.values(), sum(searched.tasks.values())
    share = pro.statistics["released"].searched
    return {
        "trees": f"{len(sizes):,}",
        "iterations": f"{sum(size.iterations for size in sizes):,}",
        "nodes": f"{sum(size.nodes for size in sizes):,}",
        "expanded nodes": f"{sum(size.spoken for size in sizes):,}",
        "terminal dialogues, gold ones aside": f"{sum(size.ends for size in sizes) - len(sizes):,}",
        "rounds of the longest branch": f"{max((size.depth for size in sizes), default=0)}",
        **{f"answers of the {name} role": f"{count:,}" for name, count in searched.tasks.items() if name != "failed"},
        "answers that could not be used": f"{searched.tasks.get('failed', 0):,}",
        "pairs": f"{pro.pairs:,}",
        "pairs whose preferred turn was searched, %": "–" if share is None else f"{100 * share:.0f}",
        "answers per pair": f"{answers / pro.pairs:.0f}" if pro.pairs else "–",
    }


def table_5(pro: SearchedPairs | Missing, seeds_of: str, profile: str) -> ComparisonTable:
    """Table 5 of CSO: how large ESC-Pro is.  ``seeds_of``: esconv or extes; sizes of what grew from ESConv compare with nothing."""
    table = load_tables()["cso/table-5"]
    if isinstance(pro, Missing):
        return compare(table, pro, profile=profile, n="no search")
    seeds, found = pro.seeds, pro.statistics["released"]
    own = {
        "dialogues": {"extes": seeds.dialogues, "esc-pro": found.dialogues},
        "utterances": {"extes": seeds.utterances, **found.utterances, "esc-pro": sum(found.utterances.values())},
        "utterances-per-dialogue": {"extes": seeds.length, "esc-pro": found.length},
        "length-of-utterance": {"extes": seeds.words, **found.words, "esc-pro": found.words_all},
    }
    nothing = Missing("the search left nothing")
    measured = {
        row: {key: nothing if value is None else Estimate(value) for key, value in cells.items()}
        for row, cells in own.items()
    }
    named = {"esconv": "ESConv", "extes": "ExTES"}[seeds_of]
    levels = None if seeds_of == "extes" else Missing("seeds of ESConv stand where CSO has ExTES")
    n, note = f"{seeds.dialogues} seed dialogues of {named}", "Lengths in words."
    return compare(table, measured, profile=profile, n=n, levels=levels, note=note)


def table_7(pro: SearchedPairs | Missing) -> pd.DataFrame | Missing:
    """Table 7 of CSO in our terms: by part, the paper's *profanity* and *toxicity*, and a local classifier's profanity; text.

    Two instruments: a verdict between them would say nothing.
    """
    if isinstance(pro, Missing):
        return pro
    parts = {"extes/seeker": "seeds/seeker", "extes/supporter": "seeds/supporter", "extes": "seeds"}
    rows = {
        row.labels["part"].replace("ExTES", "seeds"): {
            "paper: toxicity (Perspective)": f"{row.values['toxicity']:.4f}",
            "paper: profanity (Perspective)": f"{row.values['profanity']:.4f}",
            "ours: profanity (alt-profanity-check)": format_estimate(pro.toxicity.get(parts.get(row.key, row.key)), 4),
        }
        for row in load_tables()["cso/table-7"].rows
    }
    return pd.DataFrame(rows).T


MAIN_CLAIMS = {
    "CSO-DPO has a higher macro F1 than SFT on ESC-Pro": ("cso-dpo - cso-sft", "Q", 1),
    "CSO-DPO has a lower bias than SFT on ESC-Pro": ("cso-dpo - cso-sft", "B", -1),
}
ABLATION_CLAIMS = {
    "searched rejections give a higher macro F1 than random ones": ("cso-dpo - cso-random", "Q", 1),
    "searched rejections give a lower bias than random ones": ("cso-dpo - cso-random", "B", -1),
}
"""Claim -> (difference, metric, the sign that it needs)."""


ADAPTERS = "with adapters, "


def tuning_of(profile: Profile) -> str:
    """The tuning of a profile's runs ``cso-*``: ``full``, or ``lora`` where it trains nothing but adapters."""
    return "full" if profile.cso.training.lora is None else "lora"


def tuned(
    asked: Mapping[str, tuple[str, str, int]], measured: Evaluation, tuning: str
) -> dict[str, tuple[str, str, int]]:
    """``asked`` of the profile's ``tuning``; and the same of adapters where the profile has both and measured all that it compares."""
    if tuning == "lora":
        return {f"{ADAPTERS}{claim}": parts for claim, parts in asked.items()}
    more = {
        f"{ADAPTERS}{claim}": (contrast.replace("cso-", "cso-lora-"), *rest)
        for claim, (contrast, *rest) in asked.items()
    }
    return dict(asked) | {claim: parts for claim, parts in more.items() if parts[0] in measured.contrasts}


def verdict_claims(measured: Evaluation, tuning: str) -> dict[str, tuple[str, str, int]]:
    """The claims of chapter 13's verdict, one family, of what was measured."""
    asked = tuned(MAIN_CLAIMS, measured, tuning) | tuned(ABLATION_CLAIMS, measured, tuning)
    return {claim: parts for claim, parts in asked.items() if parts[0] in measured.contrasts}


def claim_rows(found: SeedEvaluation, asked: Mapping[str, tuple[str, str, int]]) -> tuple[ForestRow, ...]:
    """CSO's claims for a `Forest` and `questions.numbers`, one family of `questions.decide`.

    ``found``: of ``metrics-cso`` or ``metrics-strategy-test``; ``asked``: claim, which says if it is of adapters (`tuned`) -> (``a - b``, metric,
    the direction that it needs: 1 or -1).  The paper's differences are those of Table 2, and of Table 4, whose rows are of adapters alone.
    """
    family = [claim(found, *parts) for parts in asked.values()]
    return tuple(
        ForestRow(
            title,
            sign,
            one.together,
            one.single,
            said,
            _printed(contrast.replace("-lora", ""), title.startswith(ADAPTERS), key),
            key=key,
            decimals=2 if key == "B" else 1,
            why=why,
        )
        for (title, (contrast, key, sign)), one, said, why in zip(
            asked.items(), family, decide(family), reasons(family), strict=True
        )
    )


def _printed(contrast: str, adapters: bool, key: str) -> dict[str, float]:
    """The paper's difference of two of its systems, by backbone; nothing where it has none."""
    main, ablation = load_tables()["cso/table-2"], load_tables()["cso/table-4"]
    known = {
        ("cso-dpo - cso-sft", False): (main, "{}/full/cso", "{}/full/sft"),
        ("cso-dpo - cso-sft", True): (main, "{}/lora/cso", "{}/lora/sft"),
        ("cso-dpo - cso-random", True): (ablation, "{}/cso", "{}/cso-random"),
    }
    if (contrast, adapters) not in known:
        return {}
    table, first, second = known[contrast, adapters]
    return {name: table.contrast(first.format(name), second.format(name), key) for name in forest.BACKBONES}


def two_tests(measured: Evaluation, windows: Evaluation) -> pd.DataFrame:
    """What the systems of the strategy test set did there and at the test turns, side by side; text with 95% intervals.

    ``windows``: over the seeds, of ``metrics-strategy-test``.  Q_W is left out, which says what Q says where strategies are
    equally often; and B at the test turns, since B depends on how many turns there are.
    """
    rows = {}
    for system, scores in windows.systems.items():
        here = format_scores(measured.systems[system]["paper"], ("Q", "R-L"))
        there = format_scores(scores["paper"], ("Q", "B", "R-L"))
        rows[system] = {
            f"{key}, {test}": cells[key]
            for key in there
            for test, cells in {"test turns": here, "strategy test set": there}.items()
            if key in cells
        }
    return pd.DataFrame(rows).T


def differences(measured: Evaluation, contrasts: Mapping[str, str]) -> pd.DataFrame:
    """Paired differences, a row each with what it asks; text with 95% intervals.  ``contrasts``: ``a - b`` -> the question."""
    keys = ("Q", "B", "Q_W", "R-L", "F1")
    rows = {
        name: {"asks": asked, **format_scores(measured.contrasts[name]["paper"], keys)}
        for name, asked in contrasts.items()
    }
    return pd.DataFrame(rows).T
