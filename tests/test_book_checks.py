"""The book as a built site: each rule passes a sound example and speaks up on a broken one; nothing runs in it but ours."""

import posixpath
import re
import shutil
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import jupytext
import nbformat
import pandas as pd
import pytest
from justhtml import JustHTML
from lxml import etree

from decoupled_esc.experiments.replies import Replies, SystemReply
from decoupled_esc.pipeline import Missing
from decoupled_esc.present import explorers
from decoupled_esc.present.paper import load_tables
from decoupled_esc.present.rows import with_rows
from decoupled_esc.present.sliders import MOVE
from decoupled_esc.present.tables import compare, results_table
from decoupled_esc.present.trees import Explorer
from decoupled_esc.publish import epub
from decoupled_esc.publish import site as publish
from decoupled_esc.search.export import ExpandedNode, SearchTree

sys.path.append(str(publish.ROOT / "book" / "_ext"))
from mathml import to_mathml  # noqa: E402

# In parts, because this file is itself searched for machine paths.
HOME, ROOT, WORK = ("/" + name for name in ("home", "root", "work"))
THEME = "<script src=\"STATICtheme.js?v=1\"></script><script>OPTIONS.pagename = 'NAME'</script>"

PAGE = """<!doctype html><html>
<head><link rel="stylesheet" href="../_static/book.css"><link rel="canonical" href="https://example.org/">THEME</head>
<body>
<p id="top">Read <a href="../book/other.html#there">on</a> or <a href="https://example.orgWORK/x">elsewhere</a>.</p>
<a href="../_sources/notebooks/01_a.ipynb">.ipynb</a><button onclick="window.print()">Print</button>
<figure id="f"><img src="../_images/f.svg" alt="Two bars"><figcaption>Two bars.</figcaption></figure>
<div class="cell"><div class="cell_output"><div class="frames"><input oninput="MOVE"></div></div></div>
<table class="paper-table"><tr><td class="paper">1</td><td class="measured" data-verdict="exact">1</td></tr></table>
</body></html>""".replace("WORK", WORK).replace("MOVE", MOVE)


def theme(static: str, name: str) -> str:
    return THEME.replace("STATIC", static).replace("NAME", name)


