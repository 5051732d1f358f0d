"""CSO's tables beside what was measured for them (chapters 05 and 13): one function a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.replication import answer, incomparable, written
from decoupled_esc.present.tables import ComparisonTable, compare

BACKBONES = {"cso/table-9": "llama3.1-8b", "cso/table-10": "qwen2.5-7b", "cso/table-11": "gemma2-9b"}
"""The backbone of each table of losses."""
KEYS = ("Q", "B", "Q_W", "R-L")
LOSSES = ("dpo", "simpo", "ipo", "kto", "orpo")
SETTING = (
    "Test turns and strategies are ESConv's here, and in CSO those of ExTES and of a test set after Kang et al. (2024), so that levels "
    "can't be equal, and the direction of a difference is all that compares. Seeds are drawn as well, where there are several."
)


def tunings(chained: Evaluation, tuning: str) -> dict[str, str]:
    """Tuning -> how its systems' names begin: the profile's own ``tuning`` (full, lora), and adapters where it has both."""
    return {tuning: "cso"} | ({"lora": "cso-lora"} if "cso-lora-dpo" in chained.systems else {})


def table_2(chained: Evaluation, prompted: Evaluation, tuning: str, profile: str) -> ComparisonTable:
    """Table 2 of CSO for the profile's ``tuning``, or both.  ``chained``: over the seeds, of stage ``metrics-cso``; ``prompted``: of stage ``metrics``."""
    systems = {
        "base": (chained, "vanilla-base"),
        **{name: (prompted, f"vanilla-{name}") for name in ("direct-refine", "self-refine", "with-example")},
    }
    contrasts = {}
    for name, own in tunings(chained, tuning).items():
        systems |= {f"{name}/sft": (chained, f"{own}-sft"), f"{name}/cso": (chained, f"{own}-dpo")}
        contrasts[f"{name}/cso", f"{name}/sft"] = f"{own}-dpo - {own}-sft"
    return _table("cso/table-2", systems, contrasts, chained, tuple(BACKBONES.values()), profile)


def table_4(chained: Evaluation, profile: str) -> ComparisonTable:
    """Table 4 of CSO: what the search's rejected turns are worth against random ones."""
    names = {"base": "vanilla-base", "sft": "cso-sft", "cso": "cso-dpo", "cso-random": "cso-random"}
    contrasts = {("cso", "sft"): "cso-dpo - cso-sft", ("cso-random", "sft"): "cso-random - cso-sft"}
    return _table("cso/table-4", {row: (chained, name) for row, name in names.items()}, contrasts, chained, tuple(BACKBONES.values()), profile)


def losses(chained: Evaluation, table: str, tuning: str, profile: str) -> ComparisonTable:
    """Table 9, 10 or 11 of CSO: five preference losses, for the profile's ``tuning``, or both."""
    names, contrasts = {"base": "vanilla-base"}, {}
    for name, own in tunings(chained, tuning).items():
        names |= {f"{name}/{kind}": f"{own}-{kind}" for kind in ("sft", *LOSSES)}
        contrasts |= {(f"{name}/{loss}", f"{name}/sft"): f"{own}-{loss} - {own}-sft" for loss in LOSSES}
    return _table(table, {row: (chained, name) for row, name in names.items()}, contrasts, chained, (BACKBONES[table],), profile)


def _table(
    table: str, systems: Mapping[str, tuple[Evaluation, str]], contrasts: Mapping[tuple[str, str], str], chained: Evaluation,
    backbones: Sequence[str], profile: str,
) -> ComparisonTable:  # fmt: skip
    rows, missing = {}, {}
    for row, (evaluation, name) in systems.items():
        why = incomparable(evaluation, name)
        rows[row] = {key: estimate for key, estimate in evaluation.systems[name]["paper"].items() if key in KEYS and key not in why}
        missing |= {(row, key): told for key, told in why.items() if key in KEYS}
    found = {}
    for (row, other), name in contrasts.items():
        without = incomparable(chained, systems[other][1])
        found[row, other] = {k: e for k, e in chained.contrasts[name]["paper"].items() if k in rows[row] and k not in without}
    details = chained.details["vanilla-sft"]
    return compare(
        load_tables()[table], rows, profile=profile, n=f"{details.turns:,} replies a system, to the turns of {details.dialogues} test dialogues", backbones=backbones,
        rows=list(rows), contrasts=found, not_attempted=missing, note=SETTING,
    )  # fmt: skip


