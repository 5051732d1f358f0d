"""The rows that figures and tables carry are the numbers that they show, and the built page links to them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from decoupled_esc.evaluate.bootstrap import Estimate
from decoupled_esc.evaluate.decoding import StrategyScores
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import cso_tables, figures, sliders
from decoupled_esc.present.forest import Forest, ForestRow
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.rows import MIME, as_csv, marks, slug
from decoupled_esc.present.tables import compare, results_table
from decoupled_esc.publish.downloads import add_downloads, how_made, read_csv
from decoupled_esc.publish.site import check_site

SCORES = {"B": {"SFT": Estimate(0.28, 0.2, 0.35), "DPO, greedy": Estimate(-0.1, -0.3, 0.1)}, "F1": {"SFT": Estimate(21.5), "DPO, greedy": Estimate(20.25)}}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_points_and_intervals_with_the_words_of_their_ticks():
    rows = marks(figures.estimates(SCORES, "smoke"))
    for panel, systems in SCORES.items():
        here = rows[rows.panel == panel]
        points = here[here.mark == "point"].set_index("y label").x
        assert points.to_dict() == {name: one.value for name, one in systems.items()}
        ends = here[here.mark == "interval"].set_index("y label")
        assert {name: (row.low, row.high) for name, row in ends.iterrows()} == {
            name: (one.low, one.high) for name, one in systems.items() if one.low is not None
        }


def test_bars_lie_at_their_tick_and_have_their_length():
    values = {"ours": {"Question": Estimate(12.5, 10, 15), "Others": Estimate(3)}, "theirs": {"Question": Estimate(0), "Others": Estimate(40)}}
    rows = marks(figures.shares(values, "smoke"))
    bars = rows[rows.mark == "bar"]
    found = {(row.series, row["x label"]): row.y for _, row in bars.iterrows()}
    assert found == {(who, what): one.value for who, some in values.items() for what, one in some.items()}
    (interval,) = rows[rows.mark == "interval"].dropna(subset="low").query("low < high").itertuples()
    assert (interval.low, interval.high) == (10, 15)


def test_a_matrix_gives_its_cells_and_a_large_one_its_counts():
    counts = np.arange(64).reshape(8, 8) + 1
    rows = marks(figures.confusion({"planner": counts}, "smoke"))
    expected = 100 * counts.T / counts.T.sum(axis=1, keepdims=True)
    found = rows.pivot(index="y label", columns="x label", values="value").loc[figures.SHORT, figures.SHORT]
    assert len(rows) == 64 and np.allclose(found, expected)
    large = marks(figures.masks({"one": list(range(80))}, "smoke"))
    assert dict(zip(large["value"], large["count"], strict=True)) == {0: 80 * 79 / 2, 1: 80 * 81 / 2}


def test_lines_bands_and_levels_but_no_guides():
    sweep = [StrategyScores(t, *[Estimate(t + 1, t, t + 2)] * 3) for t in (0.0, 0.7)]
    rows = marks(figures.over_temperatures({"planner": sweep}, {"B": "B"}, "smoke"))
    assert rows[rows.mark == "line"][["x", "y"]].values.tolist() == [[0.0, 1.0], [0.7, 1.7]]
    assert rows[rows.mark == "band"][["x", "low", "high"]].round(6).values.tolist() == [[0.0, 0.0, 2.0], [0.7, 0.7, 2.7]]
    assert set(rows.mark) == {"line", "band"}, "the dotted line at 0.7 is no number"
    values = {"F1": {"full": ({50: Estimate(3.0), 100: Estimate(4.0)}, Estimate(2.5))}}
    printed = {"F1": {"full": ({100: Estimate(6.0)}, Estimate(5.5))}}
    volume = marks(cso_tables.over_volume(values, "smoke", printed, (20.0, 30.0)))
    assert volume[volume.mark == "level"][["series", "y"]].values.tolist() == [["SFT, full", 5.5], ["SFT, full", 2.5]]


def test_a_figure_without_numbers_carries_why():
    (row,) = marks(figures.nothing_here("no data, here", "smoke")).itertuples()
    assert (row.mark, row.series) == ("text", "no data, here")


def test_numbers_survive_as_csv_and_words_stay_words():
    frame = pd.DataFrame({"n": [1, 2], "share": [1 / 3, np.nan], "said": ["a, b", "None"]}, index=pd.Index(["x", "y"], name="system"))
    back = read_csv(as_csv(frame))
    assert back.columns.tolist() == ["system", "n", "share", "said"] and back.said.tolist() == ["a, b", "None"]
    assert back.share[0] == 0.333333 and np.isnan(back.share[1])
    assert as_csv(frame.reset_index(drop=True)).startswith("n,share,said\n")


def test_no_two_cells_of_a_paper_share_an_anchor():
    for table in load_tables().values():
        names = [slug(f"{row.key} {column.key}") for row in table.rows for column in table.columns]
        assert len(names) == len(set(names)), table.id


def bundle(shown) -> Mapping[str, str]:
    data, _ = InteractiveShell.instance().display_formatter.format(shown)
    return data


def carried() -> dict[str, Mapping[str, str]]:
    """What cells show, as Jupyter stores it."""
    table = next(table for table in load_tables().values() if table.kind == "numbers")
    row = ForestRow("bias falls", -1, Estimate(-0.1, -0.2, -0.05), (-0.08, -0.12), "supported", {"qwen2.5-7b": -0.3}, key="B")
    shown = {
        "table-our-numbers": results_table(pd.DataFrame({"a": [0.123456789, 2]}, index=["x", "y"]), "Our numbers; profile smoke."),
        "table-ours": compare(table, Missing("not here"), profile="smoke", n="0"),
        "table-all-claims": Forest((row,), "All claims, in one view."),
        "slider-beta": sliders.Slider({"1": figures.estimates(SCORES, "smoke"), "2": figures.estimates(SCORES, "smoke")}, "beta", "1"),
    }  # fmt: skip
    InteractiveShell.instance()
    with capture_output() as caught:
        figures.show("fig_scores", figures.estimates(SCORES, "smoke"))
    return {name: bundle(one) for name, one in shown.items()} | {"fig-scores": caught.outputs[0].data}


@pytest.fixture
def page(tmp_path):
    """A page as the book's builder writes it, with downloads; what its cells carried; the folder of the site."""
    from hashlib import sha256

    cells, body, outputs = carried(), "", []
    for name, data in [*cells.items(), ("again", cells["table-our-numbers"])]:
        outputs.append(nbformat.v4.new_output("display_data", data=dict(data)))
        if name == "fig-scores":
            picture = data["image/svg+xml"]
            file = tmp_path / "_images" / f"{sha256(chr(10).join(picture.splitlines()).encode()).hexdigest()}.svg"
            file.parent.mkdir()
            file.write_text(picture)
            body += f'<figure class="x" id="{name}"><img alt="Scores" src="../_images/{file.name}"><figcaption><p>Scores.</p></figcaption></figure>'
        else:
            body += f'<div class="cell_output">{data["text/html"]}</div>'
    made = how_made([stored(60.0)], [stored(3000.0, "2026-11-27"), stored(600.0)])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=outputs)], metadata={"decoupled_esc": {"made": made}})
    source = tmp_path / "source" / "01_a.ipynb"
    source.parent.mkdir()
    nbformat.write(notebook, source)
    (tmp_path / "html" / "notebooks").mkdir(parents=True)
    (tmp_path / "_images").rename(tmp_path / "html" / "_images")
    (tmp_path / "html" / "notebooks" / "01_a.html").write_text(
        f'<!doctype html><html><body><article>{body}<a href="01_a.ipynb">.</a></article></body></html>'
    )
    (tmp_path / "html" / "notebooks" / "01_a.ipynb").write_text("{}")
    add_downloads(tmp_path / "html", [source, tmp_path / "source" / "02_unbuilt.ipynb"])
    return (tmp_path / "html" / "notebooks" / "01_a.html").read_text(), cells, tmp_path / "html"