@pytest.fixture
def site(tmp_path):
    """Writes a small sound site, `extra` added to its page and `files` beside it; returns check_site's answer."""

    def check(extra: str = "", replace: tuple[str, str] = ("", ""), files: dict[str, str] | None = None) -> list[str]:
        page = PAGE.replace("THEME", theme("../_static/", "notebooks/01_a"))
        contents = {
            "notebooks/01_a.html": page.replace(*replace).replace("</body>", extra + "</body>"),
            "book/other.html": '<p id="there">There.</p>',
            "index.html": '<meta http-equiv="Refresh" content="0; url=book/other.html">',
            "genindex.html": theme("_static/", "genindex"),
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
        return publish.check_site(tmp_path)

    return check


def test_a_sound_site_has_no_problem(site):
    assert site() == []


def test_a_folder_without_pages_or_chapters_is_an_error(tmp_path):
    with pytest.raises(publish.BookError, match="no page"):
        publish.check_site(tmp_path)
    with pytest.raises(publish.BookError, match="no chapter"):
        publish.build_book(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ('<a href="gone.html">x</a>', "leads to no file (gone.html)"),
        ('<a href="../book/other.html#gone">x</a>', "leads to no anchor"),
        ('<a href="#gone">x</a>', "leads to no anchor (#gone)"),
        ('<a href="/index.html">x</a>', "leads to no file (/index.html)"),
        (f'<a href="file://{HOME}/ann/x.html">x</a>', "may not have such an address"),
        ('<img src="gone.png" alt="A bar">', "leads to no file (gone.png)"),
        ('<meta http-equiv="refresh" content="0; url=gone.html">', "leads to no file (gone.html)"),
        ("<p style='background: url(gone.png)'>x</p>", "leads to no file (gone.png)"),
        ("<p>left <b>open</p></i>", "is not sound HTML"),
        ('<img src="../_images/f.svg">', "has no alternative text"),
        ('<img src="../_images/f.svg" alt=" ">', "has no alternative text"),
        ('<img src="../_images/f.svg" alt="../_images/f.svg">', "has no alternative text"),
        ('<svg role="img"></svg>', "has no alternative text"),
        ('<figure id="g"><img src="../_images/f.svg" alt="A bar"></figure>', '<figure id="g"> has no caption'),
        ("<figure><figcaption> </figcaption></figure>", "has no caption"),
        ('<div class="cell_output"><img src="../_images/f.svg" alt="A bar"></div>', "is shown without a caption"),
        ('<table class="paper-table"><tr><td class="measured">7</td></tr></table>', "“7” has no verdict"),
        ('<table class="paper-table"><tr><td class="measured" data-verdict=" ">7</td></table>', "“7” has no verdict"),
        ('<link rel="stylesheet" href="https://fonts.example.org/a.css">', "another host"),
        ('<link rel="preconnect" href="https://fonts.example.org">', "another host"),
        ('<img alt="A bar" src="https://example.org/a.png">', "another host"),
        (
            '<img alt="A bar" src="../_images/f.svg" srcset="../_images/f.svg 1x, https://example.org/a.png 2x">',
            "another host",
        ),
        ('<video><source src="//example.org/a.mp4"></video>', "another host"),
        ('<a href="#top" ping="https://example.org/seen">x</a>', "another host"),
        ('<form action="https://example.org/subscribe"></form>', "another host"),
        ('<p style="background: url(https://example.org/a.png)">x</p>', "another host"),
        ("<style>@import 'https://example.org/a.css';</style>", "another host"),
        ("<style>@font-face { src: url(//example.org/a.woff2) }</style>", "another host"),
        ('<svg><image xlink:href="https://example.org/a.png"/></svg>', "another host"),
        ('<svg><rect fill="url(https://example.org/a.svg#b)"/></svg>', "another host"),
        ('<meta http-equiv="refresh" content="0; url=https://example.org">', "another host"),
        (f"<p>Saved to {HOME}/ann/out.</p>", f"machine path {HOME}/ann/out"),
        (f"<p>Saved to {ROOT}/out.</p>", f"machine path {ROOT}/out"),
        (f"<pre>'{WORK}/main/x.py'</pre>", f"machine path {WORK}/main/x.py"),
        (r"<p>Saved to C:\Users\ann.</p>", r"machine path C:\Users\ann"),
        (f"<p>Saved to {Path.cwd()}.</p>", str(Path.cwd())),
    ],
)
def test_a_broken_page_is_reported(site, extra, problem):
    problems = site(extra)
    assert any(text.startswith("notebooks/01_a.html: ") and problem in text for text in problems), problems


@pytest.mark.parametrize("place", ["{}", '<div class="cell_output">{}</div>'], ids=["prose", "output"])
@pytest.mark.parametrize(
    "extra",
    [
        "<script>alert(1)</script>",
        '<script src="https://cdn.example.org/x.js"></script>',
        '<script src="../_static/other.js"></script>',
        "<SCRIPT>OPTIONS.pagename = 'other'</SCRIPT>",
        "<svg><script>alert(1)</script></svg>",
        '<img src="../_images/f.svg" alt="A bar" onerror="alert(1)">',
        f'<p onclick="{MOVE};alert(1)">x</p>',
        '<a href="javascript:alert(1)">x</a>',
        '<a href=" java&#9;script:alert(1)">x</a>',
        '<a href="data:text/html,<script>alert(1)</script>">x</a>',
        '<iframe srcdoc="&lt;script src=x.js&gt;&lt;/script&gt;"></iframe>',
        '<object data="../_images/f.svg"></object>',
        '<svg><a><animate attributeName="href" to="javascript:alert(1)"/></a></svg>',
        '<base href="../_static/">',
    ],
)
def test_a_script_that_is_not_ours_is_reported(site, extra, place):
    words = "not one of the book's scripts", "not the book's", "may bring a script", "may not have such an address"
    problems = site(place.format(extra))
    assert any(word in problem for problem in problems for word in words), problems


