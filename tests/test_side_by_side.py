"""Several backbones of ours side by side: the rule across them, the board, tables and stamps; nothing changes with one alone."""

import json
import math
from types import SimpleNamespace

import jupytext
import nbformat
import pandas as pd
import pytest
from test_claims import board, evaluated
from test_replication import NOBODY, evaluation

from decoupled_esc.evaluate.seeds import SeedEvaluation
from decoupled_esc.experiments.profiles import load_profile
from decoupled_esc.experiments.run import BACKBONES, PUBLISHED, Book
from decoupled_esc.experiments.sft import BaseModel, HeldOutAnswers
from decoupled_esc.files import file_digest
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import backbones, claims, forest, questions, replication
from decoupled_esc.present.forest import Forest
from decoupled_esc.publish import notebooks, steps

OURS, OTHER = "esc-base", "SmolLM2-135M"
CONTRAST, BETTER, ROWS = questions.FIRST["RQ1"]
NOTHING, EFFECT = (0.0, 1.0, 1.0), (2.0, 1.0, 0.0001)
"""A difference, half its interval, and its p-value."""


# --- The rule across backbones ---


@pytest.mark.parametrize(("answers", "across"), [
    (("supported", "supported"), "supported on every backbone"),
    (("contradicted", "contradicted", "contradicted"), "contradicted on every backbone"),
    (("supported", "contradicted"), "depends on the backbone"),
    (("supported", "not decided"), "supported on A, not decided on B"),
    (("trend against, 1 seed", "contradicted"), "contradicted on B, not decided on A"),
    (("supported", "trend for, 1 seed", "supported"), "supported on A and C, not decided on B"),
    (("not decided", "not decided"), "not decided"),
    (("trend for, 1 seed", "not decided"), "not decided"),
    (("trend for, 1 seed", "trend against, 1 seed"), "not decided"),
    (("supported",), "supported"),
    (("trend for, 2 seeds",), "trend for, 2 seeds"),
])  # fmt: skip
def test_what_answers_come_to(answers, across):
    assert questions.answer_across(dict(zip("ABC", answers, strict=False))) == across


def asked(value: float, width: float, p: float, seeds=(13, 14, 15)) -> SeedEvaluation:
    found = evaluated([CONTRAST], value, width, p)
    by_seed = {str(seed): found.by_seed["13"] for seed in seeds}
    return SeedEvaluation(seeds, found.together, by_seed)


def test_without_an_effect_nothing_is_decided_on_any_backbone():
    rows = questions.by_backbone({OURS: asked(*NOTHING), OTHER: asked(*NOTHING, seeds=(13,))}, CONTRAST, ROWS, BETTER)
    assert {row.across for row in rows} == {"not decided"} and all(list(row.by_backbone) == [OURS, OTHER] for row in rows)
    assert forest.in_words(rows) == (
        f"{OURS}: Not decided: 6 of 6 rows. {OTHER}: Not decided: 6 of 6 rows. Over both backbones: Not decided: 6 of 6 rows."
    )


def test_each_backbone_is_decided_by_itself():
    rows = questions.by_backbone({OURS: asked(*EFFECT), OTHER: asked(*EFFECT, seeds=(13,))}, CONTRAST, ROWS, BETTER)
    by_key = {row.key: row for row in rows}
    assert by_key["Q"].across == f"supported on {OURS}, not decided on {OTHER}"
    assert by_key["B"].across == f"contradicted on {OURS}, not decided on {OTHER}"
    assert by_key["Q"].by_backbone[OTHER].answer == "trend for, 1 seed"
    alone = questions.question(asked(*EFFECT), CONTRAST, ROWS, BETTER)
    assert [row.by_backbone[OURS] for row in rows] == list(alone), "the family is that of one backbone"
    table = questions.numbers(rows)
    assert table.loc[by_key["Q"].claim, f"answer, {OTHER}"] == "trend for, 1 seed"
    assert table["over backbones"].tolist() == [row.across for row in rows]


def test_one_backbone_alone_reads_as_it_always_did():
    alone = questions.question(asked(*EFFECT), CONTRAST, ROWS, BETTER)
    rows = questions.by_backbone({OURS: asked(*EFFECT)}, CONTRAST, ROWS, BETTER)
    assert rows == alone and questions.side_by_side({OURS: alone}) == alone
    other = questions.by_backbone({OURS: asked(*EFFECT), OTHER: evaluated(["x - y"], 0, 1, 1)}, CONTRAST, ROWS, BETTER)
    assert other == alone, "a backbone without that difference"
    assert forest.marks(rows) == forest.MARKS and claims.counted_across(rows) == ""
    assert "over backbones" not in questions.numbers(rows) and OTHER not in forest.in_words(rows)
    table = replication.table_3(evaluation(invalid_base=False), NOBODY, "vanilla", "smoke")
    assert table.beside(OURS, {}) is table
    counts = replication.summary(table.to_frame())
    pd.testing.assert_frame_equal(backbones.summary(counts, {}).reset_index(drop=True), counts.reset_index(drop=True))


