"""What may be said of a measured number beside a printed one, and how the comparison tables show it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.pipeline import Missing
from decoupled_esc.present.paper import MEANING, Status, Verdict, load_tables, rounds_to, verdict
from decoupled_esc.present.tables import SYMBOL, Label, compare, format_estimate, format_scores, results_table

TABLES = load_tables()
THREE = replace(TABLES["decoupledesc/table-3"], noise={})  # every difference that it prints counts, however small
BOTH = ("qwen2.5-7b", "llama3.1-8b")
numbers = st.floats(-1e6, 1e6)


def intervals():
    return st.lists(numbers, min_size=3, max_size=3).map(sorted).map(lambda x: Estimate(x[1], x[0], x[2]))


# --- verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paper", "measured", "contrasts", "status"),
    [
        (3060, Estimate(3060), None, Status.EXACT),
        (20.73, Estimate(20.7275), None, Status.EXACT),
        (0.13, Estimate(0.125), None, Status.EXACT),  # half up
        (0.12, Estimate(0.125), None, Status.EXACT),  # half to even
        (28.40, Estimate(28.3904), None, Status.DIFFERS),
        (28.40, Estimate(28.3904), (1.0, Estimate(0.5)), Status.SAME),
        (28.40, Estimate(28.3904), (1.0, Estimate(0.0)), Status.UNDECIDED),
        (24.89, Estimate(24.89, 24.0, 25.0), None, Status.WITHIN),  # sampled: never exact
        (24.89, Estimate(24.0, 23.0, 24.89), None, Status.WITHIN),
        (24.89, Estimate(22.0, 20.0, 24.88), None, Status.DIFFERS),
        (24.89, Estimate(22.0, 24.89, 26.0), (-1, Estimate(9, 8, 10)), Status.WITHIN),  # the number goes first
        (0.30, Estimate(0.5, 0.4, 0.6), (-0.1, Estimate(-0.2, -0.3, -0.1)), Status.SAME),
        (0.30, Estimate(0.5, 0.4, 0.6), (0.1, Estimate(0.2, 0.1, 0.3)), Status.SAME),
        (0.30, Estimate(0.5, 0.4, 0.6), (0.1, Estimate(-0.2, -0.3, -0.1)), Status.OPPOSITE),
        (0.30, Estimate(0.5, 0.4, 0.6), (-0.1, Estimate(0.2, 0.1, 0.3)), Status.OPPOSITE),
        (0.30, Estimate(0.5, 0.4, 0.6), (0.1, Estimate(0.2, 0.0, 0.3)), Status.UNDECIDED),
        (0.30, Estimate(0.5, 0.4, 0.6), (0.0, Estimate(0.2, 0.1, 0.3)), Status.UNDECIDED),
    ],
)
def test_rules(paper, measured, contrasts, status):
    pair = dict(zip(("paper_contrast", "contrast"), contrasts or (), strict=False))
    decimals = 0 if isinstance(paper, int) else 2
    assert verdict(paper, measured, decimals=decimals, **pair).status is status


def test_not_attempted_needs_a_reason():
    assert verdict(1.0, Missing("no judge"), decimals=2) == Verdict(Status.NOT_ATTEMPTED, "no judge")
    for why in ("", "  "):
        with pytest.raises(ValueError, match="needs a reason"):
            verdict(1.0, Missing(why), decimals=2)


@pytest.mark.parametrize(
    ("measured", "pair", "message"),
    [
        (Estimate(1.0, 0.5, None), {}, "both ends"),
        (Estimate(1.0, None, 0.5), {}, "both ends"),
        (Estimate(float("nan")), {}, "neither a number"),
        (Estimate(1.0, float("nan"), 2.0), {}, "neither a number"),
        (Estimate(1.0, 2.0, 0.5), {}, "from low to high"),
        (Estimate(1.0), {"paper_contrast": 1.0}, "both differences"),
        (Estimate(1.0), {"contrast": Estimate(1.0)}, "both differences"),
        (Estimate(1.0, 0.0, 2.0), {"paper_contrast": 1.0, "contrast": Estimate(1.0)}, "needs an interval"),
        (Estimate(1.0), {"paper_contrast": float("inf"), "contrast": Estimate(1.0)}, "not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(measured, pair, message):
    with pytest.raises(ValueError, match=message):
        verdict(9.0, measured, decimals=2, **pair)
    with pytest.raises(ValueError, match="not finite"):
        verdict(float("nan"), Estimate(1.0), decimals=2)


@given(numbers, intervals())
def test_with_an_interval_it_alone_decides_between_within_and_differs(paper, measured):
    status = verdict(paper, measured, decimals=2).status
    # A printed number stands for all that round to it.
    inside = measured.low - 0.005 <= paper <= measured.high + 0.005
    assert status is (Status.WITHIN if inside else Status.DIFFERS)


@given(numbers, st.one_of(intervals(), numbers.map(Estimate)), numbers, intervals())
def test_a_verdict_is_never_stronger_than_its_interval(paper, measured, paper_contrast, contrast):
    status = verdict(paper, measured, decimals=2, paper_contrast=paper_contrast, contrast=contrast).status
    assert status is not Status.DIFFERS and status is not Status.NOT_ATTEMPTED
    if status is Status.EXACT:
        assert measured.low is None and abs(measured.value - paper) <= 0.005001
    if status is Status.WITHIN:
        assert measured.low - 0.005 <= paper <= measured.high + 0.005
    if status in (Status.SAME, Status.OPPOSITE):
        assert contrast.low > 0 or contrast.high < 0
        assert (status is Status.SAME) == ((contrast.low > 0) == (paper_contrast > 0))


@given(numbers.filter(lambda x: abs(x) > 1e-6), intervals())
def test_turning_the_papers_difference_turns_the_direction(paper_contrast, contrast):
    def status(theirs):
        return verdict(9e9, Estimate(0, -1, 1), decimals=2, paper_contrast=theirs, contrast=contrast).status

    turned = {Status.SAME: Status.OPPOSITE, Status.OPPOSITE: Status.SAME, Status.UNDECIDED: Status.UNDECIDED}
    assert status(-paper_contrast) is turned[status(paper_contrast)]


@given(intervals(), st.floats(0, 1e3), numbers)
def test_a_wider_interval_never_claims_more(contrast, extra, paper_contrast):
    def status(estimate):
        return verdict(9e9, Estimate(0, -1, 1), decimals=2, paper_contrast=paper_contrast, contrast=estimate).status

    wider = replace(contrast, low=contrast.low - extra, high=contrast.high + extra)
    assert status(wider) in (status(contrast), Status.UNDECIDED)


@given(st.integers(-(10**6), 10**6), st.integers(0, 4))
def test_a_printed_number_rounds_to_itself(units, decimals):
    printed = units / 10**decimals
    assert rounds_to(printed, printed, decimals)
    assert rounds_to(printed + 0.4 / 10**decimals, printed, decimals)
    assert not rounds_to(printed + 0.6 / 10**decimals, printed, decimals)


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_sentence_a_meaning_and_its_own_symbol(status):
    sentence = Verdict(status, "the reason.").sentence()
    assert sentence.endswith(".") and "the reason" in sentence and not sentence.endswith("..")
    assert MEANING[status] and len(set(SYMBOL.values())) == len(Status)


AGREES, MISSES = Estimate(0.30, 0.25, 0.35), Estimate(0.5, 0.4, 0.6)
RISES, FALLS, NOTHING = Estimate(0.2, 0.1, 0.3), Estimate(-0.2, -0.3, -0.1), Estimate(0.0, -0.1, 0.1)


@pytest.mark.parametrize(
    ("contrast", "direction"),
    [(RISES, Status.OPPOSITE), (FALLS, Status.SAME), (NOTHING, Status.UNDECIDED), (Missing("x"), Status.NOT_COMPARABLE)],
)
def test_a_number_that_agrees_shows_its_direction(contrast, direction):
    said = verdict(0.30, AGREES, decimals=2, paper_contrast=-0.1, contrast=contrast)
    assert (said.status, said.direction) == (Status.WITHIN, direction)
    assert said.sentence().startswith(f"Within the interval, {direction}: ")
    missed = verdict(0.30, MISSES, decimals=2, paper_contrast=-0.1, contrast=contrast)
    assert missed.status is missed.direction is direction
    assert verdict(0.30, AGREES, decimals=2).direction is None


@pytest.mark.parametrize("contrast", [RISES, FALLS, NOTHING])
def test_a_difference_that_chance_makes_in_the_paper_has_no_direction(contrast):
    def said(theirs):
        return verdict(0.30, MISSES, decimals=2, paper_contrast=theirs, contrast=contrast, noise=0.086).status

    assert said(0.08) is said(-0.08) is said(0.0) is Status.PAPER_NOISE
    assert Status.PAPER_NOISE not in (said(0.09), said(-0.09))


def test_two_equal_systems_of_the_paper_have_no_direction_in_19_of_20_test_sets():
    """No effect: both systems of the paper are one, and so are both of ours."""
    noise, rng = TABLES["decoupledesc/table-3"].noise["Q"], np.random.default_rng(0)
    theirs, ours = rng.normal(0, noise / 1.96, 4000), rng.normal(0, 1, 4000)
    said = [
        verdict(20, Estimate(9, 8, 10), decimals=2, paper_contrast=p, contrast=Estimate(o, o - 1.96, o + 1.96), noise=noise).status
        for p, o in zip(theirs, ours, strict=True)
    ]  # fmt: skip
    assert 0.94 < said.count(Status.PAPER_NOISE) / 4000 < 0.96
    assert (said.count(Status.SAME) + said.count(Status.OPPOSITE)) / 4000 < 0.006, "before: one in twenty"


def test_levels_that_cannot_be_compared_have_no_verdict():
    why = Missing("another test set")
    for measured in (AGREES, MISSES, Estimate(0.30)):
        assert verdict(0.30, measured, decimals=2, level=why) == Verdict(Status.NOT_COMPARABLE, why.reason)
        turned = verdict(0.30, measured, decimals=2, level=why, paper_contrast=-0.1, contrast=FALLS)
        assert turned.status is turned.direction is Status.SAME
    with pytest.raises(ValueError, match="needs a reason"):
        verdict(0.30, MISSES, decimals=2, level=Missing(" "))


# --- compare ------------------------------------------------------------------------------------------------------


NO_JUDGE = Missing("no judge in this <profile>")
SFT = {"B": Estimate(0.29, 0.25, 0.35), "Q_W": Estimate(24.1, 22.0, 24.6), "Emp": NO_JUDGE}
DPO = {"B": Estimate(0.45, 0.40, 0.50), "Q_W": Estimate(20.0), "Emp": NO_JUDGE}


def grid(**changes):
    arguments = {
        "measured": {"vanilla/sft": SFT, "vanilla/dpo": DPO},
        "profile": "smoke",
        "n": "1,792 test turns",
        "backbones": BOTH,
        "rows": ["vanilla/sft", "vanilla/dpo"],
        "columns": ["B", "Q_W", "Emp"],
        "contrasts": {"vanilla/dpo": ("vanilla/sft", {"B": Estimate(0.16, 0.10, 0.20)})},
    }
    return compare(THREE, **(arguments | changes))


def soup(table):
    return BeautifulSoup(table._repr_html_(), "html.parser")


def test_grid_verdicts_per_backbone():
    frame = grid().to_frame().set_index(["row", "column"])
    assert list(frame.columns) == ["table", "paper", "measured", "low", "high", "status", "direction", "why", "source"]
    assert len(frame) == 2 * 3 * 2
    status = frame["status"]
    assert status["qwen2.5-7b/vanilla/sft", "B"] == "within the interval"
    assert status["qwen2.5-7b/vanilla/sft", "Q_W"] == "differs"  # 24.89
    assert status["llama3.1-8b/vanilla/sft", "Q_W"] == "within the interval"  # 24.54
    assert status["qwen2.5-7b/vanilla/dpo", "B"] == "opposite"  # the paper has -0.01
    assert status["llama3.1-8b/vanilla/dpo", "B"] == "same direction"  # the paper has +0.02
    assert status["llama3.1-8b/vanilla/dpo", "Q_W"] == "differs"  # 24.00; no contrast for this column
    assert set(status[:, "Emp"]) == {"not attempted"}
    why = frame["why"]["qwen2.5-7b/vanilla/dpo", "B"]
    assert why == "against Vanilla · SFT the paper has -0.01, we have +0.16 [+0.10, +0.20]"
    row = frame.loc[("llama3.1-8b/vanilla/sft", "Q_W")]
    assert (row["paper"], row["measured"], row["low"], row["high"]) == (24.54, 24.1, 22.0, 24.6)
    assert frame["measured"].isna().sum() == 4


def test_grid_html():
    page = soup(grid())
    table = page.select_one("div.paper-table-wrap > table.paper-table")
    for part in (
        "DecoupledESC",
        "Table 3",
        "profile smoke",
        "n = 1,792 test turns",
        "brackets: 95% intervals.",
    ):
        assert part in table.caption.text
    top, sub = table.thead.find_all("tr")
    assert [th["scope"] for th in top.find_all("th")] == ["col", "colgroup", "colgroup", "colgroup"]
    assert [th.text for th in sub.find_all("th")][:3] == ["Qwen2.5-7B", "Llama3.1-8B", "ours"]
    assert top.find_all("th")[0].text == "paradigm · method"
    assert "↓" in top.find_all("th")[1].text and top.abbr["title"] == "lower is better"
    lines = table.tbody.find_all("tr")
    assert [line.find("th", scope="row").text for line in lines] == ["Vanilla · SFT", "Vanilla · DPO"]
    assert all(len(line.select("td.paper")) == 6 and len(line.select("td.measured")) == 3 for line in lines)
    first = lines[0].select_one("td.measured")
    assert first["data-verdict"] == "within the interval"
    assert first.text.split() == ["0.29", "[0.25,", "0.35]", "≈", "≈"]
    assert first.select_one("span.ci").text == "[0.25, 0.35]"
    assert "Qwen2.5-7B: Within the interval" in first["title"]
    mixed = lines[1].select_one("td.measured")
    assert mixed["data-verdict"] == "mixed"
    assert [mark["aria-label"] for mark in mixed.select("span.verdict")] == [
        "Qwen2.5-7B: opposite",
        "Llama3.1-8B: same direction",
    ]
    assert [mark["data-verdict"] for mark in mixed.select("span.verdict")] == ["opposite", "same direction"]
    legend = page.select_one("p.paper-table-legend").text
    assert "no judge in this <profile>" in legend and "≈ within the interval" in legend and "=" not in legend
    assert not page.select("[style]")


def test_a_second_sign_shows_the_direction_of_a_number_that_agrees():
    agreeing = DPO | {"B": Estimate(0.30, 0.25, 0.35)}
    page = soup(grid(measured={"vanilla/sft": SFT, "vanilla/dpo": agreeing}))
    cell = page.tbody.find_all("tr")[1].select_one("td.measured")
    assert [mark.text for mark in cell.select("span.verdict")] == ["≈⇄", "≈⇉"] and cell["data-verdict"] == "within the interval"
    assert cell.select_one("span.verdict")["aria-label"] == "Qwen2.5-7B: within the interval, opposite"
    assert "⇄ opposite: " in page.select_one("p.paper-table-legend").text


def test_rows_that_are_not_comparable_take_their_comparisons_with_them():
    silent = {"vanilla/sft": Missing("it follows no instruction")}
    table = grid(incomparable=silent, columns=["B"])
    assert table.counts() == {"not comparable": 4} and table.counts("direction") == {"not comparable": 2}
    assert set(table.to_frame().why) == {"it follows no instruction"}
    assert "∥ not comparable: it follows no instruction" in soup(table).select_one("p.paper-table-legend").text
    agreeing = grid(incomparable=silent, columns=["B"], measured={"vanilla/sft": SFT, "vanilla/dpo": {"B": Estimate(0.3, 0.25, 0.35)}})
    assert agreeing.counts() == {"within the interval": 2, "not comparable": 2}, "DPO's own level stands"


def test_one_backbone_has_plain_labels_and_no_mixed_cells():
    page = soup(grid(backbones=BOTH[1:]))
    assert {td["data-verdict"] for td in page.select("td.measured")} <= set(Status)
    assert page.select_one("span.verdict")["aria-label"] == "within the interval"


def test_html_is_escaped():
    hostile = {"Emp": Missing('"><script>x</script>')}
    page = grid(note="<script>alert(1)</script>", measured={"vanilla/sft": SFT | hostile, "vanilla/dpo": DPO | hostile})
    html = page._repr_html_()
    assert "<script" not in html
    assert '"><script>x</script>' in soup(page).select("td.measured")[2]["title"]
    odd = replace(page, stub="<b>", heads=("<i>", "&"), lines=(replace(page.lines[0], label=Label("<u>")),))
    assert not soup(odd).select("b, i, u")


def test_repr_is_short_and_counts():
    table = grid()
    assert sum(table.counts().values()) == 12
    assert repr(table).startswith("<ComparisonTable decoupledesc/table-3: ") and "4 not attempted" in repr(table)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"measured": {"vanilla/sft": {"B": Estimate(1.0)}}},
            ValueError,
            "table-3: row 'qwen2.5-7b/vanilla/sft', column 'Q_W' has neither",
        ),
        ({"measured": {"vanilla/sft": SFT}}, ValueError, "'qwen2.5-7b/vanilla/dpo', column 'B' has neither"),
        ({"measured": {"vanilla/sft": {"Emq": NO_JUDGE}}}, KeyError, "did you mean 'Emp'"),
        ({"measured": {"vanilla/stf": {}}}, KeyError, "did you mean 'qwen2.5-7b/vanilla/sft'"),
        ({"measured": {"vanilla/sft": {"Q_w": Estimate(1.0)}}}, KeyError, "did you mean 'Q_W'"),
        ({"rows": ["vanilla/spo"]}, KeyError, "did you mean"),
        ({"columns": ["Bias"]}, KeyError, "did you mean 'B'"),
        ({"backbones": ("qwen2.5",)}, KeyError, "did you mean 'qwen2.5-7b'"),
        ({"rows": []}, ValueError, "no row"),
        ({"contrasts": {"vanilla/dpo": ("vanilla/stf", {})}}, KeyError, "vanilla/sft"),
    ],
)
def test_mistakes_are_named(changes, error, message):
    with pytest.raises(error, match=message.replace("[", r"\[")):
        grid(**changes)


def test_a_reason_stands_for_a_cell_a_row_or_everything():
    frame = (
        grid(backbones=BOTH[:1], measured={"vanilla/sft": Missing("row"), "vanilla/dpo": DPO})
        .to_frame()
        .set_index(["row", "column"])
    )
    assert set(frame["why"]["qwen2.5-7b/vanilla/sft"]) == {"row"}
    assert frame["why"]["qwen2.5-7b/vanilla/dpo", "Emp"] == NO_JUDGE.reason
    assert set(grid(measured=Missing("nothing here")).to_frame()["why"]) == {"nothing here"}


def test_all_rows_and_columns_by_default():
    frame = compare(THREE, Missing("later"), profile="smoke", n="0", backbones=BOTH).to_frame()
    assert len(frame) == 198 and set(frame["status"]) == {"not attempted"}


def test_blank_cells_of_the_paper_need_no_reason_and_take_no_number():
    table = TABLES["decoupledesc/table-1"]
    measured = {"esconv/dialogues": {"total": Estimate(1040)}}
    shown = compare(table, measured, profile="any", n="1,040", rows=["esconv/dialogues"], columns=["total", "user"])
    assert shown.counts() == {"exact": 1, "not attempted": 1}
    assert "without intervals" in shown.caption
    assert [td.text for td in soup(shown).select("td.paper")] == ["1,040", ""]
    measured["esconv/dialogues"]["user"] = Estimate(1.0)
    with pytest.raises(ValueError, match="leaves it blank"):
        compare(table, measured, profile="any", n="1,040", rows=["esconv/dialogues"], columns=["user"])


@pytest.mark.parametrize("key", ["cso/table-8", "cso/table-12"])
def test_tables_without_numbers_are_refused(key):
    with pytest.raises(ValueError, match="holds no numbers"):
        compare(TABLES[key], {}, profile="any", n="0")


def test_nothing_measured_is_said_in_the_caption():
    shown = compare(TABLES["decoupledesc/in-text"], Missing("needs the judge"), profile="smoke", n="0")
    assert "nothing measured" in shown.caption and shown.caption.startswith("the text of DecoupledESC")


# --- turned, and our own --------------------------------------------------------------------------------------------


def test_transposed_shows_the_same_cells_turned():
    table, turned = grid(), grid().transposed()
    assert sorted(map(str, turned.cells())) == sorted(map(str, table.cells())) and turned.counts() == table.counts()
    page = soup(turned)
    assert [th.text for th in page.thead.find_all("tr")[0].find_all("th")] == [
        "metric",
        "Vanilla · SFT",
        "Vanilla · DPO",
    ]
    assert page.tbody.find("th", scope="row").abbr["title"] == "lower is better"
    assert turned.transposed().lines[0].cells == table.lines[0].cells


def test_one_backbone_with_small_numbers():
    rates = {m: {"lr": Estimate(7e-7 if m != "sp-dpo" else 5e-8)} for m in ("vanilla-dpo", "sp-dpo", "rg-dpo")}
    shown = compare(
        TABLES["decoupledesc/table-7"], rates, profile="any", n="1", backbones=("qwen2.5-7b",), columns=["lr"]
    )
    assert shown.counts() == {"exact": 3} and shown.heads == ("Qwen2.5-7B",)
    assert [td.text for td in soup(shown).select("td.paper")] == ["7e-07", "5e-08", "7e-07"]


def test_results_tables_have_stable_html_and_format_numbers_only():
    frame = pd.DataFrame({"name": ["a", "b"], "x": [1.234, None]}).set_index("name")
    frame["word"] = ["<i>", "w"]
    first, again = (results_table(frame, "Caption", "{:.1f}") for _ in range(2))
    assert first == again and repr(first) == "<ResultsTable Caption>"
    first = first._repr_html_()
    assert "1.2" in first and "–" in first and "name" in first
    missing = soup(results_table(Missing("no <judge>"), "Caption"))
    assert missing.tbody.th.text == "not attempted" and missing.tbody.td.text == "no <judge>"


def test_estimates_are_written_with_their_interval_and_bias_with_two_decimals():
    assert format_estimate(Estimate(1.25, 1.0, 1.5)) == "1.2 [1.0, 1.5]"
    assert (format_estimate(Estimate(1.25)), format_estimate(None), format_estimate(Estimate(0.5), 2, "+")) == (
        "1.2",
        "–",
        "+0.50",
    )
    assert format_scores({"B": Estimate(0.5), "Q": Estimate(20.0)}, ("B", "Q", "F1")) == {
        "B": "0.50",
        "Q": "20.0",
        "F1": "–",
    }
