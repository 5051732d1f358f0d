"""The exercises of chapters 01 to 15: three in each, every solution's code prints what it says, and profiles are sound."""

import re

import jupytext
import pytest

from decoupled_esc.experiments import book, inputs, profiles
from decoupled_esc.publish.notebooks import sources

CHAPTERS = [source for source in sources() if 1 <= int(source.name[:2]) <= 15]
DIRECTIVE = re.compile(r"^````\{(exercise|solution)\} (\S+)\n(.*?)^````$", re.M | re.S)
PRINTED = re.compile(r"^(?:\s*print\(.*\)  )?# (.*)$", re.M)


def directives(source):
    """(kind, argument, body) of each exercise and solution of a chapter, in order."""
    text = "\n\n".join(cell.source for cell in jupytext.read(source).cells if cell.cell_type == "markdown")
    return DIRECTIVE.findall(text)


def blocks(text, language="python"):
    """The code in a directive's body, block by block."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda source: source.stem)
def test_three_graded_exercises_with_folded_solutions(source):
    found = directives(source)
    labels = [f"ex-{source.name[:2]}-{grade}" for grade in ("read", "compute", "change")]
    assert [(kind, argument) for kind, argument, _ in found[::2]] == [
        ("exercise", grade) for grade in ("read", "compute", "change")
    ]
    assert [re.search(":label: (.*)", body)[1] for _, _, body in found[::2]] == labels
    assert [(kind, argument) for kind, argument, _ in found[1::2]] == [("solution", label) for label in labels]
    assert all(body.startswith(":class: dropdown\n") for _, _, body in found[1::2])
    assert blocks(found[2][2]), "a compute exercise brings the cell to start from"
    assert blocks(found[3][2]), "and its solution is code"


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda source: source.stem)
def test_solutions_print_what_they_say(source, capsys):
    """In the order of the page and in one namespace, as a reader would run them; what is printed stands behind `print`."""
    namespace, said = {}, []
    for _, _, body in directives(source):
        for code in blocks(body):
            exec(compile(code, source.name, "exec"), namespace)
            said += PRINTED.findall(code)
    assert said and capsys.readouterr().out.splitlines() == said


def test_the_profile_of_an_exercise_changes_the_step_that_it_runs(tmp_path, monkeypatch):
    run = re.compile("decoupled-esc run --profile mine ([a-z-]+)")
    found = [(run.search(body)[1], body) for source in CHAPTERS for _, _, body in directives(source) if run.search(body)]
    assert found
    (tmp_path / "smoke.yaml").write_bytes((profiles.FOLDER / "smoke.yaml").read_bytes())
    monkeypatch.setattr(profiles, "FOLDER", tmp_path)
    for step, body in found:
        (own,) = blocks(body, "yaml")
        (tmp_path / "mine.yaml").write_text(own)
        mine, smoke = (book.steps(profiles.load_profile(name), inputs.as_published()) for name in ("mine", "smoke"))
        assert mine[step].key != smoke[step].key
