"""The book as a built site: building it, and checking what was built.

`justhtml` parses and validates pages by the HTML5 algorithm, so that we see what a browser sees. The rules here are those
that no linter knows: nothing comes from another host, no script but the theme's and ours, verdicts, captions.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import unquote, urlsplit

from justhtml import Element, JustHTML

from decoupled_esc.errors import KnownError
from decoupled_esc.processes import ends_with_parent

ROOT = Path(__file__).parents[3]
CHAPTERS = "[0-9][0-9]_*.ipynb"


class BookError(KnownError, RuntimeError):
    """The book could not be built or checked; the message holds Sphinx's warnings, or says what is missing."""


def build_book(notebooks: Path, target: Path, root: Path = ROOT) -> Path:
    """Builds the book from `root`'s pages and the executed chapters in `notebooks`; returns its index.html.

    `target/source/` is what Sphinx reads, `target/_build/html/` the book; both are made anew, because Sphinx reports a page's
    warnings only while it reads that page. Raises BookError on any warning, and where `notebooks` holds no chapter.
    """
    from decoupled_esc.publish.downloads import add_downloads  # here: drawing is slow to import

    html = _sphinx("html", notebooks, target, root)
    slim(html)
    explain_terms(html)
    make_accessible(html)
    add_downloads(html, sorted(Path(notebooks).glob(CHAPTERS)))
    return html / "index.html"


def build_file(kind: str, notebooks: Path, target: Path, root: Path = ROOT) -> Path:
    """The whole book as one file, `kind` "epub" or "pdf", made from what `build_book` reads; returns it.

    A PDF is the book as one page, printed by Chromium. Raises BookError as `build_book` does, and where there is no Chromium.
    """
    if kind == "epub":
        from decoupled_esc.publish import epub  # here, as above

        (book,) = (folder := _sphinx("epub", notebooks, target, root)).glob("*.epub")
        epub.mend(book, folder)
        return book
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise BookError("a PDF is printed by Chromium, and there is none on the path; install it, or build the EPUB")
    pages = _sphinx("singlehtml", notebooks, target, root)
    start = re.search('url=([^"]+)"', (pages / "index.html").read_text(encoding="utf-8"))
    page = shutil.copyfile(pages / start[1], pages / "book.html")  # its addresses are those of a page beside _static
    book = pages.parent / "decoupled-esc.pdf"
    command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={book}", "--virtual-time-budget=60000", page.resolve().as_uri()]
    run = subprocess.run(
        command, capture_output=True, text=True, check=False, preexec_fn=ends_with_parent(signal.SIGKILL)
    )
    if run.returncode or not book.exists():
        raise BookError(f"Chromium printed no PDF: {run.stderr.strip()[-300:]}")
    return book


def _sphinx(builder: str, notebooks: Path, target: Path, root: Path) -> Path:
    """What a Sphinx builder makes of the book: its folder, made anew."""
    chapters = sorted(Path(notebooks).glob(CHAPTERS))
    if not chapters:
        raise BookError(f"no chapter ({CHAPTERS}) in {notebooks}")
    source, build = Path(target) / "source", Path(target) / "_build"
    shutil.rmtree(source, ignore_errors=True)
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(root / "book", source / "book", ignore=shutil.ignore_patterns("__pycache__"))
    (source / "notebooks").mkdir()
    for path in [root / "_config.yml", root / "_toc.yml", *chapters]:
        shutil.copyfile(path, source / ("notebooks" if path in chapters else ".") / path.name)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    command += ["--path-output", str(target), "-W", "-n", "--keep-going", "-q"]
    command += [] if builder == "html" else ["--builder", "custom", "--custom-builder", builder]
    options = {"env": os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, "preexec_fn": ends_with_parent(signal.SIGKILL)}
    run = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if run.returncode:
        report = re.sub(r"\x1b\[[0-9;]*m", "", run.stderr or run.stdout)
        raise BookError(report.split("Traceback (most recent call last)")[0].strip() or report)
    return build / builder


ICON_RULE = re.compile(r'((?:\.fa-[\w-]+:before,?)+)\{content:"\\?([^"]+)"\}')
ICON_FACE = re.compile(r"@font-face\{[^}]*?fa-(solid|regular|brands)-[^}]*\}")
ICON_SCRIPT = re.compile(r"<script[^>]*fontawesome\.js[^>]*></script>|<link[^>]*fontawesome\.js[^>]*>")


