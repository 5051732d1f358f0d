"""Finding and downloading data, against a misbehaving HTTP server on 127.0.0.1; no other host is ever asked."""

import errno
import hashlib
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from decoupled_esc.corpus import fetch
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.fetch import CACHE, FOLDER, REGISTRY, Located

RAW = b"".join(b'{"raw": %06d}\n' % i for i in range(20_000))  # 320 kB: several reads and writes
HUB = {name: f"{name}\n".encode() * 500 for name in ("train", "valid")}
COMMIT = "c0ffee" * 6 + "c0ff"
RAW_URL = f"/owner/raw/{COMMIT}/ESConv.json"


class Server(ThreadingHTTPServer):
    """Serves `files`; `trouble` is a list of what goes wrong, one entry used up per request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {RAW_URL: RAW}
        self.files |= {f"/owner/hub/{COMMIT}/my%20data/{name}.txt": content for name, content in HUB.items()}
        self.trouble: list[tuple] = []
        self.requests: list[str] = []
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        trouble, *how = self.server.trouble.pop(0) if self.server.trouble else ("none",)
        body = self.server.files.get(self.path)
        if trouble == "hang":
            self.server.released.wait(10)
        elif trouble == "status" or body is None:
            self.send_error(how[0] if how else 404)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: how[0]] if trouble in ("cut", "stall") else body)
            if trouble == "stall":
                self.server.released.wait(10)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, server: Server) -> Path:
    """A repository's registry and miniature; no proxy, data folder or cache of this machine; no long pauses."""
    blob = hashlib.sha1(b"blob %d\0" % len(RAW) + RAW).hexdigest()
    raw = [{"path": "esconv/ESConv.json", "source": "ESConv.json", "git_blob": blob}]
    hub = [
        {"path": f"esconv/{n}.txt", "source": f"my data/{n}.txt", "sha256": hashlib.sha256(c).hexdigest()} for n, c in HUB.items()
    ]  # fmt: skip
    forms = [
        {"format": "raw", "repository": "owner/raw", "commit": COMMIT, "files": raw},
        {"format": "hub", "repository": "owner/hub", "commit": COMMIT, "files": hub},
    ]
    own = [{"format": "extes", "repository": "owner/own", "commit": None, "files": [{"path": "own/own.json"}]}]
    rest = {"licence": "CC0", "citation": "key", "use": "tests"}
    datasets = {
        "esconv": {"download": "automatic", "miniature": "miniature/ESConv.json", "forms": forms, **rest},
        "release": {"download": "on request", "forms": forms[1:], **rest},
        "elsewhere": {"download": "never", "forms": forms[:1], **rest},
        "own": {"download": "never", "forms": own, **rest},
    }
    path = tmp_path / "data/registry.json"
    (path.parent / "miniature").mkdir(parents=True)
    (path.parent / "miniature/ESConv.json").write_text("[]")
    path.write_text(json.dumps({"base_url": f"http://127.0.0.1:{server.server_port}", "datasets": datasets}))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(fetch.FOLDER, raising=False)
    monkeypatch.setenv(CACHE, str(cache))
    fetch._notice.cache_clear()
    monkeypatch.setattr(fetch, "REGISTRY", path)
    monkeypatch.setattr(fetch, "TIMEOUT", 0.5)
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    return path


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


HUB_FILES = {f"esconv/{name}.txt": content for name, content in HUB.items()}
ESCONV = {"esconv/ESConv.json": RAW}

# --- downloading ---------------------------------------------------------------------------------------------------


def test_a_download_is_verified_by_its_git_blob_id_and_never_repeated(server, cache, capsys):
    found = fetch.locate("esconv")
    assert found == Located("esconv", "raw", (cache / "esconv/ESConv.json",), "download")
    assert found.paths[0].read_bytes() == RAW
    assert fetch.verify("esconv") == fetch.locate("esconv") == fetch.here("esconv") == replace(found, origin="cache")
    assert server.requests == [RAW_URL] and capsys.readouterr().err == ""
    assert [path for path in cache.rglob("*") if path.is_file()] == [found.paths[0]]