def test_an_output_may_not_hold_even_the_themes_scripts(site):
    assert site(theme("../_static/", "notebooks/01_a")) == []
    assert site(f'<div class="cell_output">{theme("../_static/", "notebooks/01_a")}</div>')


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("_static/book.css", "@import url(https://example.org/a.css);", "loads from another host"),
        ("_static/book.css", "a { background: url('gone.png') }", "a file that is missing"),
        ("_static/theme.js", 'fetch("https://example.org/x.json")', "loads from another host"),
        ("_static/theme.js", "tag.src = 'https://example.org/x.js'", "loads from another host"),
        ("_images/f.svg", '<svg><image href="https://example.org/a.png"/></svg>', "loads from another host"),
    ],
)
def test_style_script_and_picture_files_are_searched(site, name, text, problem):
    assert any(found.startswith(f"{name}: ") and problem in found for found in site(files={name: text}))


def test_a_chapter_links_to_its_notebook(site):
    problems = site(replace=('<a href="../_sources/notebooks/01_a.ipynb">.ipynb</a>', ""))
    assert problems == ["notebooks/01_a.html: has no link to download its notebook 01_a.ipynb."]


# --- What models and people wrote is text ---

SCRIPT, IMAGE = "<script>alert(1)</script>", "<img src=x onerror=alert(1)>"


def shown() -> dict[str, str]:
    """Every way in which text of others reaches a page, given markup."""
    frame = pd.DataFrame({IMAGE: [SCRIPT, [IMAGE]], SCRIPT: [1.5, 2]}, index=pd.Index([SCRIPT, IMAGE], name=IMAGE))
    tree = SearchTree(IMAGE, 1, None, tuple(ExpandedNode(id, SCRIPT, 1.0, 0.0, None, 1, False, False, IMAGE, SCRIPT, IMAGE) for id in ("r", "r.0", "r.0.0")))
    table = next(table for table in load_tables().values() if table.kind == "numbers")
    compared = compare(table, Missing(SCRIPT), profile=IMAGE, n=SCRIPT, note=IMAGE)
    tables = {"frame": results_table(frame, SCRIPT), "numbers": results_table(frame, IMAGE, "{:.1f}"), "compared": compared}
    replies = Replies(1, 0, 0, 0, (SystemReply("a/0/1", None, SCRIPT + IMAGE, 1, True),))
    views = {"trees": Explorer([tree]), "replies": explorers.replies({IMAGE: replies}, "0")}
    return {name: one._repr_html_() for name, one in (tables | views).items()}


@pytest.mark.parametrize("kind", ["frame", "numbers", "compared", "trees", "replies"])
def test_text_is_never_markup(site, kind):
    html = shown()[kind]
    assert "&lt;script&gt;alert(1)" in html and "&lt;img src=x" in html
    assert "<script" not in html and "<img" not in html
    assert site(f'<div class="cell_output">{html}</div>') == []


# --- What axe-core reports of others' markup ---


def test_headers_without_a_word_are_cells_and_roles_are_mended(tmp_path):
    page = tmp_path / "a" / "page.html"
    page.parent.mkdir()
    page.write_text(
        '<div id="pst-primary-sidebar" class="b"></div><div role="list" class="citation-list"><div class="citation" role="doc-biblioentry">'
        '<table><tr><th class="blank level0" >&nbsp;</th><th scope="col"></th><th scope="col">a</th><th>\n</th></tr></table>'
    )
    publish.make_accessible(tmp_path)
    assert page.read_text() == (
        '<div id="pst-primary-sidebar" role="navigation" aria-label="Book" class="b"></div><div class="citation-list"><div class="citation">'
        '<table><tr><td class="blank level0" ></td><td></td><th scope="col">a</th><td></td></tr></table>'
    )


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
        (r"\begin{cases} a & b \\ c & d \end{cases}", ['<mo stretchy="true" fence="true" form="prefix">{']),
        (r"\begin{gather*} a \\ b \end{gather*}", ["<mtable>"]),
        (r"\operatorname*{arg\,max}_{s} \max_y p", ['<munder><mo movablelimits="true">arg', ">max</mo><mi>y</mi>"]),
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


@pytest.mark.parametrize(
    "tex", [r"\foo{x}", r"\frac{a}{", r"\left( a", r"a & b", r"\begin{tikz}a\end{tikz}", r"\operatorname*{softmax}_x"]
)
def test_what_cannot_be_translated_is_refused(tex):
    with pytest.raises(ValueError):
        to_mathml(tex, True)


# --- build_book ---