def slim(html: Path) -> None:
    """Takes the theme's icons out of the site but for those that it shows: a script of 1.5 MB, and most of its styles and fonts.

    The theme brings the icons twice, as a script that draws them and as a font; the font, cut down, does alone.
    """
    from fontTools import subset

    static = html / "_static"
    styles = sorted(static.rglob("*.css"))
    pages = [path for path in html.rglob("*.html") if static not in path.parents]
    shown = {"fa-xmark"}  # a script of the theme's shows it
    for path in pages:
        text = path.read_text(encoding="utf-8")
        shown.update(re.findall(r"\bfa-[a-z-]+", text))
        path.write_text(ICON_SCRIPT.sub("", text), encoding="utf-8")
    signs: set[int] = set()

    def kept(rule: re.Match) -> str:
        if not shown & set(re.findall(r"fa-[\w-]+", rule[1])):
            return ""
        signs.add(int(rule[2], 16) if len(rule[2]) > 1 else ord(rule[2]))
        return rule[0]

    for path in styles:
        css = ICON_RULE.sub(kept, path.read_text(encoding="utf-8"))
        signs.update(ord(sign) for sign in css if "\ue000" <= sign <= "\uf8ff")
        signs.update(int(code, 16) for code in re.findall(r'content:\s*"\\(f[0-9a-f]{3})"', css))
        face = '@font-face{font-family:"Font Awesome 6 Free";font-weight:900;src:url(../vendor/fontawesome/webfonts/icons.woff) format("woff")}'
        path.write_text(ICON_FACE.sub(lambda found: face if found[1] == "solid" else "", css), encoding="utf-8")
    for fonts in static.rglob("webfonts"):
        options = subset.Options(flavor="woff")
        font = subset.load_font(fonts / "fa-solid-900.ttf", options)
        cut = subset.Subsetter(options)
        cut.populate(unicodes=signs)
        cut.subset(font)
        subset.save_font(font, fonts / "icons.woff", options)
        for path in fonts.glob("fa-*"):
            path.unlink()
    for path in {*static.rglob("*.map"), *static.rglob("fontawesome.js*")}:
        path.unlink()


TERM_LINK = re.compile(r'<a class="reference internal" href="(?:[\w./-]*glossary\.html)?#(term-[^"]+)">(.*?)</a>', re.S)


def explain_terms(html: Path) -> None:
    """Gives every link to a word of the glossary its meaning as a card, shown where the link is pointed at or has the focus.

    A card is text beside the link and a matter of style alone: no script, nothing that a keyboard can't reach.
    """
    page = html / "book" / "glossary.html"
    if not page.exists():
        return
    meanings, waiting = {}, []
    for element in JustHTML(page.read_text(encoding="utf-8"), sanitize=False).query("dl.glossary > *"):
        if element.name == "dt":
            waiting.append(_get(element, "id"))
        else:
            text = " ".join(element.to_text(separator="", strip=False).split())
            meanings |= dict.fromkeys(waiting, text if len(text) < 320 else text[:300].rsplit(" ", 1)[0] + " …")
            waiting = []
    for path in html.rglob("*.html"):
        text, number = path.read_text(encoding="utf-8"), itertools.count(1)

        def card(link: re.Match) -> str:
            if link[1] not in meanings or path == page:
                return link[0]
            name = f"card-{next(number)}"
            opened = link[0].replace("<a ", f'<a aria-describedby="{name}" ', 1)
            return f'<span class="term">{opened}<span class="term-card" role="tooltip" id="{name}">{escape(meanings[link[1]])}</span></span>'

        made = TERM_LINK.sub(card, text)
        if made != text:
            path.write_text(made, encoding="utf-8")


EMPTY_HEAD = re.compile(r"<th\b([^>]*)>(?:&nbsp;|\s)*</th>")
ROLES = {
    '<div id="pst-primary-sidebar"': '<div id="pst-primary-sidebar" role="navigation" aria-label="Book"',
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    ' role="doc-biblioentry"': "",
}
"""What the theme and docutils write -> what stands here: the sidebar is a landmark, and no role is a deprecated one."""


def make_accessible(html: Path) -> None:
    """Mends what axe-core reports of markup by the theme, docutils and pandas: `ROLES`, and headers without a word."""
    for path in html.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for theirs, ours in ROLES.items():
            text = text.replace(theirs, ours)
        text = EMPTY_HEAD.sub(lambda head: f"<td{re.sub(r' scope=.[a-z]+.', '', head[1])}></td>", text)
        path.write_text(text, encoding="utf-8")


