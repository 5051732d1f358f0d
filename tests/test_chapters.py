"""Chapters: what a source asks for, how it is executed and stamped, and which stamps no longer hold."""

import ast
import hashlib
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from papermill.parameterize import parameterize_notebook

from decoupled_esc.workflow import book, chapters, session, stages
from decoupled_esc.workflow.chapters import ChapterError, execute, open_chapter, parameters, stages_read
from decoupled_esc.workflow.profiles import ProfileError
from decoupled_esc.workflow.session import Session
from decoupled_esc.workflow.stages import Stage

CHAPTER = '''# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A chapter

# %% tags=["parameters", "hide-input"]
profile = "smoke"

# %% tags=["hide-input"]
from decoupled_esc.workflow import open_chapter

book = open_chapter(globals())

# %% tags=["hide-input"]
if False:
    book.result("tiny")
print(book.profile.name, {"a", "b"} == {"b", "a"})
'''
FAILING = CHAPTER.replace("if False:", "# a comment\nraise ValueError(f'no\\n  {profile}')\nif False:")


def cells(path) -> list[tuple]:
    return [(cell.cell_type, cell.source) for cell in nbformat.read(path, as_version=4).cells]


# --- The real ones ---


@pytest.mark.parametrize("source", chapters.sources(), ids=lambda path: path.stem)
def test_a_real_chapter_has_one_parameter_and_asks_for_stages_by_name(source):
    assert parameters(source) == {"profile": "laptop"}
    read = stages_read(source)
    assert read and set(read) <= set(stages.STAGES) and len(set(read)) == len(read)
    calls = [node for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
             and getattr(node.func, "attr", "") == "result"]  # fmt: skip
    assert all(isinstance(call.args[0], ast.Constant) for call in calls), "the graph sees only names written out"


def test_real_chapters_come_in_reading_order_and_read_what_they_tell_of():
    found = {path.stem[:2]: path for path in chapters.sources()}
    assert list(found) == sorted(found)
    assert stages_read(found["01"])[0] == "data"
    assert {"sft-vanilla", "sft-planner", "sft-generator"} <= set(stages_read(found["02"]))
    assert "metrics" in stages_read(found["08"])


# --- Reading a source ---


def test_stages_are_read_once_in_order_of_asking(tmp_path):
    source = tmp_path / "01_a.py"
    asked = ['x = book.result("b").payload', 'book.result("a")', 'book.result("b")']
    source.write_text("\n".join([*asked, 'result("c")', 'book.results("d")']))
    assert stages_read(source) == ["b", "a"]


def test_rows_are_published_where_a_chapter_shows_them():
    shown = {name for name in stages_read(chapters.NOTEBOOKS / "08_evaluate_systems.py") if name.startswith("replies-")}
    assert chapters.ROWS_SHOWN == {*shown, "judged", "search", "tallies", "tallies-cso", "tallies-cso-lora", "strategy-test"} and chapters.ROWS_SHOWN <= set(stages.STAGES)


def test_of_further_seeds_only_what_is_read_over_seeds_is_published_with_rows():
    read = {name for stage in stages.STAGES.values() for name in stage.over_seeds}
    further = [folder for folder in session.PUBLISHED.glob("*@*") if folder.is_dir()]
    assert further and all({path.stem for path in folder.glob("*.jsonl")} == read for folder in further)


def test_parameters_are_those_of_the_tagged_cell(tmp_path):
    source = tmp_path / "01_a.py"
    source.write_text('# %%\nother = 1\n\n# %% tags=["parameters"]\nprofile = "laptop"\nn = -1\n')
    assert parameters(source) == {"profile": "laptop", "n": -1}
    source.write_text("# %%\nother = 1\n")
    assert parameters(source) == {}


# --- Opening ---


def injected(**values) -> str:
    """The cell that papermill injects."""
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    source = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "papermill": {}})
    return parameterize_notebook(source, values, kernel_name="python3", language="python").cells[0].source


