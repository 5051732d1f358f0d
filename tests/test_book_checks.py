"""The checks of the built book and its notebooks: each rule passes a sound example and speaks up on a broken one."""

import hashlib
import re
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest

from decoupled_esc.workflow import book

sys.path.append(str(book.ROOT / "book" / "_ext"))
from mathml import to_mathml  # noqa: E402

# --- check_site ---

# In parts, because this file is itself searched for machine paths.
TMP, HOME, WORK = ("/" + name for name in ("tmp", "home", "work"))

PAGE = """<html>
<head><link rel="stylesheet" href="../_static/book.css"><link rel="canonical" href="https://example.org/"></head>
<body>
<p id="top">Read <a href="../book/other.html#there">on</a> or <a href="https://example.orgWORK/x">elsewhere</a>.</p>
<a href="../_sources/notebooks/01_a.ipynb">.ipynb</a>
<figure id="f"><img src="../_images/f.svg" alt="Two bars"><figcaption>Two bars.</figcaption></figure>
<div class="cell"></div><script>const ns = "http://www.w3.org/2000/svg";</script>
<table class="paper-table"><tr><td class="paper">1</td><td class="measured" data-verdict="exact">1</td></tr></table>
</body></html>""".replace("WORK", WORK)


@pytest.fixture
def site(tmp_path):
    """Writes a small sound site, `extra` added to its page and `files` beside it; returns check_site's answer."""

    def check(extra: str = "", replace: tuple[str, str] = ("", ""), files: dict[str, str] | None = None) -> list[str]:
        contents = {
            "notebooks/01_a.html": PAGE.replace(*replace).replace("</body>", extra + "</body>"),
            "book/other.html": '<p id="there">There.</p>',
            "index.html": '<meta http-equiv="Refresh" content="0; url=book/other.html">',
            "_sources/notebooks/01_a.ipynb": "{}",
            "_images/f.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
            "_static/book.css": "/* see https://example.org */ a { background: url(data:image/png;base64,AA); }",
            "_static/theme.js": "// https://example.org tells more\nfetch('searchindex.js');",
            "_static/layout.html": '<img src="{{ broken }}">',
        }
        for name, text in (contents | (files or {})).items():
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text(text, encoding="utf-8")
        return book.check_site(tmp_path)

    return check


def test_a_sound_site_has_no_problem(site):
    assert site() == []


def test_a_folder_without_pages_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        book.check_site(tmp_path)


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('<a href="gone.html">x</a>', "leads to no file (gone.html)"),
        ('<a href="../book/other.html#gone">x</a>', "leads to no anchor"),
        ('<a href="#gone">x</a>', "leads to no anchor (#gone)"),
        ('<a href="/index.html">x</a>', "leads to no file (/index.html)"),
        ('<a href="file:///" ' 'home/ann/x.html">x</a>', "points into a machine's file system"),
        ('<img src="gone.png" alt="A bar">', "leads to no file (gone.png)"),
        ('<meta http-equiv="refresh" content="0; url=gone.html">', "leads to no file (gone.html)"),
        ('<img src="../_images/f.svg">', "has no alternative text"),
        ('<img src="../_images/f.svg" alt=" ">', "has no alternative text"),
        ('<img src="../_images/f.svg" alt="../_images/f.svg">', "has no alternative text"),
        ('<svg role="img"></svg>', "has no alternative text"),
        ('<figure id="g"><img src="../_images/f.svg" alt="A bar"></figure>', '<figure id="g"> has no caption'),
        ("<figure><figcaption> </figcaption></figure>", "has no caption"),
        ('<div class="cell_output"><img src="../_images/f.svg" alt="A bar"></div>', "is shown without a caption"),
        ('<table class="paper-table"><td class="measured">7</td></table>', "“7” has no verdict"),
        ('<table class="paper-table"><td class="measured" data-verdict=" ">7</td></table>', "“7” has no verdict"),
        ("<p>Saved to /" "home/ann/out.</p>", "machine path /" "home/ann/out"),
        ("<p>Saved to /" "root/out.</p>", "machine path /" "root/out"),
        ("<p>Saved to /" "tmp/out.</p>", "machine path /" "tmp/out"),
        ("<pre>'/" "work/main/x.py'</pre>", "machine path /" "work/main/x.py"),
        (r"<p>Saved to C:\Users\ann.</p>", r"machine path C:\Users\ann"),
        (f"<p>Saved to {Path.cwd()}.</p>", str(Path.cwd())),
    ],
)
def test_a_broken_page_is_reported(site, extra, problem):
    problems = site(extra)
    assert any(text.startswith("notebooks/01_a.html: ") and problem in text for text in problems), problems


