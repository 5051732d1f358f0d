"""The claim board: rows agree with the chapters' rule, pictures point the right way, nothing is shown as markup."""

from __future__ import annotations

import re

import pytest

from decoupled_esc.evaluate import Estimate, Evaluation
from decoupled_esc.evaluate.seeds import SeedEvaluation, SeedMeans
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import claims, cso_tables, forest, judge_tables, questions
from decoupled_esc.present.forest import Forest, ForestRow

SEEDS = (13, 14, 15)


def evaluated(contrasts, value: float, width: float, p: float) -> SeedEvaluation:
    """Every difference is ``value`` in every metric under every seed."""
    keys = ("D-1", "B-1", "F1", "R-L", "Q_W", "Q", "B")
    one = Estimate(value, value - width, value + width, p)
    together = Evaluation({}, {name: {"paper": dict.fromkeys(keys, one)} for name in contrasts}, {}, [], 10, 1)
    return SeedEvaluation(SEEDS, together, {str(seed): {name: dict.fromkeys(keys, value) for name in contrasts} for seed in SEEDS})


NO_EFFECT = (0.0, 1.0, 1.0)


def board(value: float = 0.0, width: float = 1.0, p: float = 1.0, errors=Missing("no labels"), said="not decided") -> Forest:
    first = [contrast for contrast, *_ in questions.FIRST.values()]
    cso = [contrast for contrast, *_ in (cso_tables.MAIN_CLAIMS | cso_tables.ABLATION_CLAIMS).values()]
    controlled = evaluated(["vanilla-nsnr - vanilla-psnr", "vanilla-nsnr - vanilla-nspr"], value, width, p).together
    rows = claims.rows(evaluated(first, value, width, p), evaluated(cso, value, width, p), controlled, errors, (said, "", "not judged"))
    return Forest(rows, "caption")


def test_without_an_effect_nothing_is_decided():
    answers = {row.answer for row in board().rows}
    assert answers == {"not decided", "not judged"}


def test_answers_are_those_of_the_rule_and_follow_the_sign_of_the_claim():
    rows = {(row.about, row.key): row.answer for row in board(2.0, 1.0, 0.0001).rows}
    assert rows["RQ2", "Q"] == rows["CSO", "Q"] == "supported"
    assert rows["RQ2", "B"] == rows["CSO", "B"] == "contradicted"  # B should fall, and rose
    assert rows["Observation 2", "Q"] == "trend for, 1 seed"  # one training decides nothing


def test_every_question_has_its_row_and_the_papers_differences():
    rows = board().rows
    assert {row.about for row in rows} == {"Observation 2", "RQ1", "RQ2", "RQ3", "RQ4", "CSO", "CSO, ablation", "both papers"}
    printed = {(row.about, row.key): row.printed for row in rows}
    assert printed["RQ4", "None"] == {"both backbones": 7}
    assert list(printed["CSO", "Q"]) == list(forest.BACKBONES) and all(value > 0 for value in printed["CSO", "Q"].values())


def test_the_board_has_csos_claims_with_the_papers_numbers_of_the_same_tuning():
    cso = [contrast for contrast, *_ in (cso_tables.MAIN_CLAIMS | cso_tables.ABLATION_CLAIMS).values()]
    first, lora = (
        [contrast for contrast, *_ in questions.FIRST.values()],
        [name.replace("cso-", "cso-lora-") for name in cso],
    )
    answers = ("", "", "not judged")

    def shown(measured, tuning):
        rows = claims.rows(evaluated(first, *NO_EFFECT), evaluated(measured, *NO_EFFECT), None, None, answers, tuning)
        return {
            (row.about, row.claim.startswith("With adapters"), row.key): row.printed
            for row in rows
            if row.about.startswith("CSO")
        }

    both, full, adapters = shown([*cso, *lora], "full"), shown(cso, "full"), shown(cso, "lora")
    assert set(both) == {
        *((("CSO", on, key)) for on in (False, True) for key in "QB"),
        ("CSO, ablation", True, "Q"),
        ("CSO, ablation", True, "B"),
    }
    assert set(full) == {(about, False, key) for about in ("CSO", "CSO, ablation") for key in "QB"}
    assert full["CSO, ablation", False, "Q"] == {}, "the paper's ablation is of adapters"
    assert set(adapters) == {(about, True, key) for about in ("CSO", "CSO, ablation") for key in "QB"}
    for key in "QB":
        assert (
            both["CSO", True, key] == adapters["CSO", True, key] != both["CSO", False, key] == full["CSO", False, key]
        )
        assert both["CSO, ablation", True, key] == adapters["CSO, ablation", True, key] != {}