def test_opening_takes_the_profile():
    assert open_chapter({"profile": "laptop"}).profile.name == "laptop"  # a script, without IPython
    assert open_chapter({"profile": "smoke", "In": ["", injected(profile="smoke")]}).profile.name == "smoke"


def test_an_unknown_profile_is_an_error():
    with pytest.raises(ProfileError, match="no profile 'smok'"):
        open_chapter({"profile": "smok"})


def test_an_unknown_injected_parameter_is_named_with_the_nearest():
    with pytest.raises(ProfileError, match="unknown parameter 'profil' .did you mean 'profile'.*Parameters: profile"):
        open_chapter({"profile": "smoke", "In": ["", "profile = 'smoke'", injected(profil="laptop")]})


@pytest.mark.parametrize("cell", ["n = 3", "# Parameters of the plot\nwidth = len(x)", "%matplotlib inline"])
def test_what_else_a_reader_does_in_a_notebook_is_no_parameter(cell):
    names = {"profile": "smoke", "In": ["", injected(profile="smoke"), cell], "n": 3, "profil": "x", "_i1": cell}
    assert open_chapter(names).profile.name == open_chapter(names).profile.name == "smoke"


# --- Executing ---


@pytest.fixture
def home(tmp_path, monkeypatch):
    """One toy stage and a folder of chapters; results go to a folder of their own."""
    def tiny(context):
        return {"n": context.profile.seed}

    monkeypatch.setattr(stages, "STAGES", {"tiny": Stage("tiny", tiny, lambda profile: {"seed": profile.seed})})
    monkeypatch.setattr(session.corpus, "manifest_digests", lambda: {"esconv": "d1"})
    monkeypatch.delenv(session.RUNS_ONLY, raising=False)
    home = SimpleNamespace(folder=tmp_path / "notebooks", runs=tmp_path / "runs", published=tmp_path / "results")
    home.data = "d1"

    def open_session(profile: str) -> Session:
        opened = Session(profile, runs=home.runs, published=home.published)
        opened.corpora = {"esconv": SimpleNamespace(digest=home.data, name="esconv")}
        return opened

    home.session = open_session
    monkeypatch.setattr(chapters, "Session", open_session)
    monkeypatch.setattr(chapters, "PUBLISHED", home.published)
    monkeypatch.setattr(chapters, "NOTEBOOKS", home.folder)
    home.folder.mkdir()
    home.source = home.folder / "01_a.py"
    home.source.write_text(CHAPTER, encoding="utf-8")
    return home


def test_a_chapter_is_executed_cleaned_stamped_and_the_same_again(home):
    target = execute(home.source, home.folder / "01_a.ipynb")
    first = target.read_bytes()
    assert sorted(path.name for path in home.folder.iterdir()) == ["01_a.ipynb", "01_a.py"]
    made = nbformat.read(target, as_version=4)
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3]
    assert made.cells[-1].outputs[0].text == "smoke True\n"
    assert made.metadata["decoupled_esc"] == {
        "source_sha256": hashlib.sha256(home.source.read_bytes()).hexdigest(),
        "profile": "smoke",
        "results": {"tiny": home.session("smoke").result("tiny").digest},
    }
    assert "papermill" not in made.metadata and "version" not in made.metadata["language_info"]
    assert all(set(cell.metadata) <= {"tags"} for cell in made.cells)
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in made.cells)
    assert book.check_notebooks(home.folder) == []

    execute(home.source, target)
    assert target.read_bytes() == first