# --- The built site ---

FOREIGN = re.compile(r"(?i)(?:(?:https?|wss?|ftp):)?[/\\]{2}")
WORDS = {"title", "alt", "value", "placeholder", "content", "class", "xmlns", "xmlns:xlink"}  # never an address
ADDRESSES = {"href", "src", "poster", "xlink:href", "data", "action", "formaction", "background", "manifest", "ping"}
NAMING_LINKS = {"canonical", "license", "author", "alternate", "next", "prev", "index", "search", "help"}
ACTIVE = {"iframe", "frame", "object", "embed", "base", "template", "animate", "set"}  # hold pages or change addresses
CSS_LOAD = re.compile(r"(?i)url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)")
# Theme scripts name hosts in comments; in a script file only a load counts.
SCRIPT_LOAD = re.compile(
    r"(?i)(?:\b(?:fetch|import|open|importScripts)\(|\b(?:src|href)\s*=|\bfrom)\s*[\"'`](?:https?:)?//"
)
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home/\w|root/|tmp/|work/)[^\s\"'<>]*|[A-Z]:\\Users[^\s\"'<>]*")


def check_site(html: Path) -> list[str]:
    """Problems of the built site in the folder `html`, each a sentence that names the page and the element.

    Checked: sound HTML, links and anchors, loads from other hosts, scripts, alternative texts, captions, verdicts, machine
    paths, and the download of each chapter's notebook. Raises BookError where the folder holds no page.
    Scripts may be those of `genindex.html` and `search.html`, which Sphinx makes and no author or model fills.
    """
    html = Path(html).resolve()
    paths = [p for p in sorted(html.rglob("*.html")) if p.relative_to(html).parts[0] not in ("_static", "_sources")]
    if not paths:
        raise BookError(f"no page in {html}")
    pages = {p: JustHTML(p.read_text(encoding="utf-8"), sanitize=False, collect_errors=True) for p in paths}
    anchors = {p: {_get(e, "id") or _get(e, "name") for e in page.query("*")} for p, page in pages.items()}
    made = [html / name for name in ("genindex.html", "search.html") if html / name in pages]
    known = {_script(path, element, html) for path in made for element in pages[path].query("script")}
    problems = []
    for path, page in pages.items():
        found = [f"is not sound HTML ({error.message})" for error in page.errors if "doctype" not in error.code]
        found += [f"shows the machine path {name}" for name in machine_paths(_text(page.root))]
        found += [*_links(path, page, anchors, html), *_scripts(path, page, known, html), *_captions(page)]
        for cell in page.query("table.paper-table td.measured"):
            if not _get(cell, "data-verdict"):
                found.append(f"{_name(cell)} “{_text(cell).strip()}” has no verdict (data-verdict)")
        downloads = {Path(unquote(_get(link, "href"))).name for link in page.query("a[href]")}
        if (page.query_one("div.cell") or path.parent.name == "notebooks") and f"{path.stem}.ipynb" not in downloads:
            found.append(f"has no link to download its notebook {path.stem}.ipynb")
        problems += [f"{path.relative_to(html)}: {problem}." for problem in found]
    for path in sorted(html.rglob("*")):
        if path.suffix in (".css", ".js", ".svg"):
            problems += [f"{path.relative_to(html)}: {problem}." for problem in _file(path)]
    return problems


def _links(path: Path, page: JustHTML, anchors: dict[Path, set], html: Path) -> Iterator[str]:
    """Addresses that reach another host when the page is opened, that run something, or that lead nowhere."""
    for element in page.query("*"):
        is_link = element.name in ("a", "area") or NAMING_LINKS & set(_get(element, "rel").split())
        for name, url in _addresses(element):
            parts = urlsplit(url)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if FOREIGN.match(url):
                if not (is_link and name == "href"):
                    yield f"{_name(element)} loads from another host ({name} {url})"
            elif parts.scheme:
                if parts.scheme != "mailto" and not url.startswith("data:image/"):
                    yield f"{_name(element)} {name} may not have such an address ({url[:80]})"
            elif not (target.is_relative_to(html) and target.is_file()):
                yield f"{_name(element)} {name} leads to no file ({url})"
            elif parts.fragment and target in anchors and unquote(parts.fragment) not in anchors[target]:
                yield f"{_name(element)} {name} leads to no anchor ({url})"


