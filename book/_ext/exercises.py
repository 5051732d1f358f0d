"""Sphinx extension: an anchor stands once in a page.

sphinx-exercise names the body of every exercise `exercise-content`, and of every solution `solution-content`; nothing
leads there, so the names are taken away.
"""

from docutils import nodes


def unname(app, doctree: nodes.document, docname: str) -> None:
    for section in doctree.findall(nodes.section):
        if section["ids"] in (["exercise-content"], ["solution-content"]):
            section["ids"] = []


def setup(app) -> dict:
    app.connect("doctree-resolved", unname)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
