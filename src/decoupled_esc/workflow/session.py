"""Asking for a stage's result: a stored one where it still holds, and otherwise running the stage.

A session has one profile and looks first in what was published with the book (``results/``), then in what was run here
(``runs/``).  ``decoupled-esc run`` looks in ``runs/`` alone, so that it computes everything itself.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock

from decoupled_esc import corpus
from decoupled_esc.corpus import fetch
from decoupled_esc.workflow import stages
from decoupled_esc.workflow.code import stage_code
from decoupled_esc.workflow.profiles import Profile, load_profile, nearest
from decoupled_esc.workflow.store import PUBLISHED, ROOT, RUNS, Result, Rows, Store, digest, write_atomically

RUNS_ONLY = "DECOUPLED_ESC_RUNS_ONLY"
"""Environment variable, set to 1 by ``decoupled-esc run``: leave published results aside."""

ABSENT = "absent"
"""Stands for the digest of data that is not on this machine."""


class StageError(ValueError):
    """A stage that does not exist or can't run here."""


@dataclass(frozen=True)
class State:
    """Whether a stored result holds, and why not."""

    word: Literal["fresh", "stale", "missing"]
    why: str = ""


@dataclass
class Context:
    """What a stage's function is given."""

    profile: Profile
    folder: Path
    """For checkpoints, weights and whatever else a stage keeps; ignored by git, kept between runs."""
    needs: dict[str, Result]
    folders: dict[str, Path]
    """The folders of the stages it needs."""
    corpora: dict[str, corpus.Corpus]
    """Those that the stage reads."""
    files: dict[str, tuple[Path, ...]]
    """Published files of other data sets that the stage reads, where this machine has them."""
    answers: Path
    """The record of everything that servers were asked, one for all profiles and outside any stage's folder: it was paid."""
    rows: tuple[dict, ...] = ()
    """Set by the stage: its rows, stored beside its result."""
    tokens: int | None = None
    """Set by the stage: tokens read or written, for the provenance."""
    open: ExitStack = field(default_factory=ExitStack)
    """What is closed when the stage is over, however it ends."""
    servers: dict[str, str] = field(default_factory=dict)
    """Model -> address of the server that was started for it."""

    @property
    def corpus(self) -> corpus.Corpus:
        """ESConv."""
        return self.corpora["esconv"]

    def open_rows(self, name: str) -> Rows:
        """A growing file of rows in this stage's folder; what an interrupted run wrote is still in it."""
        return Rows(self.folder / f"{name}.jsonl")