def _addresses(element: Element) -> Iterator[tuple[str, str]]:
    """(attribute, address) of everything in an element that a browser may load or follow."""
    for name, value in element.attrs.items():
        value = (value or "").strip()
        if "http-equiv" in element.attrs:
            yield from ((name, url) for url in re.findall(r"(?i)url=\s*['\"]?([^'\"]+)", value))
        if name in WORDS or name.startswith(("data-", "aria-")):
            continue
        if name in ADDRESSES or FOREIGN.match(value):
            yield name, value
        if name.endswith("srcset"):
            yield from ((name, part.split()[0]) for part in value.split(",") if part.strip())
        yield from ((name, url) for url in _css_addresses(value))
    if element.name == "style":
        yield from (("style", url) for url in _css_addresses(element.to_text(strip=False)))


def _css_addresses(css: str) -> list[str]:
    found = CSS_LOAD.finditer(re.sub(r"(?s)/\*.*?\*/", "", css))
    return [(match[1] or match[2]).strip() for match in found]


def _file(path: Path) -> Iterator[str]:
    """Loads of a style, script or picture file from another host, or from a file that is missing."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        yield from (f"loads from another host ({match[0]}…)" for match in SCRIPT_LOAD.finditer(text))
        return
    for url in _css_addresses(text) + re.findall(r"<\w+[^>]*?\b(?:href|src)=\"([^\"]+)", text):
        if not url.startswith(("data:", "#")) and not (path.parent / re.split("[?#]", url)[0]).exists():
            yield f"loads from another host or a file that is missing ({url})"


def _scripts(path: Path, page: JustHTML, known: set[str], html: Path) -> Iterator[str]:
    """Scripts that are neither the theme's nor ours, and elements that could bring one."""
    from decoupled_esc.present.sliders import MOVE  # here: drawing is slow to import

    for element in page.query("*"):
        if element.name == "script" and (_is_in(element, "cell_output") or _script(path, element, html) not in known):
            yield f"{_name(element)} is not one of the book's scripts ({element.to_text()[:60]})"
        if element.name in ACTIVE:
            yield f"{_name(element)} has no place in the book: it may bring a script"
        for name, value in element.attrs.items():
            if name.startswith("on") and value not in (MOVE, "window.print()"):
                yield f"{_name(element)} runs a script that is not the book's ({name}: {(value or '')[:60]})"


def _script(path: Path, element: Element, html: Path) -> str:
    """What makes two scripts the same: the file, or the text without the name of its page."""
    if source := _get(element, "src"):
        return f"file {(path.parent / urlsplit(source).path).resolve()}"
    name = path.relative_to(html).with_suffix("").as_posix()
    return " ".join(element.to_text(strip=False).replace(f"pagename = '{name}'", "pagename").split())


def _captions(page: JustHTML) -> Iterator[str]:
    """Images without an alternative text, figures without a caption."""
    for image in page.query("img, svg[role=img]"):
        alt, source = _get(image, "alt") or _get(image, "aria-label"), _get(image, "src")
        # Sphinx fills a missing text with the file's name.
        if not alt or alt == source or re.fullmatch(r"\S+\.(?:png|svg|jpe?g|gif|webp)", alt):
            yield f"{_name(image)} {source[:80]} has no alternative text"
        if image.name == "img" and _is_in(image, "cell_output") and not _is_in(image, "figure", "frames"):
            yield f"{_name(image)} {source[:80]} is shown without a caption"  # a slider's label is its caption
    for figure in page.query("figure"):
        if not any(_text(caption).strip().strip("#") for caption in figure.query("figcaption")):
            yield f"{_name(figure)} has no caption"


def _get(element: Element, attribute: str) -> str:
    return ((element.attrs or {}).get(attribute) or "").strip()


def _name(element: Element) -> str:
    """How a sentence names an element: `<img id="x">`."""
    return f'<{element.name} id="{_get(element, "id")}">' if _get(element, "id") else f"<{element.name}>"


def _is_in(element: Element, *names: str) -> bool:
    """Whether an element stands below one with such a tag or class."""
    while element := element.parent:
        if {element.name, *_get(element, "class").split()} & set(names):
            return True
    return False


def _text(node) -> str:
    """The visible text below `node`."""
    if node.name in ("#text", "script", "style"):
        return node.data if node.name == "#text" else ""
    return " ".join(map(_text, node.children or ()))


def machine_paths(text: str) -> list[str]:
    """Paths in `text` that name a place on somebody's machine, each once."""
    found = set(MACHINE_PATH.findall(text))
    return sorted(found | {place for place in (os.getcwd(), str(Path.home())) if len(place) > 1 and place in text})