@pytest.mark.parametrize(
    "extra",
    [
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="//cdn.example.org/x.js"></script>',
        '<script>fetch("https://cdn.example.org/x.json")</script>',
        '<script>const U = "https://unpkg.com/thebe/lib/index.js"</script>',
        "<script>s.src = '//cdn.example.org/x.js'</script>",
        '<link rel="stylesheet" href="https://fonts.example.org/a.css">',
        '<link rel="preconnect" href="https://fonts.example.org">',
        '<img alt="A bar" src="https://example.org/a.png">',
        '<img alt="A bar" src="../_images/f.svg" srcset="../_images/f.svg 1x, https://example.org/a.png 2x">',
        '<iframe src="https://example.org"></iframe>',
        '<iframe srcdoc="&lt;script src=https://example.org/x.js&gt;&lt;/script&gt;"></iframe>',
        '<object data="https://example.org/a.pdf"></object>',
        '<video><source src="https://example.org/a.mp4"></video>',
        '<a href="#top" ping="https://example.org/seen">x</a>',
        '<button onclick="fetch(\'https://example.org\')">x</button>',
        '<form action="https://example.org/subscribe"></form>',
        '<p style="background: url(https://example.org/a.png)">x</p>',
        "<style>@import 'https://example.org/a.css';</style>",
        "<style>@font-face { src: url(//example.org/a.woff2) }</style>",
        '<svg><image xlink:href="https://example.org/a.png"/></svg>',
        '<meta http-equiv="refresh" content="0; url=https://example.org">',
    ],
)
def test_a_load_from_another_host_is_reported(site, extra):
    assert any("another host" in problem for problem in site(extra))


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("_static/book.css", "@import url(https://example.org/a.css);", "loads from another host"),
        ("_static/book.css", "a { background: url('gone.png') }", "loads a file that is missing"),
        ("_static/theme.js", 'fetch("https://example.org/x.json")', "loads from another host"),
        ("_static/theme.js", "tag.src = 'https://example.org/x.js'", "loads from another host"),
        ("_images/f.svg", '<svg><image href="https://example.org/a.png"/></svg>', "refers to https://example.org"),
    ],
)
def test_style_script_and_picture_files_are_searched(site, name, text, problem):
    assert any(found.startswith(f"{name}: ") and problem in found for found in site(files={name: text}))


def test_a_chapter_links_to_its_notebook(site):
    problems = site(replace=('<a href="../_sources/notebooks/01_a.ipynb">.ipynb</a>', ""))
    assert problems == ["notebooks/01_a.html: has no link to download its notebook 01_a.ipynb."]


# --- check_notebooks ---

SOURCE = """# %% [markdown]
# # A chapter

# %% tags=["parameters", "hide-input"]
profile = "smoke"

# %% tags=["hide-input"]
print(profile)
"""


@pytest.fixture
def chapter(tmp_path):
    """Writes a sound chapter, changed by `change(notebook)`; returns check_notebooks' answer."""

    def check(change=lambda notebook: None, source: str = SOURCE, **options) -> list[str]:
        path = tmp_path / "01_a.py"
        path.write_text(SOURCE)
        notebook = jupytext.read(path)
        for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
            cell.execution_count = number
        notebook.cells[2].outputs = [nbformat.v4.new_output("stream", text="smoke\n")]
        notebook.metadata["decoupled_esc"] = {"source_sha256": hashlib.sha256(SOURCE.encode()).hexdigest()}
        change(notebook)
        nbformat.write(notebook, tmp_path / "01_a.ipynb")
        path.write_text(source)
        return book.check_notebooks(tmp_path, **options)

    return check


