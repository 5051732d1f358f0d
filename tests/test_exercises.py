"""The exercises of chapters 01 to 15: three in each, and every solution's code runs and prints what it says."""

import re

import jupytext
import pytest

from decoupled_esc.publish.notebooks import sources

CHAPTERS = [source for source in sources() if 1 <= int(source.name[:2]) <= 15]
DIRECTIVE = re.compile(r"^````\{(exercise|solution)\} (\S+)\n(.*?)^````$", re.M | re.S)
PRINTED = re.compile(r"^(?:\s*print\(.*\)  )?# (.*)$", re.M)


def directives(source):
    """(kind, argument, body) of each exercise and solution of a chapter, in order."""
    text = "\n\n".join(cell.source for cell in jupytext.read(source).cells if cell.cell_type == "markdown")
    return DIRECTIVE.findall(text)


def blocks(text):
    """The Python code in a directive's body, block by block."""
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


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
