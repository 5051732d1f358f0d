"""Chapters and the book as steps: what `decoupled-esc run` makes after all results."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from decoupled_esc.experiments.run import ROOT, Book, PublishError
from decoupled_esc.files import file_digest
from decoupled_esc.pipeline import Step, Work, closure
from decoupled_esc.pipeline.store import Stores
from decoupled_esc.publish import notebooks, site
from decoupled_esc.publish.downloads import how_made

LIBRARY = Path(__file__).parents[1]


def digest_of(paths: Iterable[Path]) -> str:
    """sha256 (hex, 16 digits) over the names and bytes of files."""
    sha = hashlib.sha256()
    for path in sorted(paths):
        sha.update(f"{path.relative_to(ROOT).as_posix()} {file_digest(path)}\n".encode())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class Executed:
    """A chapter that was executed, and the digests of the results that it shows."""

    chapter: str
    shown: dict[str, str]


@dataclass(frozen=True, eq=False)
class ExecuteChapter(Step):
    """A chapter, executed from the results of its steps into ``<chapter>.ipynb``."""

    chapter: str
    source: str
    """Digest of the script."""
    library: str
    """Digest of all that a chapter may call or read beside results."""
    results: dict[str, Step]
    profile: str

    @property
    def leaves(self) -> tuple[str, ...]:
        return (f"{self.chapter}.ipynb",)

    def run(self, work: Work) -> Executed:
        shown = {name: work.stores.find(step, whole=False).digest for name, step in self.results.items()}
        source = notebooks.NOTEBOOKS / f"{self.chapter}.py"
        made = made_of(work.stores, self.results.values())
        notebooks.execute(source, work.folder / f"{self.chapter}.ipynb", self.profile, shown, made)
        return Executed(self.chapter, shown)


def made_of(stores: Stores, steps: Iterable[Step]) -> dict:
    """How the results of ``steps`` were made, and those behind them, as far as they are kept."""
    shown = {step.key for step in steps}
    found = {key: stores.find(step, whole=False, quiet=True) for key, step in closure(steps).items()}
    kept = {key: stored for key, stored in found.items() if stored is not None}
    return how_made(*([one for key, one in kept.items() if (key in shown) == wanted] for wanted in (True, False)))


@dataclass(frozen=True)
class Built:
    """The book's first page, from the step's folder, and how many pages there are."""

    index: str
    pages: int


@dataclass(frozen=True, eq=False)
class BuildBook(Step):
    """The executed chapters as a static site."""

    leaves = ("book/_build/html",)

    chapters: tuple[ExecuteChapter, ...]
    pages: str
    """Digest of prose, style and configuration."""

    def run(self, work: Work) -> Built:
        folder = work.folder / "notebooks"
        folder.mkdir(exist_ok=True)
        for chapter in self.chapters:
            (name,) = chapter.leaves
            shutil.copyfile(work.path(chapter, name), folder / name)
        index = site.build_book(folder, work.folder / "book")
        if problems := site.check_site(index.parent):
            raise site.BookError("the built book has problems:\n" + "\n".join(problems))
        return Built(index.relative_to(work.folder).as_posix(), len(list(index.parent.rglob("*.html"))))


def book_steps(book: Book) -> dict[str, Step]:
    """The chapters and the book, by name."""
    read = [*LIBRARY.rglob("*.py"), *LIBRARY.rglob("*.mplstyle"), ROOT / "data" / "paper_values.json"]
    folders = ("bench", "pretraining", *(one.profile.name for one in book.beside))
    read += [path for folder in folders for path in (ROOT / "results" / folder).glob("*.json")]
    library = digest_of(read)
    found: dict[str, Step] = {}
    for source in notebooks.sources():
        results = {name: book.steps[name] for name in notebooks.steps_read(source)}
        found[source.stem] = ExecuteChapter(source.stem, file_digest(source), library, results, book.profile.name)
    pages = [
        ROOT / "_config.yml",
        ROOT / "_toc.yml",
        *(LIBRARY / "publish" / name for name in ("site.py", "downloads.py")),
    ]
    pages += [path for path in (ROOT / "book").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    found["book"] = BuildBook(tuple(found.values()), digest_of(pages))
    return found


def publish_notebooks(book: Book) -> list[str]:
    """Execute every chapter from the published results into ``notebooks/``; returns their names.

    Raises PublishError, before anything is executed, where ``runs/`` has another result than ``results/``: a chapter would show it.
    """
    read = {source: notebooks.steps_read(source) for source in notebooks.sources()}
    digests = {name: book.stored(name).digest for names in read.values() for name in names}
    if other := [name for name, digest in digests.items() if _published(book, name) != digest]:
        raise PublishError(
            f"runs/ has another result of {', '.join(other[:8])} than results/{book.profile.name}/: publish it too "
            "(decoupled-esc publish without --notebooks), or move runs/ away"
        )
    written = []
    for source, names in read.items():
        profile = notebooks.parameters(source)["profile"]
        shown = {name: digests[name] for name in names} | _beside(book, source)
        made = made_of(Stores(book.runs, (book.published,)), [book.published_steps[name] for name in names])
        written.append(notebooks.execute(source, source.with_suffix(".ipynb"), profile, shown, made).name)
    return written


def _published(book: Book, name: str) -> str | None:
    """The digest of the published result of the step ``name``."""
    step = book.published_steps.get(name)
    stored = step and book.published.read(step)
    return stored and stored.digest


def _beside(book: Book, source: Path) -> dict[str, str]:
    """``<profile>/<step>`` -> the digest of what the chapter at ``source`` shows of other backbones, and of `SERVED`."""
    shown = [(one, "everywhere") for one in book.beside] + [(book.served_book, "served")] * bool(book.served_book)
    read = [(one, name) for one, method in shown for name in sorted(notebooks.read_everywhere(source, method))]
    found = {f"{one.profile.name}/{name}": _published(one, name) for one, name in read}
    return {name: digest for name, digest in found.items() if digest is not None}


def check_stamps(book: Book) -> list[str]:
    """Problems, a sentence each: notebooks that show results which are not, or no longer, the published ones."""
    problems = []
    for source in notebooks.sources():
        path = source.with_suffix(".ipynb")
        if not path.exists():
            problems.append(f"{path.name} does not exist; run: make publish")
            continue
        stamp = json.loads(path.read_text(encoding="utf-8"))["metadata"].get("decoupled_esc", {})
        if stamp.get("results") and not stamp.get("made"):
            problems.append(f"{path.name} does not say how its results were made; run: make publish")
        beside = {name: digest for name, digest in stamp.get("results", {}).items() if "/" in name}
        if beside != _beside(book, source):
            problems.append(f"{path.name} shows other results of other backbones than the published ones")
        for name, digest in stamp.get("results", {}).items():
            if name not in beside and _published(book, name) != digest:
                step = book.published_steps.get(name)
                why = (book.published.why_not(step) if step else "there is no such step") or "it was replaced"
                problems.append(f"{path.name} shows another result of {name} than the published one ({why})")
    return problems