@pytest.mark.parametrize("trouble", [("cut", 100_000), ("stall", 30_000), ("status", 500), ("status", 429)])
def test_a_stumbling_server_is_asked_again(server, trouble):
    server.trouble = [trouble] * fetch.RETRIES
    assert fetch.locate("esconv").paths[0].read_bytes() == RAW
    assert len(server.requests) == fetch.RETRIES + 1


def test_an_interrupted_download_leaves_nothing_that_is_used(server, cache, capsys):
    server.trouble = [("cut", 1_000)] * 20
    assert fetch.locate("esconv").origin == "miniature"
    assert "download: no answer, ChunkedEncodingError" in capsys.readouterr().err
    assert not [path for path in cache.rglob("*") if path.is_file()]
    server.trouble = []
    assert fetch.locate("esconv").paths[0].read_bytes() == RAW


def test_the_other_published_form_is_taken_where_the_first_is_gone(server):
    del server.files[RAW_URL]
    found = fetch.locate("esconv")
    assert (found.format, found.origin) == ("hub", "download")
    assert [path.name for path in found.paths] == ["train.txt", "valid.txt"]
    assert found.paths[0].read_bytes() == HUB["train"]
    assert fetch.locate("esconv") == Located("esconv", "hub", found.paths, "cache")


@pytest.mark.parametrize("name", ["esconv", "release"], ids=["git blob", "sha256"])
def test_wrong_bytes_are_an_error_and_are_removed(server, cache, name):
    server.files = dict.fromkeys(server.files, b"<html>Please log in</html>")
    with pytest.raises(CorpusError, match=r"wrong checksum: .*expected .*Remedy: try again") as caught:
        fetch.fetch(name)
    assert caught.value.file.startswith("http://127.0.0.1")
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_two_processes_can_download_at_once(registry, cache):
    code = "import sys; from pathlib import Path; from decoupled_esc.corpus import fetch\n"
    code += "fetch.REGISTRY = Path(sys.argv[1]); print(fetch.locate('esconv').paths[0])"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code, str(registry)], **pipes) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip(), err) == (0, str(cache / "esconv/ESConv.json"), "")
    assert (cache / "esconv/ESConv.json").read_bytes() == RAW


# --- no download ---------------------------------------------------------------------------------------------------


def test_a_dead_server_gives_the_miniature_and_one_notice(registry, tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        listed = json.loads(registry.read_text()) | {"base_url": f"http://127.0.0.1:{closed.getsockname()[1]}"}
        registry.write_text(json.dumps(listed))
        found = fetch.locate("esconv")
        assert found == Located("esconv", "raw", (tmp_path / "data/miniature/ESConv.json",), "miniature")
        notice = capsys.readouterr().err
        for said in ("SYNTHETIC", f"{FOLDER} is not set", "the cache", "no answer", "data fetch esconv"):
            assert said in notice
        assert notice.count("no answer") == 1  # the second form lies on the same host
        assert str(tmp_path) not in notice and notice.count("\n") == 1  # it is printed into committed notebooks
        fetch.locate("esconv")
        assert capsys.readouterr().err == ""
        with pytest.raises(CorpusError, match="esconv is not here. Tried: .*no answer.*Remedy: "):
            fetch.fetch("esconv")


@pytest.mark.parametrize(
    ("trouble", "said", "requests"), [("hang", "no answer, ReadTimeout", 1), ("status", "503 Service Unavailable", 2)]
)
def test_a_server_that_never_recovers_gives_the_miniature(server, capsys, trouble, said, requests):
    server.trouble = [(trouble, 503)] * 20
    assert fetch.locate("esconv").origin == "miniature"
    assert said in capsys.readouterr().err
    assert len(server.requests) == requests * (fetch.RETRIES + 1)


def test_what_may_not_be_downloaded_is_not(server, capsys):
    assert fetch.locate("esconv", download=False).origin == "miniature"
    assert "downloading is switched off" in capsys.readouterr().err
    with pytest.raises(CorpusError, match="release is not here.*data fetch release"):
        fetch.locate("release")
    with pytest.raises(CorpusError, match=f"elsewhere is not here.*set {FOLDER} to a folder that holds esconv/ESC"):
        fetch.fetch("elsewhere")
    assert server.requests == []
    assert fetch.fetch("release").origin == "download"
    assert fetch.locate("release").origin == "cache"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"datasets": {"esconv": {}}}', '{"datasets": 3}'])
