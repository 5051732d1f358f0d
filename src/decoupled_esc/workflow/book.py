"""The book as a built artefact: building it, and checking what was built and the notebooks it was built from.

`build_book` gathers the repository's pages and a folder of executed chapters and runs jupyter-book strictly.
`check_site` and `check_notebooks` return problems as sentences; an empty list means that all is well.
"""

import filecmp
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jupytext
import nbformat
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parents[3]
CHAPTERS = "[0-9][0-9]_*.ipynb"


class BookError(RuntimeError):
    """The book could not be built; the message holds Sphinx's warnings."""


def build_book(notebooks: Path, out: Path, root: Path = ROOT) -> Path:
    """Builds the book from `root`'s pages and the executed chapters in `notebooks`; returns its index.html.

    Layout: `out/source/` is what Sphinx reads, `out/_build/html/` the book, `out/_build/.doctrees/` Sphinx's cache.
    A second build renders only the prose pages that changed. Anything else that changed (a chapter, whose numbers
    other pages may show; configuration; the bibliography; a page gone) starts afresh, and so does a build after a
    failed or killed one, because Sphinx reports a page's warnings only while it reads that page.

    Raises BookError on any warning, and FileNotFoundError where `notebooks` holds no chapter.
    """
    chapters = sorted(Path(notebooks).glob(CHAPTERS))
    if not chapters:
        raise FileNotFoundError(f"no chapter ({CHAPTERS}) in {notebooks}")
    source, build = Path(out) / "source", Path(out) / "_build"
    wanted = {Path(name): root / name for name in ("_config.yml", "_toc.yml")}
    wanted |= {
        path.relative_to(root): path
        for path in (root / "book").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    wanted |= {Path("notebooks") / path.name: path for path in chapters}

    complete = build / ".complete"
    afresh = _mirror(wanted, source) or not complete.exists()
    if afresh:
        shutil.rmtree(build, ignore_errors=True)
    complete.unlink(missing_ok=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    run = subprocess.run(
        [*command, "build", str(source), "--path-output", str(out), "-W", "-n", "--keep-going", "-q"],
        capture_output=True, text=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    if run.returncode:
        report = re.sub(r"\x1b\[[0-9;]*m", "", run.stderr or run.stdout)
        raise BookError(report.split("Traceback (most recent call last)")[0].strip() or report)
    complete.touch()
    return build / "html" / "index.html"


def _mirror(wanted: dict[Path, Path], target: Path) -> bool:
    """Makes `target` hold exactly `wanted` ({relative path: file}); True where more changed than the prose.

    Files that are equal are left alone: their time of modification tells Sphinx what to read again.
    """
    afresh = False
    for old in [path for path in target.rglob("*") if path.is_file() and "__pycache__" not in path.parts]:
        if old.relative_to(target) not in wanted:
            old.unlink()
            afresh = True
    for name, path in wanted.items():
        copy = target / name
        if copy.exists() and filecmp.cmp(path, copy, shallow=False):
            continue
        afresh |= name.suffix != ".md" or not copy.exists()
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)  # with a new time: Sphinx takes an older file for unchanged
    return afresh


# --- The built site ---

EXTERNAL = re.compile(r"\s*(?:(?:https?|wss?|ftp):)?//", re.I)
# A host named in a script. Namespaces of www.w3.org are names, never fetched.
HOST = re.compile(r"(?:https?:|wss?:|[\"'`])//(?!www\.w3\.org)[\w.-]+\.\w+", re.I)
# Theme scripts name hosts in comments; in a script file only a load counts.
SCRIPT_LOAD = re.compile(r"(?:\bfetch|\bimport|importScripts|\.open)\(\s*[^)\n]{0,20}[\"'`](?:https?:)?//"
                         r"|\b(?:src|href)\s*=\s*[\"'`](?:https?:)?//|\bfrom\s*[\"'](?:https?:)?//", re.I)
CSS_LOAD = re.compile(r"url\(\s*[\"']?([^\"')]+)|@import\s+[\"']([^\"']+)", re.I)
# Attributes by which an element loads something, or tells another host of its reader.
LOADS = {"src", "data", "poster", "background", "action", "formaction", "ping", "manifest", "xlink:href"}
NAMING_LINKS = {"canonical", "license", "author", "alternate", "next", "prev", "index", "search", "help"}
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home/\w|root/|tmp/|work/)[^\s\"'<>]*|[A-Z]:\\Users[^\s\"'<>]*")


def check_site(html: Path) -> list[str]:
    """Problems of the built site in the folder `html`, each a sentence that names the page and the element.

    Checked: internal links and anchors, alternative texts, captions, verdicts, loads from other hosts, machine paths,
    and the download of each chapter's notebook. Raises FileNotFoundError where the folder holds no page.
    """
    html = Path(html).resolve()
    pages = {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "lxml")
        for path in sorted(html.rglob("*.html"))
        if not {"_static", "_sources"} & set(path.relative_to(html).parts)
    }
    if not pages:
        raise FileNotFoundError(f"no page in {html}")
    anchors = {
        path: {tag.get("id") or tag.get("name") for tag in soup.find_all(lambda t: t.get("id") or t.get("name"))}
        for path, soup in pages.items()
    }
    problems = []
    for path, soup in pages.items():
        found = [
            *_broken_links(path, soup, anchors), *_foreign_loads(path, soup), *_captions(soup), *_verdicts(soup),
            *(f"shows the machine path {name}" for name in _machine_paths(_visible_text(soup))),
            *_missing_download(path, soup, html),
        ]
        problems += [f"{path.relative_to(html)}: {problem}." for problem in found]
    for path in sorted(html.rglob("*")):
        text = path.read_text(encoding="utf-8") if path.suffix in (".css", ".js", ".svg") else ""
        if path.suffix in (".css", ".svg"):
            problems += [f"{path.relative_to(html)}: {problem}." for problem in _css_loads(path, text)]
        if path.suffix == ".svg":
            loads = re.findall(r"<\w+[^>]*?\bhref=\"((?:https?:)?//[^\"]+)", text)
            problems += [f"{path.relative_to(html)}: refers to {url}." for url in loads]
        if path.suffix == ".js" and (match := SCRIPT_LOAD.search(text)):
            problems.append(f"{path.relative_to(html)}: the script loads from another host ({match[0]}…).")
    return problems


