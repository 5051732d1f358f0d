"""Find a data set on this machine, or download it: `data/registry.json` says what and from where.

Four places are asked in turn: the folder that the environment variable DECOUPLED_ESC_DATA names, the cache (moved by
DECOUPLED_ESC_CACHE), the pinned commit of the source repository, and the synthetic miniature of this repository.
Every file but the miniature is checked against the registry before it is handed out.

    locate("esconv").paths            # what the readers call
    decoupled-esc data list           # what is here, and under which licence
"""

from __future__ import annotations

import difflib
import errno
import hashlib
import json
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import platformdirs
import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from decoupled_esc.corpus.errors import CorpusError

Origin = Literal["environment", "cache", "download", "miniature"]

FOLDER, CACHE = "DECOUPLED_ESC_DATA", "DECOUPLED_ESC_CACHE"
REGISTRY = Path(__file__).resolve().parents[3] / "data" / "registry.json"
ATTEMPTS = 4  # per file, when the server stumbles or the connection is cut; each goes on where the last one stopped
PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
BLOCK = 1 << 16  # bytes


@dataclass(frozen=True)
class Located:
    """A data set on this disk. `format` is "raw" or "hub" for ESConv; `paths` stand in the order of the registry."""

    name: str
    format: str
    paths: tuple[Path, ...]
    origin: Origin


@dataclass(frozen=True)
class Row:
    """One line of `decoupled-esc data list`; `here` is where the files lie ("environment", "cache") or None."""

    name: str
    here: str | None
    download: Literal["automatic", "on request", "never"]
    files: tuple[str, ...]
    bytes: int | None
    source: str
    licence: str
    citation: str
    use: str


@dataclass(frozen=True)
class File:
    """A published file: its path in our folders, its address, and its checksum (`kind` is "sha256" or "git_blob")."""

    path: str
    url: str
    kind: str
    checksum: str
    bytes: int | None


@dataclass(frozen=True)
class Form:
    """One of the forms in which a data set is published; any one of them is enough."""

    format: str
    source: str
    files: tuple[File, ...]


@dataclass(frozen=True)
class Dataset:
    name: str
    download: str
    licence: str
    citation: str
    use: str
    forms: tuple[Form, ...]
    miniature: str | None