def test_a_repository_without_its_miniature_or_registry_says_so(registry, content):
    (registry.parent / "miniature/ESConv.json").unlink()
    with pytest.raises(CorpusError, match="esconv is not here"):
        fetch.locate("esconv", download=False)
    registry.unlink() if content is None else registry.write_text(content)
    with pytest.raises(CorpusError, match="list of data sets cannot be read.*restore it with git"):
        fetch.describe()


# --- the folder of the environment ---------------------------------------------------------------------------------


def test_the_folder_goes_before_the_cache_and_the_network(server, tmp_path, cache, monkeypatch):
    in_folder(cache, ESCONV)
    folder = in_folder(tmp_path / "mine", HUB_FILES)
    monkeypatch.setenv(FOLDER, str(folder))
    found = fetch.locate("esconv")
    assert found == Located("esconv", "hub", (folder / "esconv/train.txt", folder / "esconv/valid.txt"), "environment")
    in_folder(folder, ESCONV)
    assert fetch.locate("esconv").format == "raw"
    monkeypatch.setenv(FOLDER, "")  # as good as unset
    assert fetch.locate("esconv").origin == "cache"
    assert server.requests == []


def test_a_folder_without_the_data_set_is_passed_over_with_a_notice(tmp_path, monkeypatch, capsys):
    folder = in_folder(tmp_path / "mine", {"esconv/train.txt": HUB["train"]})
    (folder / "esconv/ESConv.json").mkdir()  # no file
    monkeypatch.setenv(FOLDER, str(folder))
    assert fetch.locate("esconv").origin == "download"
    assert f"the folder of {FOLDER} lacks esconv/ESConv.json or esconv/valid.txt" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_a_folder_that_is_none_is_an_error(tmp_path, monkeypatch, what):
    if what == "a file":
        (tmp_path / "gone").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    for ask in (lambda: fetch.locate("esconv"), lambda: fetch.verify("esconv"), lambda: fetch.describe()[0].here):
        with pytest.raises(CorpusError, match=rf"gone: {FOLDER} names this folder.*unset {FOLDER}"):
            ask()


@pytest.mark.parametrize("where", ["environment", "cache"])
def test_a_wrong_checksum_is_an_error_and_the_file_stays(server, tmp_path, cache, monkeypatch, where):
    folder = in_folder(tmp_path / "mine" if where == "environment" else cache, {"esconv/ESConv.json": RAW[:-1]})
    monkeypatch.setenv(FOLDER if where == "environment" else CACHE, str(folder))
    expected = r"wrong checksum: expected [0-9a-f]{40}, found [0-9a-f]{40} \(319,999 bytes\)"
    with pytest.raises(CorpusError, match=expected) as caught:
        fetch.locate("esconv")
    assert caught.value.file == folder / "esconv/ESConv.json" and "owner/raw" in caught.value.remedy
    assert (folder / "esconv/ESConv.json").read_bytes() == RAW[:-1]
    assert server.requests == []