def _broken_links(page: Path, soup: BeautifulSoup, anchors: dict[Path, set]) -> list[str]:
    """Internal addresses of any element that lead to no file or to no anchor."""
    problems = []
    for tag, name, url in _addresses(soup):
        parts = urlsplit(url)
        if parts.scheme == "file":
            problems.append(f"{_name(tag)} {name} points into a machine's file system ({url})")
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if target.is_dir():
            target /= "index.html"
        if parts.path.startswith("/") or not target.is_file():
            problems.append(f"{_name(tag)} {name} leads to no file ({url})")
        elif parts.fragment and target in anchors and unquote(parts.fragment) not in anchors[target]:
            problems.append(f"{_name(tag)} {name} leads to no anchor ({url})")
    return problems


def _addresses(soup: BeautifulSoup):
    """(element, attribute, address) of everything in a page that holds an address."""
    for tag in soup.find_all(True):
        for name in LOADS & tag.attrs.keys() | {"href"} & tag.attrs.keys():
            yield tag, name, str(tag[name]).strip()
        for candidate in str(tag.get("srcset", "")).split(","):
            if candidate.strip():
                yield tag, "srcset", candidate.split()[0]
        refresh = re.search(r"url=\s*['\"]?([^'\"]+)", str(tag.get("content", "")), re.I)
        if tag.name == "meta" and str(tag.get("http-equiv", "")).lower() == "refresh" and refresh:
            yield tag, "content", refresh[1].strip()


def _foreign_loads(page: Path, soup: BeautifulSoup) -> list[str]:
    """Everything by which opening the page would reach another host. A plain link to read elsewhere is none."""
    problems = []
    for tag, name, url in _addresses(soup):
        is_link = name == "href" and tag.name in ("a", "area")
        if tag.name == "link" and set(tag.get("rel", [])) & NAMING_LINKS:
            is_link = True
        if EXTERNAL.match(url) and not is_link:
            problems.append(f"{_name(tag)} loads from another host ({name} {url})")
    for tag in soup.find_all(True):
        handlers = " ".join(str(value) for name, value in tag.attrs.items() if name.startswith("on"))
        script = handlers + (tag.get_text() if tag.name == "script" else "")
        problems += [f"{_name(tag)} names another host in its script ({host})" for host in HOST.findall(script)]
        style = str(tag.get("style", "")) + (tag.get_text() if tag.name == "style" else "")
        problems += [f"{_name(tag)}: {problem}" for problem in _css_loads(page, style)]
        if tag.has_attr("srcdoc"):
            problems += _foreign_loads(page, BeautifulSoup(str(tag["srcdoc"]), "lxml"))
    return problems


def _css_loads(path: Path, css: str) -> list[str]:
    """Loads in the style `css` of the file `path` from another host or from a file that is missing."""
    problems = []
    for match in CSS_LOAD.finditer(re.sub(r"/\*.*?\*/", "", css, flags=re.S)):
        url = (match[1] or match[2]).strip()
        if EXTERNAL.match(url):
            problems.append(f"the style loads from another host ({url})")
        elif not url.startswith(("data:", "#")) and not (path.parent / re.split("[?#]", url)[0]).exists():
            problems.append(f"the style loads a file that is missing ({url})")
    return problems