def stored(seconds: float, date: str = "2026-11-28"):
    hardware = {"machine": "x86_64", "system": "Linux", "cores": 2, "gpu": None}
    return SimpleNamespace(provenance={"wall_seconds": seconds, "date": date, "commit": "abc", "hardware": hardware})


def test_every_figure_and_table_has_its_anchor_and_two_files_with_its_numbers(page):
    text, cells, html = page
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)), "a table that is shown twice has two anchors"
    names = re.findall(r'download aria-label="CSV of ([\w-]+)"', text)
    assert len(names) == len(cells) + 1 and set(names) <= set(ids) and "table-our-numbers-2" in names
    assert sum(f'href="#{name}"' in text for name in names) == len(names)
    files = html / "_static" / "data"
    assert len(list(files.iterdir())) == 2 * len(names)
    carried = {data[MIME] for data in cells.values()}
    for name in names:
        csv = (files / f"01_a-{name}.csv").read_text()
        assert csv in carried
        described = json.loads((files / f"01_a-{name}.json").read_text())
        assert described["path"] == f"notebooks/01_a.html#{name}"
        assert [field["name"] for field in described["schema"]["fields"]] == read_csv(csv).columns.tolist()
        values = json.loads(read_csv(csv).to_json(orient="values", double_precision=15))
        assert [list(row.values()) for row in described["data"]] == values
        assert {row["anchor"] for row in described["data"] if "anchor" in row} <= set(ids), "where a verdict stands"
    scores = read_csv(files / "01_a-fig-scores.csv")
    assert set(scores.x.dropna()) == {one.value for some in SCORES.values() for one in some.values()}
    assert check_site(html) == []


def test_the_last_line_says_how_the_results_were_made(page):
    (line,) = re.findall(r'<p class="made">(.*?)</p>\s*</article>', page[0])
    assert line == (
        "This page shows 1 result, made in 1m00s of computing, after 1h00m for 2 results behind them that are kept; "
        "between 27 November 2026 and 28 November 2026, on x86_64 Linux, 2 cores; code: commit abc."
    )
    assert how_made([], [stored(1.0)]) == {}


def test_what_carries_no_rows_gets_no_link(tmp_path):
    source = tmp_path / "01_a.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), source)
    page = tmp_path / "notebooks" / "01_a.html"
    page.parent.mkdir()
    before = '<article><div class="with-rows" id="table-a" data-csv="0">x<p class="data-links"></p></div></article>'
    page.write_text(before)
    add_downloads(tmp_path, [source])
    assert page.read_text() == before and not (tmp_path / "_static").exists()


def test_the_figures_of_the_book_carry_their_rows():
    """Of every chapter that was executed since figures carry rows."""
    for path in sorted((Path(__file__).parents[1] / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        outputs = [output.get("data", {}) for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", [])]
        if any(MIME in data for data in outputs):
            bare = [data for data in outputs if "image/svg+xml" in data and MIME not in data]
            assert not bare, f"{path.name} has a figure that figures.show did not show"