@dataclass(frozen=True)
class Store:
    """The data sets of one registry. `timeout` is how many seconds a server may stay silent."""

    registry: Path = REGISTRY
    timeout: float = 20.0

    def locate(self, name: str, *, download: bool = True) -> Located:
        """Where `name` lies, downloaded if need be, with the miniature (and a notice) as the last resort.

        Raises CorpusError: unknown name; folder of DECOUPLED_ESC_DATA missing; wrong checksum; disk full or not
        writable; or nothing found for a data set that has no miniature.
        """
        with _os_errors_explained():
            dataset = self._dataset(name)
            found, tried = self._find(dataset, download and dataset.download == "automatic")
            if found is not None:
                return found
            if not download:
                tried.append("downloading is switched off")
            if dataset.miniature is None:
                raise _absent(dataset, tried)
            miniature = self.registry.parent / dataset.miniature
            if not miniature.is_file():
                raise _absent(dataset, [*tried, f"{miniature} is missing from this repository"])
            _notice(
                f"{name}: SYNTHETIC miniature in place of the real data, so no number made from it is a result. "
                f"Tried: {'; '.join(tried)}. For the real data: {_how_to_get(dataset)}."
            )
            return Located(name, dataset.forms[0].format, (miniature,), "miniature")

    def fetch(self, name: str) -> Located:
        """The real `name`, downloaded if it is not here yet, including what is downloaded on request only.

        Raises CorpusError as `locate` does, and where `locate` would hand out the miniature.
        """
        return self._real(name, download=True)

    def verify(self, name: str) -> Located:
        """Check the files of `name` on this disk; raises CorpusError for a wrong checksum or if there are none."""
        return self._real(name, download=False)

    def describe(self) -> list[Row]:
        """One row per data set, in the registry's order; looks for the files but does not check them."""
        with _os_errors_explained():
            folders = [("environment", _named_folder()), ("cache", _cache())]
            rows = []
            for dataset in self._datasets().values():
                here = [
                    (origin, form)
                    for origin, folder in folders
                    for form in dataset.forms
                    if folder is not None and not _missing(form, folder)
                ]
                origin, form = here[0] if here else (None, dataset.forms[0])
                sizes = [file.bytes for file in form.files]
                rows.append(
                    Row(
                        name=dataset.name,
                        here=origin,
                        download=dataset.download,
                        files=tuple(file.path for file in form.files),
                        bytes=None if None in sizes else sum(sizes),
                        source=form.source,
                        licence=dataset.licence,
                        citation=dataset.citation,
                        use=dataset.use,
                    )
                )
            return rows

    def _real(self, name: str, *, download: bool) -> Located:
        with _os_errors_explained():
            dataset = self._dataset(name)
            found, tried = self._find(dataset, download and dataset.download != "never")
            if found is None:
                raise _absent(dataset, tried)
            return found

    def _find(self, dataset: Dataset, download: bool) -> tuple[Located | None, list[str]]:
        """The real data set, or what was tried. `tried` names no path: it is printed into notebooks we commit."""
        tried = []
        folder, cache = _named_folder(), _cache()
        if folder is None:
            tried.append(f"{FOLDER} is not set")
        else:
            if form := _first_present(dataset, folder):
                remedy = f"put the file published in {form.source} there, or unset {FOLDER}"
                return _checked(dataset, form, folder, "environment", remedy), tried
            gaps = " or ".join(", ".join(_missing(form, folder)) for form in dataset.forms)
            tried.append(f"the folder of {FOLDER} lacks {gaps}")
            _notice(f"{dataset.name}: {tried[-1]}; looking elsewhere.")
        if form := _first_present(dataset, cache):
            return _checked(dataset, form, cache, "cache", _fetch_again(dataset)), tried
        tried.append("the cache does not hold it")
        if download:
            for form in dataset.forms:
                try:
                    for file in form.files:
                        self._download(file, cache, _fetch_again(dataset))
                    return _checked(dataset, form, cache, "download", _fetch_again(dataset)), tried
                except _NoDownload as failure:
                    tried.append(f"download: {failure}")
                    if failure.host_silent:  # the other forms lie on the same host
                        break
        return None, tried

    def _download(self, file: File, cache: Path, remedy: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it loads tqdm's notebook bar, which warns where there are no widgets
            import pooch

        target = cache / file.path
        pooch.get_logger().setLevel("WARNING")  # it would advise readers to copy a checksum that the registry has
        with _os_errors_explained(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock"):  # two processes must not append to the same .part
                if target.is_file():  # of an earlier, interrupted fetch, or of a faster process
                    _check(target, file, remedy)
                    return
                pooch.retrieve(
                    file.url,
                    known_hash=file.checksum if file.kind == "sha256" else None,
                    fname=target.name,
                    path=target.parent,
                    downloader=_Resuming(file, target.with_name(target.name + ".part"), self.timeout),
                )

    def _dataset(self, name: str) -> Dataset:
        datasets = self._datasets()
        if name not in datasets:
            near = difflib.get_close_matches(name, datasets, n=1, cutoff=0.4)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise CorpusError(f"unknown data set {name!r}{hint}", remedy=f"use one of {', '.join(datasets)}")
        return datasets[name]

    def _datasets(self) -> dict[str, Dataset]:
        try:
            listed = json.loads(self.registry.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problem = f"the list of data sets cannot be read ({error})"
            remedy = "restore it with git; the package runs from a checkout (pip install -e .)"
            raise CorpusError(problem, file=self.registry, remedy=remedy) from None
        return {
            name: Dataset(
                name=name,
                forms=tuple(_form(listed, form) for form in entry["forms"]),
                miniature=entry.get("miniature"),
                **{key: entry[key] for key in ("download", "licence", "citation", "use")},
            )
            for name, entry in listed["datasets"].items()
        }


def locate(name: str, *, download: bool = True) -> Located:
    """`Store.locate` on this repository's registry."""
    return Store().locate(name, download=download)


def fetch(name: str) -> Located:
    """`Store.fetch` on this repository's registry."""
    return Store().fetch(name)


def verify(name: str) -> Located:
    """`Store.verify` on this repository's registry."""
    return Store().verify(name)


def describe() -> list[Row]:
    """`Store.describe` on this repository's registry."""
    return Store().describe()


def here(name: str) -> Located | None:
    """The published files of `name` where this machine has them, checked; None where it has not.  Downloads nothing."""
    if next(row.here for row in describe() if row.name == name) is None:
        return None
    return Store().verify(name)


def identity(name: str) -> str:
    """sha256 (hex) over the checksums of the published files of `name`: what `here` hands out is always just these."""
    files = Store()._dataset(name).forms[0].files
    return hashlib.sha256(" ".join(file.checksum for file in files).encode()).hexdigest()


class _NoDownload(Exception):
    """The network or the server did not give the file. `host_silent`: the host never answered at all."""

    def __init__(self, reason: str, host_silent: bool = False):
        super().__init__(reason)
        self.host_silent = host_silent


class _Stumbled(Exception):
    """A failure that asking again may cure."""


@dataclass(frozen=True)
class _Resuming:
    """A pooch downloader that keeps what it has in `part` and asks only for the rest (HTTP Range, RFC 9110 §14)."""

    file: File
    part: Path
    timeout: float

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        failures = 0
        while True:
            # Asked before the network: a run killed between its last byte and the rename leaves a whole file behind.
            if self._complete():
                os.replace(self.part, output_file)
                return
            try:
                resumed = self._append(url)
            except _Stumbled as stumble:
                failures += 1
                if failures == ATTEMPTS:
                    raise _NoDownload(str(stumble)) from None
                time.sleep(PAUSE * 2 ** (failures - 1))
                continue
            if not self._complete():
                problem = _mismatch(self.part, self.file, _digest(self.part, self.file.kind))
                self.part.unlink()
                if not resumed:  # else the beginning may be of another version or damaged: once more, from nothing
                    remedy = "try again, or check that no proxy rewrites downloads; the bad download was removed"
                    raise CorpusError(problem, file=url, remedy=remedy)

    def _complete(self) -> bool:
        return self.part.is_file() and _digest(self.part, self.file.kind) == self.file.checksum

    def _append(self, url: str) -> bool:
        """Bring `part` to the end of the file; True if its beginning was there before."""
        have = self.part.stat().st_size if self.part.exists() else 0
        # Ranges count bytes as sent, so a compressed reply could not be continued.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            reply = requests.get(url, headers=headers, stream=True, timeout=self.timeout)
        except requests.RequestException as error:
            late = isinstance(error, requests.Timeout)
            why = f"no answer within {self.timeout:g} s" if late else f"no connection, {type(error).__name__}"
            raise _NoDownload(f"{why} ({urlsplit(url).hostname})", host_silent=True) from None
        with reply:
            if reply.status_code == 416:
                self.part.unlink(missing_ok=True)  # it is as long as the file or longer, and not the file
                raise _Stumbled("the server would not continue a partial file")
            if reply.status_code >= 500 or reply.status_code == 429:
                raise _Stumbled(f"{reply.status_code} {reply.reason} ({url})")
            if reply.status_code not in (200, 206):
                raise _NoDownload(f"{reply.status_code} {reply.reason} ({url})")
            if reply.status_code == 200:  # no partial content offered: the whole file comes
                have = 0
            self._write(reply, have)
        return have > 0

    def _write(self, reply: requests.Response, have: int) -> None:
        coming = reply.headers.get("Content-Length", "")
        total = have + int(coming) if coming.isdigit() else None
        label = self.part.stem
        bar = tqdm(desc=label, initial=have, total=total, unit="B", unit_scale=True, disable=None, leave=False)
        with bar, open(self.part, "ab" if have else "wb") as out:
            while True:
                try:  # around the network alone: an error of the disk is no reason to ask the server again
                    # Not iter_content: it waits for whole blocks, and a cut would lose the one it waits for.
                    block = reply.raw.read1(BLOCK, decode_content=False)
                except HTTPError:
                    raise _Stumbled(f"the connection was cut after {out.tell():,} bytes") from None
                if not block:
                    break
                out.write(block)
                bar.update(len(block))


def _form(listed: dict, form: dict) -> Form:
    def file(entry: dict) -> File:
        kind = "sha256" if "sha256" in entry else "git_blob"
        url = listed["url"].format(
            base_url=listed["base_url"],
            repository=form["repository"],
            commit=form["commit"],
            source=quote(entry["source"] or ""),
        )
        return File(entry["path"], url, kind, entry[kind], entry.get("bytes"))

    return Form(form["format"], f"{form['repository']} @ {form['commit'][:12]}", tuple(map(file, form["files"])))


def _named_folder() -> Path | None:
    """The folder of DECOUPLED_ESC_DATA; a wrong one is an error, because the reader meant to have the real data."""
    if not (value := os.environ.get(FOLDER)):
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        problem = f"{FOLDER} names this folder, but there is none"
        raise CorpusError(problem, file=folder, remedy=f"correct or unset {FOLDER}")
    return folder


def _cache() -> Path:
    return Path(os.environ.get(CACHE) or platformdirs.user_cache_path("decoupled-esc")).expanduser()


def _missing(form: Form, folder: Path) -> list[str]:
    return [file.path for file in form.files if not (folder / file.path).is_file()]


def _first_present(dataset: Dataset, folder: Path) -> Form | None:
    return next((form for form in dataset.forms if not _missing(form, folder)), None)


def _checked(dataset: Dataset, form: Form, folder: Path, origin: Origin, remedy: str) -> Located:
    for file in form.files:
        _check(folder / file.path, file, remedy)
    return Located(dataset.name, form.format, tuple(folder / file.path for file in form.files), origin)


def _check(path: Path, file: File, remedy: str) -> None:
    status = path.stat()
    found = _digest_of_state(path, file.kind, status.st_size, status.st_mtime_ns)
    if found != file.checksum:
        raise CorpusError(_mismatch(path, file, found), file=path, remedy=remedy)


def _mismatch(path: Path, file: File, found: str) -> str:
    expected = "" if file.bytes is None else f" ({file.bytes:,} bytes)"
    kind = file.kind.replace("_", " ")
    return f"wrong checksum: expected {kind} {file.checksum}{expected}, found {found} ({path.stat().st_size:,} bytes)"


@lru_cache(maxsize=256)
def _digest_of_state(path: Path, kind: str, _size: int, _mtime_ns: int) -> str:
    """`_digest` of a file in one state, so that a process reads a large file once."""
    return _digest(path, kind)


def _digest(path: Path, kind: str) -> str:
    """The checksum of a file, in hexadecimal.

    A git blob id is SHA-1("blob <size>\\0" + content): it names the content of a file as git does.
    """
    head = b"blob %d\0" % path.stat().st_size
    digest = hashlib.sha1(head, usedforsecurity=False) if kind == "git_blob" else hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _absent(dataset: Dataset, tried: list[str]) -> CorpusError:
    return CorpusError(f"{dataset.name} is not here. Tried: {'; '.join(tried)}", remedy=_how_to_get(dataset))


def _how_to_get(dataset: Dataset) -> str:
    choices = " or ".join(" + ".join(file.path for file in form.files) for form in dataset.forms)
    copy = f"set {FOLDER} to a folder that holds {choices}"
    return copy if dataset.download == "never" else f"run `decoupled-esc data fetch {dataset.name}`, or {copy}"


def _fetch_again(dataset: Dataset) -> str:
    return f"delete it, then {_how_to_get(dataset)}"


QUIET = "DECOUPLED_ESC_QUIET"
"""Environment variable, set to 1 by a run for its jobs, after it has printed the notices itself."""

_noticed: set[str] = set()


def _notice(text: str) -> None:
    """To stderr, once a process: chapters ask for the same data many times."""
    if text not in _noticed and os.environ.get(QUIET) != "1":
        _noticed.add(text)
        print(f"[decoupled-esc] {text}", file=sys.stderr, flush=True)


@contextmanager
def _os_errors_explained(place: Path | None = None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = f"move the cache elsewhere with {CACHE}, or the data with {FOLDER}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = f"free some space (what was downloaded so far is kept), or {remedy}"
        raise CorpusError(error.strerror or str(error), file=error.filename or place, remedy=remedy) from None