# --- The board ---


def test_the_board_has_a_line_for_each_backbone_and_the_answer_across():
    ours, other = board(*EFFECT).rows, board(*NOTHING).rows
    rows = questions.side_by_side({OURS: ours, OTHER: other})
    shown = Forest(rows, "")._repr_html_().replace(forest.NO_BREAK, " ")
    measured = [row for row in rows if row.by_backbone]
    assert len(measured) == sum(row.ours is not None for row in ours), "what nobody measured stays one row"
    assert shown.count('class="here"') == shown.count('class="here other"') == len(measured)
    assert f"supported on {OURS}, not decided on {OTHER}" in shown
    assert f"{OURS} +2.0 [+1.0, +3.0]: supported" in shown and f"{OTHER} +0.0 [-1.0, +1.0]: not decided" in shown
    assert forest.marks(rows).endswith(f"ours from above: {OURS}, {OTHER}")
    assert f"measured on {OURS} and {OTHER}: " in claims.counted_across(rows)


def test_backbones_share_a_scale_and_stand_below_each_other():
    (wide,) = (row for row in board(4.0, 1.0, 0.0001).rows if (row.about, row.key) == ("RQ2", "Q"))
    (narrow,) = (row for row in board(1.0, 0.5, 0.0001).rows if (row.about, row.key) == ("RQ2", "Q"))
    (row,) = questions.side_by_side({OURS: [wide], OTHER: [narrow]})
    picture = forest.picture(row)
    assert f'viewBox="0 0 {forest.WIDTH} {forest.HEIGHT + forest.LINE}"' in picture
    places = [float(part.split('"')[0]) - forest.WIDTH / 2 for part in picture.split('<circle cx="')[1:] if 'r="4"/>' in part and 'cy="9"' not in part.split("/>")[0]]
    assert places[0] == pytest.approx(4 * places[1], abs=0.5)


def test_what_one_backbone_lacks_has_no_row():
    whole = board().rows
    assert {row.about for row in whole} >= {"RQ4", "CSO", "Observation 2"}
    first = [contrast for contrast, *_ in questions.FIRST.values()]
    few = claims.rows(evaluated(first, *NOTHING), None, None, None, ("", "", "not judged"))
    assert {row.about for row in few} == {"RQ1", "RQ2", "RQ3", "both papers"}
    rows = questions.side_by_side({OURS: whole, OTHER: few})
    assert {row.about for row in rows if row.by_backbone} == {"RQ1", "RQ2", "RQ3"}


# --- Tables ---


def test_table_3_has_a_column_for_each_backbone():
    own, other = evaluation(invalid_base=False), evaluation(invalid_base=True)
    table = replication.table_3(own, NOBODY, "vanilla", "laptop")
    both = table.beside(OURS, {OTHER: replication.table_3(other, NOBODY, "vanilla", OTHER)})
    shown = both._repr_html_()
    assert shown.count(f'<th scope="col">{OURS}</th>') == shown.count(f'<th scope="col">{OTHER}</th>') == 3
    assert shown.count('<td class="measured"') == 2 * table._repr_html_().count('<td class="measured"')
    assert shown.count('<td class="paper"') == table._repr_html_().count('<td class="paper"')
    assert list(both.cells()) == list(table.cells()), "the report counts the profile's own"
    assert f"Ours: {OURS}, profile laptop; n = 64" in both.caption and f" {OTHER}: n = 64" in both.caption


def test_the_report_counts_the_tables_of_other_backbones_below_its_own(tmp_path):
    """Laptop's own published results, as if they were those of another backbone that trains CSO with adapters alone."""
    own = Book("laptop", runs=tmp_path)
    counts = replication.summary(replication.table_3(own["metrics"], NOBODY, "vanilla", "laptop").to_frame())
    other = SimpleNamespace(backbone=OTHER, profile=load_profile("smollm2-135m"))
    cells = backbones.cells([other], {OTHER: own["metrics"]}, {OTHER: own["metrics-cso"]})
    found = backbones.summary(counts, cells)
    names = [name for name in found.index if name.endswith(OTHER)]
    assert len(found) == len(counts) + len(names) and f"Table 3 of DecoupledESC, {OTHER}" in names and len(names) == 6
    assert (found.drop(columns=["cells", "measurements"]).sum(axis=1) == found["cells"]).all()
    assert (found.loc[names[0], "cells"] > counts["cells"]).all(), "both paradigms and the prompting baselines"
    few = backbones.summary(counts, backbones.cells([other], {OTHER: own["questions"].together}, {}))
    assert len(few) == len(counts) + 1 and few["not attempted"].iloc[-1] > found.loc[names[0], "not attempted"]
    assert backbones.cells([other], {}, {}) == {}