def test_a_copy_of_the_users_is_known_by_its_content(cache):
    with pytest.raises(CorpusError, match=f"own is not here.*set {FOLDER} to a folder that holds own/own.json"):
        fetch.identity("own")
    assert fetch.here("own") is None
    in_folder(cache, {"own/own.json": b"[]"})
    assert fetch.here("own") == Located("own", "extes", (cache / "own/own.json",), "cache")
    first = fetch.identity("own")
    in_folder(cache, {"own/own.json": b"[1]"})
    assert len({first, fetch.identity("own"), fetch.identity("release")}) == 3


# --- the disk ------------------------------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the cache should be")
    monkeypatch.setenv(CACHE, str(tmp_path / "occupied"))
    with pytest.raises(CorpusError, match=f"occupied.*Remedy: .*{CACHE}"):
        fetch.locate("esconv")


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "Permission denied. Remedy: move"), (errno.ENOSPC, "No space .*free some space")],
)
def test_a_forbidden_or_full_cache_is_an_error(monkeypatch, number, words):
    def fails(*_, **__):  # not chmod: tests may run as root, whom nothing forbids
        raise OSError(number, os.strerror(number), "/the/cache")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fails)
    with pytest.raises(CorpusError, match=f"^/the/cache: {words}.*{CACHE}"):
        fetch.locate("esconv")


# --- names, listing, errors ----------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(CorpusError, match=r"unknown data set 'ESConv' \(did you mean 'esconv'\?\)"):
        fetch.locate("ESConv")
    with pytest.raises(CorpusError, match="unknown data set '漢'. Remedy: use one of esconv, release, elsewhere"):
        fetch.fetch("漢")


def test_describe_says_what_is_here(server, tmp_path, cache, monkeypatch):
    kinds = [("esconv", None, "automatic"), ("release", None, "on request"), ("elsewhere", None, "never")]
    assert [(row.name, row.here, row.download) for row in fetch.describe()] == [*kinds, ("own", None, "never")]
    in_folder(cache, HUB_FILES)
    monkeypatch.setenv(FOLDER, str(in_folder(tmp_path / "mine", ESCONV)))
    esconv, release, elsewhere, _ = fetch.describe()
    assert (esconv.here, release.here, elsewhere.here) == ("environment", "cache", "environment")
    assert release.files == ("esconv/train.txt", "esconv/valid.txt")
    assert release.source == "owner/hub @ c0ffeec0ffee"
    assert server.requests == []


def test_the_registry_of_this_repository_is_complete(monkeypatch):
    monkeypatch.setattr(fetch, "REGISTRY", REGISTRY)
    found = {dataset.name: dataset for dataset in fetch.describe()}
    assert found["esconv"].download == found["failed_esconv"].download == "automatic"
    assert {name for name, one in found.items() if any(f.sha256 or f.git_blob for f in one.forms[0].files)} == {
        *found} - {"extes", "esc_pro"}  # fmt: skip
    for dataset in found.values():
        for form in dataset.forms:
            for file in form.files:
                assert not (file.sha256 and file.git_blob)
                assert re.fullmatch("[0-9a-f]{64}", file.sha256 or "0" * 64)
                assert re.fullmatch("[0-9a-f]{40}", file.git_blob or "0" * 40)
                if form.format == "package":
                    assert re.fullmatch(r"\d+(\.\d+)+", form.commit) and file.source and file.sha256
                elif dataset.download != "never":
                    assert re.fullmatch("[0-9a-f]{40}", form.commit) and file.source and (file.sha256 or file.git_blob)
        if model := dataset.model:
            digests = [model.sha256, *model.made.values()]
            assert all(re.fullmatch("[0-9a-f]{64}", one) for one in digests) and len({*digests}) == len(digests)


def test_an_error_prints_every_part_it_knows_on_one_line():
    error = CorpusError("unknown\n'Foo'", file="ESConv.json", dialogue=12, field="dialog[3].strategy", remedy="mend it")
    assert str(error) == "ESConv.json, dialogue 12, field dialog[3].strategy: unknown 'Foo'. Remedy: mend it"
    assert str(CorpusError("no data")) == "no data"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.dialogue, copy.remedy) == (str(error), 12, "mend it")