def _captions(soup: BeautifulSoup) -> list[str]:
    """Images without an alternative text, figures without a caption."""
    problems = []
    for image in soup.find_all("img"):
        alt = str(image.get("alt", "")).strip()
        # Sphinx fills a missing text with the file's name.
        if not alt or alt == image.get("src") or re.fullmatch(r"\S+\.(?:png|svg|jpe?g|gif|webp)", alt):
            problems.append(f"{_name(image)} {image.get('src', '')} has no alternative text")
        captioned = image.find_parent("figure") or image.find_parent(class_="frames")  # a slider's label is its caption
        if image.find_parent(class_="cell_output") and not captioned:
            problems.append(f"{_name(image)} {image.get('src', '')[:80]} is shown without a caption")
    for svg in soup.find_all("svg", role="img"):
        title = svg.find("title")
        if not (svg.get("aria-label") or svg.get("aria-labelledby") or title and title.get_text(strip=True)):
            problems.append(f"{_name(svg)} has no alternative text")
    for figure in soup.find_all("figure"):
        caption = figure.find("figcaption")
        if not caption or not caption.get_text(strip=True).strip("#"):
            problems.append(f"{_name(figure)} has no caption")
    return problems


def _verdicts(soup: BeautifulSoup) -> list[str]:
    return [
        f"{_name(cell)} “{cell.get_text(' ', strip=True)}” has no verdict (data-verdict)"
        for cell in soup.select("table.paper-table td.measured")
        if not str(cell.get("data-verdict", "")).strip()
    ]


def _missing_download(page: Path, soup: BeautifulSoup, html: Path) -> list[str]:
    """A chapter is a page that shows cells or stands in notebooks/; its notebook can be downloaded from it."""
    if not soup.select("div.cell") and page.relative_to(html).parts[0] != "notebooks":
        return []
    name = f"{page.stem}.ipynb"
    if any(unquote(urlsplit(link["href"]).path).rsplit("/", 1)[-1] == name for link in soup.select("a[href]")):
        return []
    return [f"has no link to download its notebook {name}"]


def _name(tag: Tag) -> str:
    """How a sentence names an element: `<img id="x">`."""
    return f'<{tag.name} id="{tag["id"]}">' if tag.get("id") else f"<{tag.name}>"


def _visible_text(soup: BeautifulSoup) -> str:
    return " ".join(text for text in soup.find_all(string=True) if text.parent.name not in ("script", "style"))


def _machine_paths(text: str) -> list[str]:
    """Paths in `text` that name a place on somebody's machine, each once."""
    found = set(MACHINE_PATH.findall(text))
    return sorted(found | {place for place in (os.getcwd(), str(Path.home())) if len(place) > 1 and place in text})


# --- The notebooks that the book is built from ---


def check_notebooks(folder: Path, require_stamp: bool = True) -> list[str]:
    """Problems of the chapters (NN_*.ipynb) in `folder`, each a sentence that names the notebook and the cell.

    A chapter is executed from top to bottom without an error, names its parameters first, folds its code, shows no
    machine path, and equals its source, the NN_*.py beside it, whose SHA-256 it carries in
    `metadata["decoupled_esc"]["source_sha256"]` (not looked at where `require_stamp` is false).
    """
    chapters = sorted(Path(folder).glob(CHAPTERS))
    if not chapters:
        return [f"{folder}: holds no chapter ({CHAPTERS})."]
    problems = []
    for path in chapters:
        notebook = nbformat.read(path, as_version=4)
        found = [*_cell_problems(notebook), *_pairing_problems(path.with_suffix(".py"), notebook, require_stamp)]
        problems += [f"{path.name}: {problem}." for problem in found]
    return problems


def _cell_problems(notebook) -> list[str]:
    problems = []
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not code or "parameters" not in code[0].metadata.get("tags", []):
        problems.append("the first code cell is not tagged `parameters`")
    for number, cell in enumerate(code, start=1):
        if cell.execution_count != number:
            problems.append(f"code cell {number} has the execution count {cell.execution_count}: not run in order")
        if "hide-input" not in cell.metadata.get("tags", []):
            problems.append(f"code cell {number} is not tagged `hide-input`")
        for output in cell.outputs:
            if output.output_type == "error":
                problems.append(f"code cell {number} ended in {output.ename}")
            problems += [f"code cell {number} shows the machine path {name}" for name in
                         _machine_paths(_output_text(output))]
    return problems


def _output_text(output) -> str:
    """The text of an output; pictures in base64 are left out, where any letters may stand by chance."""
    data = {mime: text for mime, text in output.get("data", {}).items() if not mime.endswith(("png", "jpeg", "pdf"))}
    return "\n".join([output.get("text", ""), *output.get("traceback", []), *map(str, data.values())])


def _pairing_problems(source: Path, notebook, require_stamp: bool) -> list[str]:
    if not source.exists():
        return [f"its source {source.name} is missing"]
    problems = []
    paired = [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(source).cells]
    cells = [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]
    if paired != cells:
        same = [left == right for left, right in zip(paired, cells)]
        first = same.index(False) if False in same else len(same)
        problems.append(f"cell {first + 1} differs from its source {source.name}")
    stamp = notebook.metadata.get("decoupled_esc", {}).get("source_sha256")
    if require_stamp and stamp != hashlib.sha256(source.read_bytes()).hexdigest():
        problems.append(f"its stamp is not the SHA-256 of {source.name}: run it again")
    return problems