def test_a_sound_chapter_has_no_problem(chapter):
    assert chapter() == []


def _set(cell: int, **fields):
    return lambda notebook: notebook.cells[cell].update(fields)


def _output(kind: str, **fields):
    return _set(2, outputs=[nbformat.v4.new_output(kind, **fields)])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (_set(2, execution_count=None), "code cell 2 has the execution count None"),
        (_set(2, execution_count=3), "code cell 2 has the execution count 3"),
        (_output("error", ename="KeyError", evalue="x", traceback=[]), "code cell 2 ended in KeyError"),
        (_output("stream", text=f"wrote {TMP}/x\n"), f"code cell 2 shows the machine path {TMP}/x"),
        (_output("display_data", data={"text/html": f"<b>{HOME}/ann</b>"}), f"machine path {HOME}/ann"),
        (_set(1, metadata={"tags": ["hide-input"]}), "the first code cell is not tagged `parameters`"),
        (_set(2, metadata={"tags": ["other"]}), "code cell 2 is not tagged `hide-input`"),
        (_set(2, source="print('edited')"), "cell 3 differs from its source 01_a.py"),
        (_set(0, cell_type="raw"), "cell 1 differs from its source 01_a.py"),
        (lambda notebook: notebook.cells.pop(), "cell 3 differs from its source 01_a.py"),
        (lambda notebook: notebook.metadata.pop("decoupled_esc"), "its stamp is not the SHA-256 of 01_a.py"),
    ],
)
def test_a_broken_chapter_is_reported(chapter, change, problem):
    assert any(problem in text for text in chapter(change))


def test_a_picture_holds_no_path_by_chance(chapter):
    assert chapter(_output("display_data", data={"image/png": f"AA{TMP}/AA", "text/plain": "<Figure>"})) == []


def test_a_source_edited_after_the_run_is_reported(chapter):
    comment = SOURCE + "# edited\n"
    assert any("stamp" in problem for problem in chapter(source=comment))
    assert not any("stamp" in problem for problem in chapter(source=comment, require_stamp=False))


def test_a_missing_source_or_chapter_is_reported(chapter, tmp_path):
    chapter()
    (tmp_path / "01_a.py").unlink()
    assert book.check_notebooks(tmp_path) == ["01_a.ipynb: its source 01_a.py is missing."]
    (tmp_path / "01_a.ipynb").unlink()
    assert "holds no chapter" in book.check_notebooks(tmp_path)[0]


# --- mathematics ---


def _flat(tex: str, display: bool = True) -> str:
    return re.sub(r' xmlns="[^"]*"', "", to_mathml(tex, display))


@pytest.mark.parametrize(
    ("tex", "parts"),
    [
        (r"\frac{a}{b}", ["<mfrac>"]),
        (r"\sum_{i=1}^{n} x_i", ["<munderover><mo>∑</mo>", "<msub><mi>x</mi><mi>i</mi></msub>"]),
        (r"\beta\log\sigma(x)", ["<mi>β</mi><mspace", "<mi>log</mi><mspace", "<mi>σ</mi><mo"]),
        (r"\mathbb{E}_{x\sim\mathcal{D}}", ["<mi>𝔼</mi>", "<mo>∼</mo><mi>𝒟</mi>"]),
        (r"\mathcal{L}_{\mathrm{DPO}} = -x", ["<mi>ℒ</mi>", "<mi>DPO</mi>", '<mo form="prefix">−</mo>']),
        (r"\pi_{\text{ref}}(y \mid x)", ["<mtext>ref</mtext>", "<mo>∣</mo>"]),
        (r"\begin{aligned} a &= b \\ &= c \end{aligned}", ["<mtable", 'columnalign="right"', "<mo>=</mo><mi>c</mi>"]),
        (r"\begin{align} a &= b \label{x} \\ c &= d \end{align}", ["<mtable"]),
        (r"a = b \\ c = d", ["<mtable"]),
        (r"\begin{cases} a & b \\ c & d \end{cases}", ["<mo stretchy=\"true\" fence=\"true\" form=\"prefix\">{"]),
        (r"\begin{gather*} a \\ b \end{gather*}", ["<mtable>"]),
        (r"\operatorname*{arg\,max}_{s} \max_y p", ["<munder><mo movablelimits=\"true\">arg", ">max</mo><mi>y</mi>"]),
        (r"\operatorname{softmax}(x)", ["<mi>softmax</mi>"]),
        (r"\mathbf{1}[a=b], \mathbb{1}", ["𝟏", "𝟙"]),
        (r"95\,\%\ \text{5\%\&}", ["<mi>%</mi>", "5%&amp;"]),
        (r"\left\{ \hat{y} \right\}", ["{", "}", "<mover"]),
    ],
)
def test_mathematics_becomes_mathml(tex, parts):
    rendered = _flat(tex)
    assert rendered.startswith('<math display="block">') and rendered.endswith("</math>")
    assert "\\" not in rendered and "&amp;#" not in rendered
    assert not [part for part in parts if part not in rendered], rendered