def test_what_is_not_decided_although_its_interval_excludes_0_says_why():
    sure, one_side = Estimate(1.0, 0.5, 1.5, 0.001), (1.0, 0.9, 1.1)
    family = [
        questions.Claim(1, Estimate(1.0, 0.1, 1.9, 0.03), one_side), questions.Claim(1, sure, one_side),
        questions.Claim(1, sure, (1.0, -0.1, 2.1)), questions.Claim(1, Estimate(0.0, -1.0, 1.0, 1.0), (0.1, 0.0, -0.1)),
    ]  # fmt: skip
    assert questions.decide(family) == ["not decided", "supported", "not decided", "not decided"]
    assert questions.reasons(family) == ["p = 0.06, corrected for 4 rows", "", "one seed has the other sign", ""]


def test_what_is_decided_is_listed_over_all_tables_and_nothing_without_an_effect():
    every = [contrast for tables in questions.TABLES.values() for contrast, *_ in tables.values()]
    assert questions.decided(evaluated(every, *NO_EFFECT)) == "supported: none; contradicted: none"
    told = questions.decided(evaluated(every, 2.0, 1.0, 0.0001))
    supported, contradicted = told.split("; contradicted: ")
    assert supported.count("Macro") == len(every) and contradicted.count(" +2.00 [+1.00, +3.00]") == len(every), (
        "B of each table"
    )
    few = questions.decided(evaluated(every[:1], 2.0, 1.0, 0.0001))
    assert "RQ1" in few and "RQ2" not in few


@pytest.mark.parametrize("sign", [1, -1])
def test_right_of_the_line_speaks_for_the_claim(sign):
    row = ForestRow("y", sign, Estimate(1.0, 0.5, 2.0), (0.8, 1.2), "a", {"qwen2.5-7b": 0.5}, chance=0.25, decimals=2)
    picture = forest.picture(row)
    ours = float(re.search(r'<circle cx="([\d.]+)" cy="24" r="4"', picture)[1])
    assert (ours > forest.WIDTH / 2) == (sign == 1)
    ends = [float(x) for x in re.findall(r'x[12]="([\d.]+)" y[12]="24"', picture)]
    assert len(ends) == 2 and all(forest.EDGE <= x <= forest.WIDTH - forest.EDGE for x in ends)
    assert "papers: Qwen +0.50, chance there ±0.25; here +1.00 [+0.50, +2.00]" in picture and picture.count('r="2.2"') == 2


def test_differences_of_zero_are_drawn_in_the_middle():
    row = ForestRow("y", 1, Estimate(0.0), (0.0,), "a", {"qwen2.5-7b": 0.0})
    assert set(re.findall(r'cx="([\d.]+)"', forest.picture(row))) == {str(forest.WIDTH / 2)}


def test_what_is_shown_is_text():
    row = ForestRow("<script>", 1, None, (), '"&', about="<b>", page="p")
    shown = Forest((row,), "<i>")._repr_html_()
    assert "<script>" not in shown and "<b>" not in shown and "<i>" not in shown and "&lt;script&gt;" in shown


def test_the_fourth_question_shows_what_chapter_12_says():
    contrast = "decoupled-dpo - decoupled-sft"
    errors = SeedMeans({}, {contrast: {"None": Estimate(3.0, 2.0, 4.0)}}, SEEDS, {str(s): {contrast: {"None": 3.0}} for s in SEEDS})
    row = next(row for row in board(errors=errors, said="supported").rows if row.about == "RQ4")
    assert (row.ours.value, row.single, row.answer) == (3.0, (3.0,) * 3, "supported")


def test_an_unmeasured_judge_decides_nothing():
    assert judge_tables.answer_errors(Missing("none"), Missing("none"), "a - b", "None", 1) == "not decided"


def test_the_band_of_chance_lies_around_the_middle_on_either_side():
    for sign in (1, -1):
        row = ForestRow("y", sign, Estimate(1.0, 0.5, 2.0), (1.0,), "a", chance=1.0)
        x, width = map(float, re.search(r'class="chance" x="([\d.]+)" y="3" width="([\d.]+)"', forest.picture(row)).groups())
        assert x + width / 2 == pytest.approx(forest.WIDTH / 2) and width == pytest.approx((forest.WIDTH / 2 - forest.EDGE), abs=0.2)


def test_the_answer_in_words_names_what_is_decided_and_counts_the_rest():
    answers = {"A": "supported", "B": "not decided", "C": "contradicted", "D": "supported"}
    rows = [ForestRow(name, 1, Estimate(1.0, 0.5, 2.0), (1.0,), answer) for name, answer in answers.items()]
    one = "+1.0 [+0.5, +2.0]"
    assert forest.in_words(rows) == f"Supported: A {one}; D {one}. Contradicted: C {one}. Not decided: 1 of 4 rows."
    assert forest.in_words(rows[:1]) == f"Supported: A {one}."
    assert forest.in_words(rows[1:2]) == "Not decided: 1 of 1 rows."