def test_where_training_starts_and_what_it_adds():
    base = BaseModel("package", "x", parameters=1000, vocabulary=50, held_out={"bits_per_byte": 1.25})
    answers = HeldOutAnswers(turns=3, tokens=40, bytes=100, nats_per_token=math.log(2) * 5)
    tuned = SimpleNamespace(held_out_turns=3, held_out_loss=math.log(2) * 2, held_out_tokens=40, dialogues=260, tokens=9000)
    found = backbones.start(base, answers, tuned, 33.4)
    assert list(found.values()) == ["1,000", "50", "1.250", "2.000", "0.800", "260", "9,000", "33"]
    assert list(backbones.start(base, None, tuned, None).values())[3:5] == ["–", "–"]
    others = SimpleNamespace(**vars(tuned) | {"held_out_turns": 2})
    assert list(backbones.start(base, answers, others, 1.0).values())[3:5] == ["2.000", "–"], "of other turns"
    assert set(backbones.start(BaseModel("hub", "x"), None, None, None).values()) == {"–"}


# --- Published results ---


@pytest.fixture
def results(tmp_path):
    """Synthetic results of both profiles."""

    def publish(profile: str, name: str, result) -> None:
        book = Book(profile, runs=tmp_path / "runs", published=tmp_path / "results")
        book.published.write(book.published_steps[name], result, {"name": name})

    contrasts = [contrast for contrast, *_ in questions.FIRST.values()]
    publish("laptop", "questions", evaluated(contrasts, *EFFECT))
    return tmp_path / "results", publish, evaluated(contrasts, *NOTHING)


def opened(folder, profile: str = "laptop") -> Book:
    return Book(profile, runs=folder.parent / "runs", published=folder)


def test_a_book_reads_what_is_published_of_other_backbones(results):
    folder, publish, nothing = results
    assert opened(folder).beside == [] and list(opened(folder).everywhere("questions")) == [OURS]
    publish("smollm2-135m", "questions", nothing)
    found = opened(folder).everywhere("questions")
    assert list(found) == [OURS, OTHER] and found[OTHER] == nothing
    assert [one.profile.name for one in opened(folder).beside] == ["smollm2-135m"]
    assert opened(folder, "smoke").beside == [], "smoke shows that steps work, beside nothing"
    publish("smollm2-135m", "errors", Missing("no labels"))
    publish("laptop", "errors", Missing("no labels"))
    assert list(opened(folder).everywhere("errors")) == [OURS], "what can't be made there is left out"


@pytest.mark.parametrize("profile", BACKBONES)
def test_what_is_published_of_a_backbone_is_what_its_profile_asks_for(profile, tmp_path):
    known = Book(profile, runs=tmp_path).published_steps
    keys = {path.stem: json.loads(path.read_text())["key"] for path in (PUBLISHED / profile).glob("*.json")}
    assert keys == {name: known[name].key for name in keys} and (keys or profile != BACKBONES[0])


def test_results_of_another_configuration_are_not_shown(results):
    folder, publish, nothing = results
    publish("smollm2-135m", "questions", nothing)
    path = folder / "smollm2-135m" / "questions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "0" * 16}))
    assert list(opened(folder).everywhere("questions")) == [OURS]


def test_a_chapter_is_stamped_with_what_it_shows_of_other_backbones(results, tmp_path, monkeypatch):
    folder, publish, nothing = results
    source = tmp_path / "01_x.py"
    source.write_text('# %% tags=["parameters", "remove-cell"]\nprofile = "laptop"\n\n# %% tags=["hide-input"]\nevery = book.everywhere("questions")\n')
    assert notebooks.steps_read(source) == ["questions"] and notebooks.read_everywhere(source) == {"questions"}
    monkeypatch.setattr(notebooks, "sources", lambda: [source])
    own = {"questions": steps._published(opened(folder), "questions")}

    def stamp(made: dict = {"made": {"results": 1}}) -> list[str]:  # noqa: B006
        notebook = jupytext.read(source)
        for number, cell in enumerate(notebook.cells, start=1):
            cell.execution_count = number
        shown = own | steps._beside(opened(folder), source)
        notebook.metadata["decoupled_esc"] = {"source_sha256": file_digest(source), "results": shown} | made
        nbformat.write(notebook, source.with_suffix(".ipynb"))
        return sorted(shown)

    assert stamp() == ["questions"] and steps.check_stamps(opened(folder)) == []
    publish("smollm2-135m", "questions", nothing)
    assert "of other backbones" in steps.check_stamps(opened(folder))[0]
    assert stamp() == ["questions", "smollm2-135m/questions"] and steps.check_stamps(opened(folder)) == []
    assert notebooks.check_notebooks(tmp_path) == []
    stamp({})
    (problem,) = steps.check_stamps(opened(folder))
    assert problem == "01_x.ipynb does not say how its results were made; run: make publish"