EXERCISES = "".join(
    f"\n```{{exercise}} read\n:label: ex-{n}\n\nWhy?\n```\n\n```{{solution}} ex-{n}\n:class: dropdown\n\nSo.\n```\n" for n in "ab"
)


def test_a_book_is_built_strictly_and_sound(tmp_path):
    root = tmp_path / "root"
    for part in ("_ext", "_static"):
        shutil.copytree(publish.ROOT / "book" / part, root / "book" / part)
    (root / "notebooks").mkdir()
    (root / "_config.yml").write_text((publish.ROOT / "_config.yml").read_text())
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/welcome\nchapters:\n- file: notebooks/01_a\n")
    (root / "book" / "references.bib").write_text("@misc{a, title={A}, author={A, B}, year={2025}}\n")
    welcome = root / "book" / "welcome.md"
    welcome.write_text("# Welcome\n\n$$\nx = \\frac{1}{2}\n$$ (eq-x)\n\nBy {eq}`eq-x`.\n" + EXERCISES)
    figure = "# ```{glue:figure} fig_scores\n# :name: fig-scores\n# :alt: Two scores.\n#\n# Two scores.\n# ```\n"
    cells = '# %% tags=["hide-input", "remove-output"]\n0\n\n# %% tags=["hide-input"]\n1\n'
    notebook = jupytext.reads(f"# %% [markdown]\n# # A\n#\n{figure}\n{cells}", "py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    html = {"text/html": f"{SCRIPT}<p>7</p>"}
    rows = with_rows("table-a", "<table><tr><td>7</td></tr></table>", pd.DataFrame({"a": [7]}))
    shown = {"image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg"/>', "text/csv": "x,y\n1,2\n"}
    glued = {"scrapbook": {"name": "fig_scores", "mime_prefix": ""}}
    notebook.cells[1].outputs = [nbformat.v4.new_output("display_data", data=shown, metadata=glued)]
    table = nbformat.v4.new_output("display_data", data={"text/html": rows, "text/csv": "a\n7\n"})
    for path, outputs in ((root, [table]), (tmp_path, [table, nbformat.v4.new_output("display_data", data=html)])):
        notebook.cells[2].outputs = outputs
        (path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(notebook, path / "notebooks" / "01_a.ipynb")

    index = publish.build_book(root / "notebooks", tmp_path / "out", root)
    assert publish.check_site(index.parent) == []
    page = (index.parent / "book" / "welcome.html").read_text()
    assert "<mfrac>" in page and 'href="#equation-eq-x"' in page and "(1)" in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert {"ex-a", "ex-b"} <= set(ids) and len(ids) == len(set(ids)) and page.count("solution dropdown") == 2
    static = index.parent / "_static"
    chapter = (index.parent / "notebooks" / "01_a.html").read_text()
    for name, rows in (("fig-scores", "x,y\n1,2\n"), ("table-a", "a\n7\n")):
        assert f'href="#{name}"' in chapter and (static / "data" / f"01_a-{name}.csv").read_text() == rows
        assert chapter.count(f'href="../_static/data/01_a-{name}.') == 2
    assert "fa-magnifying-glass" in page and "fontawesome.js" not in page and not list(static.rglob("fontawesome.js"))
    (style,) = static.rglob("pydata-sphinx-theme.css")
    assert ".fa-magnifying-glass:before" in style.read_text() and ".fa-anchor:before" not in style.read_text()
    assert [path.name for path in static.rglob("webfonts/*")] == ["icons.woff"]  # a dozen signs
    loaded = {(index.parent / "book" / re.split("[?#]", url)[0]).resolve() for url in re.findall(r'(?:src|href)="([^"]+\.(?:js|css)[^"]*)"', page)}
    assert sum(path.stat().st_size for path in loaded) < 800e3

    book = publish.build_file("epub", root / "notebooks", tmp_path / "epub", root)
    with zipfile.ZipFile(book) as pages:
        assert pages.namelist()[0] == "mimetype" and pages.getinfo("mimetype").compress_type == zipfile.ZIP_STORED
        shown = {name: ElementTree.fromstring(pages.read(name)) for name in pages.namelist() if name.endswith((".xhtml", ".opf"))}
        kept = set(pages.namelist())
    page, package = shown["book/welcome.xhtml"], shown["content.opf"]
    assert page.find(".//{*}mfrac") is not None and {"notebooks/01_a.xhtml", "nav.xhtml"} <= shown.keys()
    items = {one.get("id"): one for one in package.iterfind(".//{*}item")}
    assert {one.get("href") for one in items.values()} == {name for name in kept if not name.startswith(("META-INF", "mimetype", "content.opf"))}
    assert [items[one.get("idref")].get("href") for one in package.iterfind(".//{*}itemref")][:2] == ["book/welcome.xhtml", "notebooks/01_a.xhtml"]
    assert {one.get("href"): one.get("properties") for one in items.values()}["book/welcome.xhtml"] == "mathml"
    assert [one.get("href") for one in shown["nav.xhtml"].iterfind(".//{*}a")] == ["book/welcome.xhtml", "notebooks/01_a.xhtml"]
    for name in shown.keys() - {"content.opf"}:  # every link leads to a file of the book
        for one in [*shown[name].iterfind(".//{*}link"), *shown[name].iterfind(".//{*}a")]:
            path = (one.get("href") or "").partition("#")[0]
            assert not path or ":" in path or posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) in kept, (name, path)

    welcome.write_text("# Welcome back\n")
    publish.build_book(tmp_path / "notebooks", tmp_path / "out", root)
    assert "Welcome back" in (index.parent / "book" / "welcome.html").read_text()
    assert any("not one of the book's scripts (alert(1))" in problem for problem in publish.check_site(index.parent))

    welcome.write_text("# Welcome\n\n[gone](gone.md) and $\\foo{x}$\n")
    with pytest.raises(publish.BookError, match="gone.md") as error:
        publish.build_book(root / "notebooks", tmp_path / "out", root)
    assert "foo" in str(error.value) and "Traceback" not in str(error.value)


def test_a_page_that_is_html_becomes_one_that_is_xml():
    page = epub.as_xhtml(
        '<html><body>a<style>b { c: d }</style>&nbsp;e<br><svg viewBox="0 0 1 1"><use xlink:href="#g"/></svg>'
        '<details><summary><p>f</p><p class="expanded">j</p></summary></details><div id="table-x">h</div><div id="table-x">i</div><input disabled></body></html>'
    )
    xml = etree.tostring(page).decode()
    assert ElementTree.fromstring(xml) is not None and "a&#160;e<br/>" in xml and "<head><style>b { c: d }</style></head>" in xml
    assert '<summary><span>f</span></summary>' in xml and '<div id="table-x-2">i</div>' in xml and 'viewBox="0 0 1 1"' in xml
    assert '="#g"' in xml and '<input disabled=""/>' in xml


def test_a_pdf_without_chromium_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(publish.BookError, match="printed by Chromium"):
        publish.build_file("pdf", tmp_path, tmp_path)


def test_a_word_of_the_glossary_explains_itself_where_it_is_used(tmp_path):
    (tmp_path / "book").mkdir()
    long = "far " * 200
    (tmp_path / "book" / "glossary.html").write_text(
        '<dl class="simple glossary"><dt id="term-one">one</dt><dt id="term-uno">uno</dt><dd><p>a <em>b</em>, &lt;c&gt;</p></dd>'
        f'<dt id="term-long">long</dt><dd><p>{long}</p></dd></dl><a class="reference internal" href="#term-one">one</a>'
    )
    link = '<a class="reference internal" href="../book/glossary.html#term-{0}"><span>{0}</span></a>'
    page = tmp_path / "page.html"
    page.write_text("<p>" + " ".join(link.format(word) for word in ("uno", "long", "unknown")) + "</p>")
    publish.explain_terms(tmp_path)
    made = JustHTML(page.read_text(), sanitize=False)
    cards = {card.attrs["id"]: card.to_text(separator="") for card in made.query(".term-card")}
    first, second = (cards[made_link.attrs["aria-describedby"]] for made_link in made.query("a[aria-describedby]"))
    assert first == "a b, <c>" and second.startswith("far far") and second.endswith("…") and len(second) < 320
    assert made.query("a")[2].to_text() == "unknown" and len(cards) == 2
    assert "term-card" not in (tmp_path / "book" / "glossary.html").read_text()
