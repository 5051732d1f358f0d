"""The committed notebooks: executed, paired with their sources, fresh, and worth re-running with nbval."""

import json
import re
from types import SimpleNamespace

import pytest

from decoupled_esc.experiments.run import Book, PublishError
from decoupled_esc.publish import notebooks
from decoupled_esc.publish.notebooks import check_notebooks
from decoupled_esc.publish.steps import check_stamps, publish_notebooks

COMMITTED = sorted(notebooks.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
# What nbval leaves out of its comparison (nbval.plugin.IPyNbFile.skip_compare, and images without --nbdime).
SKIPPED = {"image/png", "image/jpeg", "application/vnd.jupyter.widget-view+json"}


def compared(path):
    """The outputs of a notebook that nbval would compare."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "stream" or set(output.get("data", {})) - SKIPPED:
                yield output


def test_every_source_has_its_notebook():
    assert [path.stem for path in COMMITTED] == [source.stem for source in notebooks.sources()]


def test_executed_paired_and_stamped():
    assert check_notebooks(notebooks.NOTEBOOKS) == []


def test_fresh():
    assert check_stamps(Book("laptop")) == []


def test_results_of_runs_are_not_shown_before_they_are_published(monkeypatch):
    """A result in ``runs/`` that is newer than the published one would be taken by a chapter, and be nowhere to be found."""
    monkeypatch.setattr(notebooks, "execute", lambda *_: pytest.fail("a chapter was executed"))
    own, published = SimpleNamespace(digest="own"), SimpleNamespace(digest="published")
    store = SimpleNamespace(read=lambda step: published)
    steps = {name: name for source in notebooks.sources() for name in notebooks.steps_read(source)}
    book = SimpleNamespace(
        profile=SimpleNamespace(name="laptop"), published=store, published_steps=steps,
        stored=lambda name: own if name == "sft-planner" else published,
    )  # fmt: skip
    with pytest.raises(PublishError, match="another result of sft-planner than results/laptop/: publish it too"):
        publish_notebooks(book)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_nbval_has_something_to_compare(path):
    outputs = list(compared(path))
    assert len(outputs) >= 4
    numbers = re.findall(r"\d+\.\d+|\d{2,}", json.dumps(outputs))
    assert len(numbers) >= 20, "a notebook whose compared outputs hold no numbers would pass whatever it computed"


def test_no_output_names_an_address():
    """So that nbval needs no sanitizer: the same results give the same outputs, letter by letter."""
    for path in COMMITTED:
        assert not re.search(r"0x[0-9a-f]{6,}", json.dumps(list(compared(path))))


def test_no_notebook_reads_the_profile_of_another():
    stamps = [json.loads(path.read_text(encoding="utf-8"))["metadata"]["decoupled_esc"] for path in COMMITTED]
    assert {stamp["profile"] for stamp in stamps} == {notebooks.parameters(notebooks.sources()[0])["profile"]}