class Session:
    """The results of one profile."""

    def __init__(self, profile: str | Profile, *, runs_only: bool | None = None, runs: Path = RUNS,
                 published: Path = PUBLISHED):  # fmt: skip
        self.profile = load_profile(profile) if isinstance(profile, str) else profile
        self.runs = Store(runs, self.profile.name)
        self.published = Store(published, self.profile.name)
        self.runs_only = os.environ.get(RUNS_ONLY) == "1" if runs_only is None else runs_only
        self._seeds: dict[int | None, Session] = {self.profile.seed: self}
        if "@" not in self.profile.name:
            self._seeds[None] = self
        self._reader = self  # which of these reads the data, once for all

    @cached_property
    def corpora(self) -> dict[str, corpus.Corpus]:
        """ESConv and FailedESConv as found on this machine (read once)."""
        if self._reader is not self:
            return self._reader.corpora
        # A run has fetched what it could before its first job: the jobs keep off the network.
        return {name: corpus.load(name, download=not self.runs_only) for name in ("esconv", "failed_esconv")}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return self._reader._digests if self._reader is not self else {name: found.digest for name, found in self.corpora.items()}

    @cached_property
    def files(self) -> dict[str, tuple[Path, ...]]:
        """The files of data sets that only some stages read and nothing downloads unasked, where they are here."""
        if self._reader is not self:
            return self._reader.files
        found = {name: fetch.here(name) for name in stages.file_sets()}
        return {name: located.paths for name, located in found.items() if located is not None}

    @property
    def label(self) -> str:
        """The profile's name for captions, with a warning where the data is the synthetic miniature."""
        synthetic = self.result("data").payload["corpus"] == "miniature"
        return f"{self.profile.name} on SYNTHETIC miniature data" if synthetic else self.profile.name

    def source(self, what: str, counted: bool = False) -> str:
        """The line that stands in every figure: who made it, from how much (``what``), and how far it may be read.

        ``counted``: no model had a part in it, and every profile counts the same.
        """
        reach = {"smoke": "shows that the steps work, not a result", "small": "a small model", "paper": "paper scale"}
        how_far = "the same under every profile" if counted else reach[self.profile.scale]
        return f"profile {self.label} ({how_far}) · {what}"

    def result(self, name: str) -> Result:
        """The result of stage ``name``: published, or run before, or run now."""
        self._stage(name)
        if not self.runs_only and self.state(name, self.published).word == "fresh":
            return self.published.read(name)
        return self.run(name)

    def run(self, name: str) -> Result:
        """The result of stage ``name`` under ``runs/``, running it and what it needs where that does not hold."""
        stage = self._stage(name)
        if self.state(name, self.runs).word == "fresh":  # and so is all that it needs
            return self.runs.read(name)
        needs = {need: of.given(name) for need, (of, name) in self._needs(stage).items()}
        folder = self.runs.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # a chapter and a `run` may ask for the same stage at once
            state = self.state(name, self.runs)
            if state.word == "fresh":
                return self.runs.read(name)
            return self._compute(stage, folder, needs)

    def given(self, name: str) -> Result:
        """What a stage that is run here is given of stage ``name``: its result under ``runs/``, or the published one.

        A published result will do where it holds, has its rows, and left nothing in a folder that a later stage reads.
        """
        return self._borrowed(name) or self.run(name)

    def _borrowed(self, name: str) -> Result | None:
        if self.runs_only or self._stage(name).leaves or self.runs.read(name) is not None:
            return None
        result = self.published.read(name)
        return result if result and not result.rows_left_out and self.state(name, self.published).word == "fresh" else None

    def state(self, name: str, store: Store, known: dict | None = None) -> State:
        """Whether ``store`` holds a result of stage ``name`` that still holds, judged within that store.

        ``known`` is filled with what was found on the way; give the same one again while nothing is written.
        """
        self._stage(name)
        known = {} if known is None else known
        if (store.folder, name) not in known:
            known[store.folder, name] = self._state(name, store, known)
        return known[store.folder, name]

    def _state(self, name: str, store: Store, known: dict) -> State:
        stage = self._stage(name)
        result = store.read(name)
        if result is None:
            return State("missing", "never run" if not store.path(name).exists() else "its file is damaged")
        for need, (of, need_stage) in self._needs(stage).items():
            own = of.published if store is self.published else of.runs
            borrowed = of._borrowed(need_stage) if store is self.runs else None
            above = borrowed or own.read(need_stage)
            if above is None:
                return State("stale", f"{need} is {'damaged' if own.path(need_stage).exists() else 'missing'}")
            if result.inputs["needs"].get(need) not in above.digests:
                return State("stale", f"{need} has changed")
            if borrowed:
                continue
            if (state := of.state(need_stage, own, known)).word != "fresh":
                return State("stale", f"{need} is {state.word} ({state.why})")
        if result.inputs["settings"] != _plain(stage.settings(self.profile)):
            changed = _difference(result.inputs["settings"], _plain(stage.settings(self.profile)))
            return State("stale", f"the profile changed: {changed}")
        if result.inputs["data"] != self._data_digests(stage, store):
            return State("stale", "the data is not what it was computed from")
        code, _ = stage_code(stage.run.__name__, Path(stages.__file__), stage.arguments)
        if code != result.code and code not in {entry["code"] for entry in result.vouched}:
            return State("stale", "the code it depends on has changed")
        folder, left = store.folder / name, result.provenance["left"]
        if store is self.runs and left:
            if not all((folder / kept).exists() for kept in left):
                return State("stale", "its weights are gone")
            if not belongs(folder, _key(result.inputs, result.code)):  # an interrupted run of other work left them
                return State("stale", "its folder holds other weights")
        return State("fresh")

    def whole(self) -> list[tuple[Session, str]]:
        """All that a run of this profile computes: its stages, and under its other seeds those that are run under every one."""
        others = [self._under(seed) for seed in self.profile.more_seeds]
        return [(self, name) for name in stages.STAGES] + [(other, name) for other in others for name in stages.of_every_seed()]

    def _needs(self, stage: stages.Stage) -> dict[str, tuple[Session, str]]:
        """What ``stage`` needs: the name that it knows it by, with the seed after an @ for another one's, -> whose it is, and the stage."""
        own = {need: (self._first if stages.STAGES[need].once else self, need) for need in stage.needs}
        return own | {f"{need}@{seed}": (self._under(seed), need) for need in stage.over_seeds for seed in self.profile.more_seeds}

    def _under(self, seed: int | None) -> Session:
        """The session of this profile under another seed, or under its own where ``seed`` is None; all know each other."""
        if seed not in self._seeds:
            profile = self.profile.under(seed) if seed is not None else load_profile(self.profile.name.partition("@")[0])
            other = Session(profile, runs_only=self.runs_only, runs=self.runs.folder.parent, published=self.published.folder.parent)
            other._seeds, other._reader = self._seeds, self._reader
            self._seeds[seed] = other
        return self._seeds[seed]

    @property
    def _first(self) -> Session:
        """The session that makes what is made once."""
        return self._under(None)

    def vouch(self, name: str, why: str) -> None:
        """Accept the present code for the result of ``name``, published and run here, with the reason kept in it.

        Raises StageError where there is no such result or no reason is given.
        """
        stage = self._stage(name)
        stores = [store for store in (self.published, self.runs) if store.read(name) is not None]
        if not stores:
            raise StageError(f"there is no result of {name} under profile {self.profile.name}")
        if not why.strip():
            raise StageError("say why the result still holds: --why '...'")
        code, _ = stage_code(stage.run.__name__, Path(stages.__file__), stage.arguments)
        for store in stores:
            path = store.path(name)
            data = json.loads(path.read_text(encoding="utf-8"))
            data["vouched"] = [*data.get("vouched", []), {"code": code, "why": why.strip(), "date": _today()}]
            write_atomically(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")

    def _stage(self, name: str) -> stages.Stage:
        if name not in stages.STAGES:
            raise StageError(f"no stage {name!r}{nearest(name, list(stages.STAGES))}. Stages: {', '.join(stages.STAGES)}")
        return stages.STAGES[name]

    def _data_digests(self, stage: stages.Stage, store: Store) -> dict[str, str]:
        # Published results were made from the data that the manifest describes; to trust them needs no copy of it.
        if store is self.published:
            published = corpus.manifest_digests()
            return {name: published[name] for name in stage.corpora} | {name: fetch.identity(name) for name in stage.files}
        # Files that are not here are data too: a stage says what it lacks, and runs again once they have come.
        own = {name: fetch.identity(name) if name in self.files else ABSENT for name in stage.files}
        return {name: self._digests[name] for name in stage.corpora} | own

    def _keep_from_the_miniature(self, stage: stages.Stage) -> None:
        """Raise StageError where a run on the synthetic stand-in would take the place of work on the real data."""
        published = corpus.manifest_digests()
        if not any(name in published and self.corpora[name].name == "miniature" for name in stage.corpora):
            return
        for name in stages.STAGES:
            result = self.runs.read(name)
            if real := [data for data, used in (result.inputs["data"] if result else {}).items() if used == published.get(data)]:
                raise StageError(
                    f"{self.runs.path(name)} was made from the real {real[0]}, which is not found now, and stage {stage.name} would start over with the "
                    f"synthetic miniature. Set {fetch.FOLDER} as before, or move {self.runs.folder} away"
                )

    def _compute(self, stage: stages.Stage, folder: Path, needs: dict[str, Result]) -> Result:
        if self.profile.needs_gpu and stage.uses_model:
            import torch

            if not torch.cuda.is_available():
                raise StageError(
                    f"profile {self.profile.name} needs a GPU for stage {stage.name}, and none is visible here. "
                    "Use profile smoke or laptop, or run on a GPU machine"
                )
        self._keep_from_the_miniature(stage)
        context = Context(
            profile=self.profile,
            folder=folder,
            needs=needs,
            folders={need: of.runs.folder / need for need, (of, _) in self._needs(stage).items() if need in stage.needs},
            corpora={name: self.corpora[name] for name in stage.corpora},
            files={name: self.files[name] for name in stage.files if name in self.files},
            answers=self.runs.folder.parent / "answers.sqlite",
        )
        inputs = {
            "settings": _plain(stage.settings(self.profile)),
            "data": self._data_digests(stage, self.runs),
            "needs": {need: result.digest for need, result in needs.items()},
        }
        code, _ = stage_code(stage.run.__name__, Path(stages.__file__), stage.arguments)
        start_over_if_changed(folder, _key(inputs, code))
        started = time.perf_counter()
        with context.open:
            payload = _plain(stage.run(context, **stage.arguments))
        seconds = time.perf_counter() - started
        provenance = {
            "profile": self.profile.name,
            "wall_seconds": round(seconds, 1),
            "tokens": context.tokens,
            "left": [name for name in stage.leaves if (folder / name).exists()],
            **surroundings(),
        }
        return self.runs.write(Result(stage.name, payload, inputs, code, provenance, rows=context.rows))


_VERSIONS = ("decoupled-esc", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "scikit-learn", "nltk")


def surroundings() -> dict:
    """Where and with what this process computes: date, commit, hardware, versions, and its peak memory so far."""
    return {
        "date": _today(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "commit": _commit(),
        "hardware": _hardware(),
        "versions": {package: importlib.metadata.version(package) for package in _VERSIONS},
        "python": platform.python_version(),
    }


def _key(inputs: dict, code: str) -> str:
    return digest({"inputs": inputs, "code": code})


def belongs(folder: Path, key: str) -> bool:
    """Whether what lies in ``folder`` was left by the work that ``key`` names."""
    marker = folder / ".key"
    return marker.exists() and marker.read_text() == key


def start_over_if_changed(folder: Path, key: str) -> None:
    """Keep what an interrupted run of the same work left in ``folder``; set aside what belongs to other inputs."""
    if belongs(folder, key):
        return
    for old in folder.iterdir():
        if old.name == ".lock":
            continue
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    (folder / ".key").write_text(key)


def _plain(value) -> dict:
    """``value`` as it reads back from JSON (tuples become lists, keys strings)."""
    return json.loads(json.dumps(value))


def _difference(old, new, path: str = "") -> str:
    """The first key in which two settings differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                return _difference(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    was, now = (text if len(text := repr(value)) <= 80 or not isinstance(value, dict) else f"{text[:76]} ..." for value in (old, new))
    return f"{path} was {was} and is {now}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _commit() -> str | None:
    """The git commit of this tree, marked ``+`` where files differ from it; None outside a checkout or without git."""
    if shutil.which("git") is None:
        return None
    run = subprocess.run(["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"], cwd=ROOT,
                         capture_output=True, text=True)  # fmt: skip
    return run.stdout.strip() or None


def _cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS has no affinity


def _hardware() -> dict:
    found = {"machine": platform.machine(), "system": platform.system(), "cores": _cores()}
    torch = sys.modules.get("torch")
    if torch is not None:
        found["threads"] = torch.get_num_threads()
        found["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return found
