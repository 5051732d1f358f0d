"""Finding and downloading data, against a misbehaving HTTP server on 127.0.0.1; no other host is ever asked."""

from __future__ import annotations

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
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from decoupled_esc.corpus import fetch
from decoupled_esc.corpus.errors import CorpusError
from decoupled_esc.corpus.fetch import CACHE, FOLDER, REGISTRY, Store

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
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)
        self.encodings: set[str | None] = set()  # Accept-Encoding headers
        self.sent: Counter[str] = Counter()  # path -> bytes of body
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        self.server.encodings.add(self.headers.get("Accept-Encoding"))
        trouble, *how = self.server.trouble.pop(0) if self.server.trouble else ("none",)
        if trouble == "status":
            return self.send_error(how[0])
        if trouble == "hang":
            self.server.released.wait(10)
            return None
        body = self.server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        start = 0
        if wanted and trouble != "ignore range":
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        end = start + how[0] if trouble in ("cut", "stall") else len(body)
        step = how[0] if trouble == "slow" else len(body)
        for first in range(start, end, step):
            block = body[first : min(end, first + step)]
            self.server.sent[self.path] += len(block)
            self.wfile.write(block)
            if trouble == "slow":
                time.sleep(0.02)
        if trouble == "stall":
            self.server.released.wait(10)
        return None


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
def write_registry(tmp_path: Path):
    """Writes a repository's data folder: the registry and the miniature."""

    def write(base_url: str) -> Path:
        def sha(content: bytes) -> str:
            return hashlib.sha256(content).hexdigest()

        git_blob = hashlib.sha1(b"blob %d\0" % len(RAW) + RAW).hexdigest()
        raw = [{"path": "esconv/ESConv.json", "source": "ESConv.json", "git_blob": git_blob}]
        hub = [
            {"path": f"esconv/{n}.txt", "source": f"my data/{n}.txt", "bytes": len(c), "sha256": sha(c)}
            for n, c in HUB.items()
        ]
        forms = [
            {"format": "raw", "repository": "owner/raw", "commit": COMMIT, "files": raw},
            {"format": "hub", "repository": "owner/hub", "commit": COMMIT, "files": hub},
        ]
        rest = {"licence": "CC0", "citation": "key", "use": "tests"}
        datasets = {
            "esconv": {"download": "automatic", "miniature": "miniature/ESConv.json", "forms": forms, **rest},
            "release": {"download": "on request", "forms": forms[1:], **rest},
            "elsewhere": {"download": "never", "forms": forms[:1], **rest},
        }
        data = tmp_path / "data"
        (data / "miniature").mkdir(parents=True, exist_ok=True)
        (data / "miniature/ESConv.json").write_text("[]")
        (data / "registry.json").write_text(
            json.dumps(
                {"base_url": base_url, "url": "{base_url}/{repository}/{commit}/{source}", "datasets": datasets}
            )
        )
        return data / "registry.json"

    return write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def apart(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No proxy, no data folder and no cache of this machine; no notices of earlier tests; no long pauses."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.setenv(CACHE, str(cache))
    monkeypatch.setattr(fetch, "_noticed", set())
    monkeypatch.setattr(fetch, "PAUSE", 0.01)


@pytest.fixture
def store(server: Server, write_registry) -> Store:
    return Store(write_registry(f"http://127.0.0.1:{server.server_port}"), timeout=5.0)


def half_done(cache: Path, content: bytes) -> Path:
    part = cache / "esconv/ESConv.json.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def in_folder(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


# --- downloading ---------------------------------------------------------------------------------------------------


def test_a_download_is_verified_by_its_git_blob_id_and_never_repeated(store, server, cache, capsys):
    found = store.locate("esconv")
    assert (found.name, found.format, found.origin) == ("esconv", "raw", "download")
    assert found.paths == (cache / "esconv/ESConv.json",)
    assert found.paths[0].read_bytes() == RAW
    assert store.locate("esconv").origin == "cache"
    assert store.verify("esconv") == store.locate("esconv")
    assert len(server.requests) == 1
    assert not list(cache.rglob("*.part")) and not list(cache.rglob("tmp*"))
    assert capsys.readouterr().err == ""


def test_a_cut_connection_is_resumed_in_the_same_call(store, server):
    server.trouble = [("cut", 100_000), ("cut", 50_000)]
    assert store.locate("esconv").paths[0].read_bytes() == RAW
    assert [wanted for _, wanted in server.requests] == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent[RAW_URL] == len(RAW)
    assert server.encodings == {"identity"}  # the ranges of a compressed reply would not fit together


def test_an_interrupted_download_is_resumed_by_the_next_call(store, server, cache, capsys):
    server.trouble = [("cut", 1_000)] * fetch.ATTEMPTS + [("status", 404)]  # the other form is not there either
    assert store.locate("esconv").origin == "miniature"
    assert "the connection was cut after 4,000 bytes" in capsys.readouterr().err
    assert (cache / "esconv/ESConv.json.part").read_bytes() == RAW[:4_000]
    server.requests.clear()
    server.sent.clear()
    assert store.locate("esconv").paths[0].read_bytes() == RAW
    assert server.requests == [(RAW_URL, "bytes=4000-")]
    assert server.sent[RAW_URL] == len(RAW) - 4_000


def test_a_whole_file_left_by_a_killed_run_needs_no_server(store, server, cache):
    half_done(cache, RAW)
    assert store.locate("esconv").paths[0].read_bytes() == RAW
    assert server.requests == []


@pytest.mark.parametrize("trouble", [("ignore range",), ("status", 416)])
def test_a_server_that_does_not_continue_sends_the_whole_file(store, server, cache, trouble):
    half_done(cache, RAW[:7_000])
    server.trouble = [trouble]
    assert store.locate("esconv").paths[0].read_bytes() == RAW
    assert server.sent[RAW_URL] == len(RAW)


@pytest.mark.parametrize("left", [b"x" * 7_000, RAW + b"more", b""], ids=["damaged", "too long", "empty"])
def test_a_useless_beginning_is_thrown_away(store, cache, left):
    half_done(cache, left)
    assert store.locate("esconv").paths[0].read_bytes() == RAW


def test_a_stalled_transfer_is_resumed(store, server):
    server.trouble = [("stall", 30_000)]
    assert Store(store.registry, timeout=0.5).locate("esconv").paths[0].read_bytes() == RAW
    assert [wanted for _, wanted in server.requests] == [None, "bytes=30000-"]


def test_a_stumbling_server_is_asked_again(store, server):
    server.trouble = [("status", 500), ("status", 429)]
    assert store.locate("esconv").origin == "download"
    assert len(server.requests) == 3


def test_the_other_published_form_is_taken_where_the_first_is_gone(store, server, cache):
    del server.files[RAW_URL]
    found = store.locate("esconv")
    assert (found.format, found.origin) == ("hub", "download")
    assert [path.name for path in found.paths] == ["train.txt", "valid.txt"]
    assert found.paths[0].read_bytes() == HUB["train"]
    assert store.locate("esconv") == fetch.Located("esconv", "hub", found.paths, "cache")


@pytest.mark.parametrize("name", ["esconv", "release"], ids=["git blob", "sha256"])
def test_wrong_bytes_are_an_error_and_are_removed(store, server, cache, name):
    server.files = {path: b"<html>Please log in</html>" for path in server.files}
    with pytest.raises(CorpusError, match=r"wrong checksum: expected .* found [0-9a-f]+ \(26 bytes\)") as caught:
        store.fetch(name)
    assert caught.value.file.startswith("http://127.0.0.1") and caught.value.remedy
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]


