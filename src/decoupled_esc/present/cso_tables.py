"""CSO's tables beside what was measured for them (chapters 05 and 13): one function a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments.cso import SearchedPairs
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.questions import claim, decide, texts
from decoupled_esc.present.replication import compare_systems
from decoupled_esc.present.tables import ComparisonTable, compare, format_estimate, format_scores

BACKBONES = {"cso/table-9": "llama3.1-8b", "cso/table-10": "qwen2.5-7b", "cso/table-11": "gemma2-9b"}
"""The backbone of each table of losses."""
LOSSES = ("dpo", "simpo", "ipo", "kto", "orpo")
SETTING = (
    "Test turns and strategies are ESConv's here, and in CSO those of ExTES and of a test set after Kang et al. (2024), so that levels "
    "can't be equal, and the direction of a difference is all that compares. Intervals are for other training runs as well, where there are several seeds."
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


def table_4(measured: Evaluation, profile: str) -> ComparisonTable:
    """Table 4 of CSO: what the search's rejected turns are worth against random ones."""
    systems = {"base": "vanilla-base", "sft": "cso-sft", "cso": "cso-dpo", "cso-random": "cso-random"}
    return _table(
        "cso/table-4", measured, systems, {"cso": "sft", "cso-random": "sft"}, tuple(BACKBONES.values()), profile
    )


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
    n = f"{details.turns:,} replies per system, to the turns of {details.dialogues} test dialogues"
    return compare_systems(
        table, measured, systems, starts, profile=profile, n=n, backbones=backbones, levels=LEVELS, note=SETTING
    )


def table_5(pro: SearchedPairs | Missing, profile: str) -> ComparisonTable:
    """Table 5 of CSO: how large ESC-Pro is; the seeds are ESConv's, not ExTES's."""
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
    note = "Seeds of ESConv stand where CSO has ExTES; lengths in words."
    return compare(table, measured, profile=profile, n=f"{seeds.dialogues} seed dialogues of ESConv", note=note)


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


def with_adapters(asked: Mapping[str, tuple[str, str, int]], measured: Evaluation) -> dict[str, tuple[str, str, int]]:
    """``asked``, and the same of adapters where all that it compares was measured with them."""
    more = {
        f"with adapters, {claim}": (contrast.replace("cso-", "cso-lora-"), *rest)
        for claim, (contrast, *rest) in asked.items()
    }
    return dict(asked) | {claim: parts for claim, parts in more.items() if parts[0] in measured.contrasts}


def verdict_claims(measured: Evaluation) -> dict[str, tuple[str, str, int]]:
    """The claims of chapter 13's verdict, one family."""
    return with_adapters(MAIN_CLAIMS, measured) | with_adapters(ABLATION_CLAIMS, measured)


def claims(found: SeedEvaluation, asked: Mapping[str, tuple[str, str, int]]) -> pd.DataFrame:
    """What is said of each claim: the difference over all seeds, under each, and `questions.answer`; text.

    ``found``: of ``metrics-cso`` or ``metrics-strategy-test``; ``asked``: claim -> (``a - b``, metric, the direction that it needs: 1 or
    -1), which are one family of `questions.decide`.
    """
    family = [claim(found, *parts) for parts in asked.values()]
    shown = [texts(one, 2 if key == "B" else 1) for one, (_, key, _) in zip(family, asked.values(), strict=True)]
    rows = [(text["ours"], text["by seed"], said) for text, said in zip(shown, decide(family), strict=True)]
    return pd.DataFrame(rows, index=list(asked), columns=["difference", "by seed", "answer"])


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