def test_another_profile_is_injected_below_the_default_and_nothing_else_changes(home, tmp_path):
    one, two = (execute(home.source, tmp_path / name / "01_a.ipynb", "laptop") for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    made = nbformat.read(one, as_version=4)
    assert made.cells[2].source == '# Parameters\nprofile = "laptop"'
    assert made.cells[2].metadata == {"tags": ["injected-parameters", "hide-input"]}
    assert made.cells[-1].outputs[0].text == "laptop True\n"
    assert made.metadata["decoupled_esc"]["profile"] == "laptop"
    assert made.metadata["decoupled_esc"]["results"] == {"tiny": home.session("laptop").result("tiny").digest}
    again = execute(home.source, tmp_path / "01_a.ipynb", "smoke")  # said, but no other than the default
    assert cells(again) == [cell for number, cell in enumerate(cells(one)) if number != 2]


def test_a_failing_cell_is_named_and_leaves_what_was_there(home):
    home.source.write_text(FAILING, encoding="utf-8")
    target = home.folder / "01_a.ipynb"
    target.write_text("what was there")
    with pytest.raises(ChapterError) as caught:
        execute(home.source, target)
    assert str(caught.value).startswith("01_a.py, cell 3 (# a comment raise ValueError(")
    assert str(caught.value).endswith("ValueError: no smoke"), "one line"
    assert target.read_text() == "what was there"
    assert sorted(path.name for path in home.folder.iterdir()) == ["01_a.ipynb", "01_a.py"], "no half-made chapter"


def test_a_kernel_that_dies_is_an_error_that_names_the_chapter(home):
    home.source.write_text(CHAPTER.replace("if False:", "import os\nos._exit(1)\nif False:"), encoding="utf-8")
    with pytest.raises(ChapterError, match="^01_a.py: its kernel died"):
        execute(home.source, home.folder / "01_a.ipynb")
    assert [path.name for path in home.folder.iterdir()] == ["01_a.py"]


def test_papermill_itself_cant_set_an_unknown_parameter(home, tmp_path):
    target = execute(home.source, home.folder / "01_a.ipynb")
    with pytest.raises(papermill.PapermillExecutionError) as caught:
        papermill.execute_notebook(target, tmp_path / "out.ipynb", {"profle": "laptop"}, progress_bar=False)
    assert caught.value.ename == "ProfileError" and "(did you mean 'profile'?)" in caught.value.evalue


# --- Publishing and stamps ---


@pytest.fixture
def published(home, monkeypatch):
    """The toy stage published, and its chapter as if executed."""
    monkeypatch.setattr(chapters, "publish_notebooks", lambda: [])
    home.session("smoke").run("tiny")
    assert chapters.publish("smoke") == ["tiny"]

    def stamp(**changes) -> list[str]:
        stamped = chapters._stamp(home.source, "smoke") | changes
        text = nbformat.writes(nbformat.v4.new_notebook(metadata={"decoupled_esc": stamped}))
        (home.folder / "01_a.ipynb").write_text(text)
        return chapters.check_stamps(home.folder)

    home.stamp = stamp
    return home


def test_publishing_copies_what_was_run(published):
    results = [Session("smoke", runs=folder, published=folder) for folder in (published.runs, published.published)]
    one, two = (opened.published.read("tiny") for opened in results)
    assert one == two and one.payload == {"n": 13}


@pytest.mark.parametrize(
    ("break_", "why"),
    [
        (lambda home: None, "tiny is missing .never run.; run it first: decoupled-esc run --profile smoke"),
        (lambda home: (home.session("smoke").run("tiny"), setattr(home, "data", "d2")), "tiny is stale .the data"),
        (lambda home: (setattr(home, "data", "d2"), home.session("smoke").run("tiny")), "not made from the publ"),
    ],
    ids=["never run", "stale", "other data"],
)
def test_what_doesnt_hold_is_not_published(home, break_, why):
    break_(home)
    with pytest.raises(ChapterError, match=why):
        chapters.publish("smoke")
    assert not home.published.exists()


@pytest.fixture
def grown(home, monkeypatch):
    """Three toy stages that were published whole: ``first`` leaves a folder, ``old`` and ``new`` read its result."""
    home.bits = "one machine"
    monkeypatch.setattr(chapters, "publish_notebooks", lambda: [])

    def first(context):
        (context.folder / "policy").mkdir(exist_ok=True)
        return {"bits": home.bits}

    def old(context):
        return {"of": context.needs["first"].payload["bits"]}

    def new(context):
        return {"new": context.needs["first"].payload["bits"], "beside": context.needs["old"].payload["of"]}

    table = [Stage("first", first, lambda p: {"seed": p.seed}, leaves=("policy",)), Stage("old", old, lambda p: {}, ("first",))]
    home.new = Stage("new", new, lambda p: {}, ("first", "old"))
    monkeypatch.setattr(stages, "STAGES", {stage.name: stage for stage in table})
    home.session("smoke").run("old")
    assert chapters.publish("smoke") == ["first", "old"]
    shutil.rmtree(home.runs)
    return home


def test_a_part_that_was_run_later_joins_what_stays(grown, monkeypatch):
    grown.bits = "another machine"
    monkeypatch.setattr(stages, "STAGES", stages.STAGES | {"new": grown.new})
    assert grown.session("smoke").run("new").payload == {"new": "another machine", "beside": "one machine"}
    assert chapters.publish("smoke") == ["first", "new"]
    opened = grown.session("smoke")
    kept = opened.published.read("first")
    assert kept.payload == {"bits": "one machine"} and kept.remade[0]["digest"] == opened.runs.read("first").digest
    assert all(opened.state(name, opened.published).word == "fresh" for name in stages.STAGES)
    assert chapters.publish("smoke") == [], "the copy is noted once"


def test_after_a_whole_run_everything_is_replaced(grown):
    grown.bits = "another machine"
    opened = grown.session("smoke")
    for name in ("first", "old"):
        opened.runs_only = True
        opened.run(name)
    assert chapters.publish("smoke") == ["first", "old"]
    assert opened.published.read("old").payload == {"of": "another machine"} and not opened.published.read("first").remade


def test_what_would_no_longer_fit_is_told_before_notebooks_are_made(grown):
    grown.bits = "another machine"
    opened = grown.session("smoke")
    opened.run("first")
    stale = opened.published.read("first")
    opened.published.write(replace(stale, inputs=stale.inputs | {"settings": {"seed": 0}}))
    with pytest.raises(ChapterError, match="old is missing"):
        chapters.publish("smoke")


def test_a_fresh_stamp_has_no_problem(published):
    assert published.stamp() == []


def test_a_chapter_that_was_never_executed(published):
    assert chapters.check_stamps(published.folder) == ["01_a.ipynb does not exist; run: make publish"]


def test_a_stamp_over_another_result(published):
    assert published.stamp(results={"tiny": "0" * 16}) == [
        "01_a.ipynb shows another result of tiny than the published one"
    ]


def test_a_stamp_over_a_result_that_is_gone(published):
    published.stamp()
    shutil.rmtree(published.published)
    assert chapters.check_stamps(published.folder) == [
        "01_a.ipynb shows another result of tiny than the published one"
    ]


def test_a_stamp_over_a_stale_result(published, monkeypatch):
    published.stamp()
    monkeypatch.setattr(session.corpus, "manifest_digests", lambda: {"esconv": "d2"})
    (problem,) = chapters.check_stamps(published.folder)
    assert problem == "01_a.ipynb shows tiny, which is stale: the data is not what it was computed from"


def test_a_stamp_over_other_stages_than_the_source_reads(published):
    assert published.stamp(results={}) == [
        "01_a.ipynb was executed from other stages than its source reads; run: make publish"
    ]


def test_a_notebook_without_a_stamp(published):
    published.stamp()
    path = published.folder / "01_a.ipynb"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metadata": {}}))
    assert chapters.check_stamps(published.folder) == [
        "01_a.ipynb was executed from other stages than its source reads; run: make publish"
    ]
