"""Chapters: what a source reads, how it is executed and stamped, and which notebooks no longer hold."""

import hashlib
import subprocess
import sys
import time

import nbformat
import pytest

from decoupled_esc.publish.notebooks import (
    TEACHING_LINES,
    ChapterError,
    _teaches,
    check_notebooks,
    execute,
    parameters,
    steps_read,
)

CHAPTER = """# %% [markdown]
# # A chapter

# %% tags=["parameters", "hide-input"]
profile = "smoke"

# %% tags=["hide-input"]
if False:
    book["tiny"]
print(profile, {"a", "b"} == {"b", "a"})
"""
STAMPS = {"tiny": "d1"}
TMP, HOME = "/" + "tmp", "/" + "home"  # in parts, because this file is itself searched for machine paths


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "notebooks" / "01_a.py"
    path.parent.mkdir()
    path.write_text(CHAPTER, encoding="utf-8")
    return path


def test_what_a_source_reads_and_takes(source):
    reads = 'x = [book["b"], other["e"], book[0]]\nbook["a"].payload["f"]\nbook["b"]\nbook[f"{x}"]\n'
    source.write_text(f'# %%\n{reads}\n# %% tags=["parameters"]\nprofile = "laptop"\nn = -1\n')
    assert steps_read(source) == ["b", "a"]
    assert parameters(source) == {"profile": "laptop", "n": -1}


def test_a_chapter_is_executed_cleaned_stamped_and_the_same_again(source):
    target = execute(source, source.with_suffix(".ipynb"), None, STAMPS)
    first, made = target.read_bytes(), nbformat.read(target, as_version=4)
    assert sorted(path.name for path in source.parent.iterdir()) == ["01_a.ipynb", "01_a.py"]
    assert made.cells[-1].outputs[0].text == "smoke True\n"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert made.metadata["decoupled_esc"] == {"source_sha256": digest, "profile": "smoke", "results": STAMPS}
    assert "papermill" not in made.metadata and "version" not in made.metadata["language_info"]
    assert all(set(cell.metadata) <= {"tags"} for cell in made.cells)
    assert check_notebooks(source.parent) == []
    assert execute(source, target, "smoke", STAMPS).read_bytes() == first


def test_another_profile_is_injected_below_the_default_and_nothing_else_changes(source, tmp_path):
    made = nbformat.read(execute(source, tmp_path / "new" / "01_a.ipynb", "laptop", {}), as_version=4)
    assert [cell.get("execution_count") for cell in made.cells] == [None, 1, 2, 3]
    assert made.cells[2].source == '# Parameters\nprofile = "laptop"'
    assert made.cells[2].metadata == {"tags": ["injected-parameters", "hide-input"]}
    assert made.cells[2].id == "injected-parameters" and made.cells[-1].outputs[0].text == "laptop True\n"
    assert made.metadata["decoupled_esc"]["profile"] == "laptop"


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("# a word\nraise ValueError(f'no\\n  {profile}')", r"^01_a.py, cell 2 \(# a word raise .*ValueError: no smoke$"),
        ("import os\nos._exit(1)", "^01_a.py: its kernel died"),
    ],
)
def test_a_failing_chapter_is_named_in_one_line_and_leaves_what_was_there(source, code, why):
    source.write_text(CHAPTER.replace("if False:", f"{code}\nif False:"), encoding="utf-8")
    source.with_suffix(".ipynb").write_text("what was there")
    with pytest.raises(ChapterError, match=why):
        execute(source, source.with_suffix(".ipynb"), None, STAMPS)
    assert source.with_suffix(".ipynb").read_text() == "what was there"
    assert sorted(path.name for path in source.parent.iterdir()) == ["01_a.ipynb", "01_a.py"]


def test_a_kernel_ends_with_the_process_that_started_it(source, tmp_path):
    beat = tmp_path / "beat"
    loop = f"import pathlib, time\nwhile True:\n    pathlib.Path({str(beat)!r}).touch()\n    time.sleep(0.1)\n"
    source.write_text(CHAPTER.replace("if False:", f"{loop}if False:"), encoding="utf-8")
    code = f"from pathlib import Path; from decoupled_esc.publish.notebooks import execute; p = Path({str(source)!r})"
    parent = subprocess.Popen([sys.executable, "-c", f"{code}; execute(p, p.with_suffix('.ipynb'), None, {{}})"])
    while not beat.exists() and parent.poll() is None:
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    time.sleep(3)  # ipykernel looks for its parent every second
    last = beat.stat().st_mtime
    time.sleep(0.5)
    assert beat.stat().st_mtime == last


def _set(cell: int, **fields):
    return lambda notebook: notebook.cells[cell].update(fields)


def _output(kind: str, **fields):
    return _set(2, outputs=[nbformat.v4.new_output(kind, **fields)])


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    path = tmp_path_factory.mktemp("executed") / "01_a.py"
    path.write_text(CHAPTER, encoding="utf-8")
    return execute(path, path.with_suffix(".ipynb"), None, STAMPS)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set(2, execution_count=None), "code cell 2 has the execution count None"),
        (_set(2, execution_count=3), "code cell 2 has the execution count 3"),
        (_output("error", ename="KeyError", evalue="x", traceback=[]), "code cell 2 ended in KeyError"),
        (_output("stream", text=f"wrote {TMP}/x\n"), f"code cell 2 shows the machine path {TMP}/x"),
        (_output("display_data", data={"text/html": f"<b>{HOME}/ann</b>"}), f"machine path {HOME}/ann"),
        (_output("display_data", data={"image/png": f"AA{TMP}/AA", "text/plain": "<Figure>"}), None),  # by chance
        (_set(1, metadata={"tags": ["hide-input"]}), "the first code cell is not tagged `parameters`"),
        (_set(2, metadata={"tags": ["other"]}), "code cell 2 is not folded (`hide-input`), and no teaching cell"),
        (_set(2, source='figures.show("x", f)'), "code cell 2 shows a figure that is glued below, and is not tagged"),
        (_set(2, source="print('edited')"), "cell 3 differs from its source 01_a.py"),
        (_set(0, cell_type="raw"), "cell 1 differs from its source 01_a.py"),
        (lambda notebook: notebook.cells.pop(), "cell 3 differs from its source 01_a.py"),
        (lambda notebook: notebook.metadata.pop("decoupled_esc"), "its stamp is not that of 01_a.py"),
        (lambda notebook: notebook.metadata["decoupled_esc"].update(results={}), "its stamp is not that of 01_a.py"),
        (lambda notebook: notebook.metadata["decoupled_esc"].update(source_sha256="0"), "its stamp is not that of"),
    ],
)
def test_a_broken_chapter_is_reported(executed, source, change, problem):
    notebook = nbformat.read(executed, as_version=4)
    change(notebook)
    nbformat.write(notebook, source.with_suffix(".ipynb"))
    found = check_notebooks(source.parent)
    assert any(problem in text for text in found) if problem else found == []


def test_a_visible_cell_is_short_and_asserts():
    lines = ["x = 1"] * (TEACHING_LINES - 1)
    assert _teaches("\n\n".join([*lines, "assert x"]))
    assert not _teaches("\n".join([*lines, "x = 2", "assert x"])) and not _teaches("# assert nothing\nx = 1")


def test_a_missing_or_damaged_chapter_is_reported(source):
    assert "holds no chapter" in check_notebooks(source.parent)[0]
    for damaged in ("{", "[]", '{"cells": 3}'):
        source.with_suffix(".ipynb").write_text(damaged)
        assert check_notebooks(source.parent) == ["01_a.ipynb: is no notebook; execute it again."]