def test_running_text_gets_inline_mathematics():
    assert _flat("x", display=False) == '<math display="inline"><mrow><mi>x</mi></mrow></math>'


@pytest.mark.parametrize("tex", [r"\foo{x}", r"\frac{a}{", r"\left( a", r"a & b", r"\begin{tikz}a\end{tikz}",
                                 r"\operatorname*{softmax}_x"])
def test_what_cannot_be_translated_is_refused(tex):
    with pytest.raises(ValueError):
        to_mathml(tex, True)


# --- build_book ---


@pytest.fixture
def small_root(tmp_path):
    """A repository of one page and one chapter with this repository's configuration; returns (root, notebooks)."""
    root = tmp_path / "root"
    (root / "book").mkdir(parents=True)
    (root / "notebooks").mkdir()
    for part in ("_ext", "_static"):
        shutil.copytree(book.ROOT / "book" / part, root / "book" / part)
    (root / "_config.yml").write_text((book.ROOT / "_config.yml").read_text())
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/welcome\nchapters:\n- file: notebooks/01_a\n")
    (root / "book" / "references.bib").write_text("@misc{a, title={A}, author={A, B}, year={2025}}\n")
    (root / "book" / "welcome.md").write_text("# Welcome\n\n$$\nx = \\frac{1}{2}\n$$ (eq-x)\n\nBy {eq}`eq-x`.\n")
    source = root / "notebooks" / "01_a.py"
    source.write_text(SOURCE)
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, root / "notebooks" / "01_a.ipynb")
    return root, root / "notebooks"


def test_a_book_is_built_checked_and_rebuilt(small_root, tmp_path):
    root, notebooks = small_root
    index = book.build_book(notebooks, tmp_path / "out", root)
    assert book.check_site(index.parent) == []
    welcome = index.parent / "book" / "welcome.html"
    page, chapter = welcome.read_text(), index.parent / "notebooks" / "01_a.html"
    assert "<mfrac>" in page and 'href="#equation-eq-x"' in page and "(1)" in page
    written = chapter.stat().st_mtime_ns

    (root / "book" / "welcome.md").write_text("# Welcome back\n")
    book.build_book(notebooks, tmp_path / "out", root)
    assert "Welcome back" in welcome.read_text()
    assert chapter.stat().st_mtime_ns == written, "an unchanged chapter was read or written again"


def test_a_warning_fails_the_build_until_it_is_mended(small_root, tmp_path):
    root, notebooks = small_root
    sound = (root / "book" / "welcome.md").read_text()
    (root / "book" / "welcome.md").write_text("# Welcome\n\n[gone](gone.md) and $\\foo{x}$\n")
    for _ in range(2):  # the second build reads nothing new, and still must not pass
        with pytest.raises(book.BookError, match="gone.md") as error:
            book.build_book(notebooks, tmp_path / "out", root)
        assert "foo" in str(error.value) and "Traceback" not in str(error.value)
    (root / "book" / "welcome.md").write_text(sound)
    assert book.build_book(notebooks, tmp_path / "out", root).exists()


def test_a_folder_without_chapters_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        book.build_book(tmp_path, tmp_path / "out")