def table_5(pro: Mapping, profile: str) -> ComparisonTable:
    """Table 5 of CSO: how large ESC-Pro is.  ``pro``: payload of stage ``esc-pro``; the seeds are ESConv's, not ExTES's."""
    seeds, found = pro["seeds"], pro["statistics"]["released"]
    said, words = found["utterances"], found["words"]
    own = {
        "dialogues": {"extes": seeds["dialogues"], "esc-pro": found["dialogues"]},
        "utterances": {"extes": seeds["utterances"], **said, "esc-pro": sum(said.values())},
        "utterances-per-dialogue": {"extes": seeds["length"], "esc-pro": found["length"]},
        "length-of-utterance": {"extes": seeds["words"], **words, "esc-pro": found["words_all"]},
    }
    measured = {row: {key: Estimate(value) for key, value in cells.items() if value is not None} for row, cells in own.items()}
    return compare(
        load_tables()["cso/table-5"], measured, profile=profile, n=f"{seeds['dialogues']} seed dialogues of ESConv",
        not_attempted={"esc-pro": "the search left nothing", **dict.fromkeys(words, "the search left nothing")},
        note="Seeds of ESConv stand where CSO has ExTES; lengths in words.",
    )  # fmt: skip


def table_7(pro: Mapping) -> pd.DataFrame:
    """Table 7 of CSO in our terms: by part, the paper's *profanity* and *toxicity*, and a local classifier's profanity; text.

    Two instruments: a verdict between them would say nothing.
    """
    table, ours = load_tables()["cso/table-7"], pro["toxicity"]
    parts = {"extes/seeker": "seeds/seeker", "extes/supporter": "seeds/supporter", "extes": "seeds"}
    rows = {}
    for row in table.rows:
        found = ours.get(parts.get(row.key, row.key))
        rows[row.labels["part"].replace("ExTES", "seeds")] = {
            "paper: toxicity (Perspective)": f"{row.values['toxicity']:.4f}",
            "paper: profanity (Perspective)": f"{row.values['profanity']:.4f}",
            "ours: profanity (alt-profanity-check)": written(Estimate(**found), 4) if found else "–",
        }
    return pd.DataFrame(rows).T


def claims(found: Mapping, asked: Mapping[str, tuple[str, str, int]]) -> pd.DataFrame:
    """What is said of each claim: the difference over all seeds, under each, and `replication.answer`; text.

    ``found``: payload of stage ``metrics-cso`` or ``metrics-strategy-test``; ``asked``: claim -> (``a - b``, metric, the direction that it needs: 1 or -1).
    """
    rows = {}
    for claim, (contrast, key, better) in asked.items():
        together, decimals = Estimate(**found["together"]["contrasts"][contrast]["paper"][key]), 2 if key == "B" else 1
        single = [by[contrast][key] for by in found["by_seed"].values()]
        rows[claim] = {
            "difference": written(together, decimals), "by seed": ", ".join(f"{value:+.{decimals}f}" for value in single),
            "answer": answer(better, together, single),
        }  # fmt: skip
    return pd.DataFrame(rows).T


def two_tests(chained: Evaluation, windows: Evaluation) -> pd.DataFrame:
    """What the systems of the strategy test set did there and at the test turns, side by side; text with 95% intervals.

    ``windows``: over the seeds, of stage ``metrics-strategy-test``.  Q_W is left out, which says what Q says where strategies are
    equally often; and B at the test turns, since B depends on how many turns there are.
    """
    tests = {"test turns": chained, "strategy test set": windows}

    def cell(test: str, system: str, key: str) -> str:
        return written(tests[test].systems[system]["paper"][key], 2 if key == "B" else 1)

    return pd.DataFrame(
        {
            system: {f"{key}, {test}": cell(test, system, key) for key in ("Q", "B", "R-L") for test in tests if (key, test) != ("B", "test turns")}
            for system in windows.systems
        }
    ).T


def differences(chained: Evaluation, contrasts: Mapping[str, str]) -> pd.DataFrame:
    """Paired differences, a row each with what it asks; text with 95% intervals.  ``contrasts``: ``a - b`` -> the question."""
    return pd.DataFrame(
        {
            name: {"asks": asked, **{key: written(chained.contrasts[name]["paper"][key], 2 if key == "B" else 1) for key in (*KEYS, "F1")}}
            for name, asked in contrasts.items()
        }
    ).T