def another_process(store: Store) -> subprocess.Popen:
    code = "import sys; from pathlib import Path; from decoupled_esc.corpus.fetch import Store\n"
    code += "print(Store(Path(sys.argv[1])).locate('esconv').paths[0])"
    environment = os.environ | {"PYTHONPATH": str(Path(fetch.__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.Popen([sys.executable, "-c", code, str(store.registry)], **pipes)


def test_a_killed_process_leaves_its_bytes_to_the_next(store, server, cache):
    server.trouble = [("slow", 8_000)]
    process = another_process(store)
    part = cache / "esconv/ESConv.json.part"
    while not (part.exists() and part.stat().st_size > 50_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    kept = part.stat().st_size
    assert store.locate("esconv").paths[0].read_bytes() == RAW
    assert server.requests[1:] == [(RAW_URL, f"bytes={kept}-")]


def test_two_processes_share_one_download(store, server, cache):
    server.trouble = [("slow", 8_000)] * 2
    both = [another_process(store) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip(), err) == (0, str(cache / "esconv/ESConv.json"), "")
    assert (cache / "esconv/ESConv.json").read_bytes() == RAW
    assert server.sent[RAW_URL] == len(RAW)


# --- no download ---------------------------------------------------------------------------------------------------


def test_a_dead_server_gives_the_miniature_and_one_notice(write_registry, tmp_path, capsys):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        store = Store(write_registry(f"http://127.0.0.1:{closed.getsockname()[1]}"))
    found = store.locate("esconv")
    assert (found.format, found.origin) == ("raw", "miniature")
    assert found.paths == (tmp_path / "data/miniature/ESConv.json",)
    notice = capsys.readouterr().err
    for said in ("SYNTHETIC", f"{FOLDER} is not set", "the cache", "no connection", "data fetch esconv"):
        assert said in notice
    assert notice.count("no connection") == 1  # the second form lies on the same host
    assert str(tmp_path) not in notice and notice.count("\n") == 1  # it is printed into committed notebooks
    store.locate("esconv")
    assert capsys.readouterr().err == ""
    with pytest.raises(CorpusError, match="esconv is not here. Tried: .*no connection.*Remedy: "):
        store.fetch("esconv")


def test_a_silent_server_is_not_waited_for_twice(store, server, capsys):
    server.trouble = [("hang",)]
    assert Store(store.registry, timeout=0.5).locate("esconv").origin == "miniature"
    assert "no answer within 0.5 s (127.0.0.1)" in capsys.readouterr().err
    assert len(server.requests) == 1


def test_a_server_that_never_recovers_gives_the_miniature(store, server, capsys):
    server.trouble = [("status", 503)] * 2 * fetch.ATTEMPTS
    assert store.locate("esconv").origin == "miniature"
    assert "503 Service Unavailable" in capsys.readouterr().err
    assert len(server.requests) == 2 * fetch.ATTEMPTS


def test_download_false_asks_nobody(store, server, capsys):
    assert store.locate("esconv", download=False).origin == "miniature"
    assert "downloading is switched off" in capsys.readouterr().err
    assert server.requests == []


def test_what_is_downloaded_on_request_only_waits_for_the_request(store, server):
    with pytest.raises(CorpusError, match="release is not here.*data fetch release"):
        store.locate("release")
    assert server.requests == []
    assert store.fetch("release").origin == "download"
    assert store.locate("release").origin == "cache"


def test_what_has_no_certain_address_is_never_downloaded(store, server):
    with pytest.raises(CorpusError, match=f"elsewhere is not here.*set {FOLDER} to a folder that holds esconv/ESC"):
        store.fetch("elsewhere")
    assert server.requests == []


def test_a_repository_without_its_miniature_or_registry_says_so(store):
    (store.registry.parent / "miniature/ESConv.json").unlink()
    with pytest.raises(CorpusError, match="missing from this repository"):
        store.locate("esconv", download=False)
    store.registry.unlink()
    with pytest.raises(CorpusError, match="list of data sets cannot be read"):
        store.describe()


# --- the folder of the environment ---------------------------------------------------------------------------------


def test_the_folder_goes_before_the_cache_and_the_network(store, server, tmp_path, cache, monkeypatch):
    in_folder(cache, {"esconv/ESConv.json": RAW})
    folder = in_folder(tmp_path / "mine", {f"esconv/{name}.txt": content for name, content in HUB.items()})
    monkeypatch.setenv(FOLDER, str(folder))
    found = store.locate("esconv")
    assert (found.format, found.origin) == ("hub", "environment")
    assert found.paths == (folder / "esconv/train.txt", folder / "esconv/valid.txt")
    in_folder(folder, {"esconv/ESConv.json": RAW})
    assert store.locate("esconv").format == "raw"
    monkeypatch.setenv(FOLDER, "")  # as good as unset
    assert store.locate("esconv").origin == "cache"
    assert server.requests == []


def test_a_folder_without_the_data_set_is_passed_over_with_a_notice(store, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(FOLDER, str(in_folder(tmp_path / "mine", {"esconv/train.txt": HUB["train"]})))
    assert store.locate("esconv").origin == "download"
    assert f"the folder of {FOLDER} lacks esconv/ESConv.json or esconv/valid.txt" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["nothing", "a file"])
def test_a_folder_that_is_none_is_an_error(store, tmp_path, monkeypatch, what):
    if what == "a file":
        (tmp_path / "gone").write_text("")
    monkeypatch.setenv(FOLDER, str(tmp_path / "gone"))
    for ask in (lambda: store.locate("esconv"), lambda: store.verify("esconv"), store.describe):
        with pytest.raises(CorpusError, match=rf"gone: {FOLDER} names this folder.*unset {FOLDER}"):
            ask()


@pytest.mark.parametrize("where", ["environment", "cache"])
def test_a_wrong_checksum_is_an_error_and_the_file_stays(store, server, tmp_path, cache, monkeypatch, where):
    folder = in_folder(tmp_path / "mine" if where == "environment" else cache, {"esconv/ESConv.json": RAW[:-1]})
    monkeypatch.setenv(FOLDER if where == "environment" else CACHE, str(folder))
    expected = r"wrong checksum: expected git blob [0-9a-f]{40}, found [0-9a-f]{40} \(319,999 bytes\)"
    with pytest.raises(CorpusError, match=expected) as caught:
        store.locate("esconv")
    assert caught.value.file == folder / "esconv/ESConv.json"
    assert ("unset" if where == "environment" else "delete it") in caught.value.remedy
    assert (folder / "esconv/ESConv.json").read_bytes() == RAW[:-1]
    assert server.requests == []


def test_a_file_is_read_once_a_process_until_it_changes(store, cache, monkeypatch):
    in_folder(cache, {"esconv/ESConv.json": RAW})
    reads = []
    digest = fetch._digest
    monkeypatch.setattr(fetch, "_digest", lambda path, kind: reads.append(path) or digest(path, kind))
    store.locate("esconv")
    store.locate("esconv")
    assert len(reads) == 1
    in_folder(cache, {"esconv/ESConv.json": RAW + b" "})
    with pytest.raises(CorpusError, match="wrong checksum"):
        store.locate("esconv")


# --- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_named_and_not_retried(store, server, cache):
    (cache / "esconv").mkdir(parents=True)
    (cache / "esconv/ESConv.json.part").symlink_to("/dev/full")
    with pytest.raises(CorpusError, match=f"{os.strerror(errno.ENOSPC)}.*free some space.*{CACHE}") as caught:
        store.locate("esconv")
    assert caught.value.file == cache / "esconv/ESConv.json"
    assert len(server.requests) == 1


def test_a_cache_that_cannot_be_written_is_an_error(store, tmp_path, monkeypatch):
    (tmp_path / "occupied").write_text("a file where the cache should be")
    monkeypatch.setenv(CACHE, str(tmp_path / "occupied"))
    with pytest.raises(CorpusError, match=f"occupied.*Remedy: .*{CACHE}"):
        store.locate("esconv")


def test_a_forbidden_cache_is_an_error(store, monkeypatch):
    def forbidden(*_, **__):  # not chmod: tests may run as root, whom nothing forbids
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/the/cache")

    monkeypatch.setattr(pooch, "retrieve", forbidden)
    with pytest.raises(CorpusError, match=f"^/the/cache: Permission denied. Remedy: .*{CACHE}"):
        store.locate("esconv")


# --- names, listing, errors ----------------------------------------------------------------------------------------


def test_an_unknown_name_names_the_nearest(store):
    with pytest.raises(CorpusError, match=r"unknown data set 'ESConv' \(did you mean 'esconv'\?\)"):
        store.locate("ESConv")
    with pytest.raises(CorpusError, match="unknown data set '漢'. Remedy: use one of esconv, release, elsewhere"):
        store.fetch("漢")


def test_describe_says_what_is_here(store, server, tmp_path, cache, monkeypatch):
    assert [(row.name, row.here, row.download) for row in store.describe()] == [
        ("esconv", None, "automatic"),
        ("release", None, "on request"),
        ("elsewhere", None, "never"),
    ]
    in_folder(cache, {f"esconv/{name}.txt": content for name, content in HUB.items()})
    monkeypatch.setenv(FOLDER, str(in_folder(tmp_path / "mine", {"esconv/ESConv.json": RAW})))
    esconv, release, elsewhere = store.describe()
    assert (esconv.here, release.here, elsewhere.here) == ("environment", "cache", "environment")
    assert (esconv.bytes, release.bytes) == (None, sum(map(len, HUB.values())))
    assert release.files == ("esconv/train.txt", "esconv/valid.txt")
    assert release.source == "owner/hub @ c0ffeec0ffee"
    assert server.requests == []


def test_the_registry_of_this_repository_is_complete():
    listed = json.loads(REGISTRY.read_text(encoding="utf-8"))["datasets"]
    assert len(Store().describe()) == len(listed)
    assert listed["esconv"]["download"] == listed["failed_esconv"]["download"] == "automatic"
    for entry in listed.values():
        assert entry["download"] in ("automatic", "on request", "never")
        for form in entry["forms"]:
            if entry["download"] != "never":
                assert re.fullmatch("[0-9a-f]{40}", form["commit"]) and all(file["source"] for file in form["files"])
            for file in form["files"]:
                assert ("sha256" in file) != ("git_blob" in file)
                assert re.fullmatch("[0-9a-f]{64}", file.get("sha256", "0" * 64))
                assert re.fullmatch("[0-9a-f]{40}", file.get("git_blob", "0" * 40))


def test_an_error_prints_every_part_it_knows_on_one_line():
    error = CorpusError(
        "unknown strategy\n'Foo' (did you mean 'Others'?)",
        file="ESConv.json",
        dialogue=12,
        field="dialog[3].annotation.strategy",
        remedy="fetch the file again",
    )
    assert str(error) == (
        "ESConv.json, dialogue 12, field dialog[3].annotation.strategy: unknown strategy 'Foo' "
        "(did you mean 'Others'?). Remedy: fetch the file again"
    )
    assert str(CorpusError("no data")) == "no data"
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.dialogue, copy.remedy) == (str(error), 12, "fetch the file again")
