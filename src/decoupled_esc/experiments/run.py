"""Opening the book under a profile: its steps, their results, and a run of those that don't hold."""

from __future__ import annotations

import ast
import datetime
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import MutableMapping, Sequence
from functools import cache, cached_property
from pathlib import Path

from decoupled_esc.errors import KnownError, nearest
from decoupled_esc.experiments import book as table
from decoupled_esc.experiments import inputs
from decoupled_esc.experiments.corrected import MeasureErrorRates
from decoupled_esc.experiments.judging import CountErrors
from decoupled_esc.experiments.profiles import Profile, ProfileError, load_profile
from decoupled_esc.experiments.scores import AnswerStrategyTest, CountPerSeed
from decoupled_esc.pipeline import Missing, Step, StepError, schedule
from decoupled_esc.pipeline.store import Store, Stored, Stores
from decoupled_esc.pipeline.workers import Local

ROOT = Path(__file__).parents[3]
RUNS, PUBLISHED = ROOT / "runs", ROOT / "results"

PRELOAD = ("torch", "transformers.trainer", "peft", "sklearn.linear_model", "decoupled_esc.experiments.book")
"""What the process imports that every step's is forked from."""

BACKBONES = ("laptop", "smollm2-135m")
"""Profiles, one per backbone, that the chapters show side by side once their results are published (`Book.everywhere`)."""

SERVED = "smollm2-135m-served"
"""The profile whose LLM behind a server the chapters show once its results are published (`Book.served`)."""

TITLES = {"smollm2-135m": "SmolLM2-135M"}
"""Backbones that readers know under another name than the profiles'."""

REACH = {"smoke": "shows that the steps work, not a result", "small": "a small model", "paper": "paper scale"}


class Book:
    """The results of one profile: ``book["metrics"]`` is a typed result, or `Missing`.

    A result is taken from ``runs/``, where steps that are run here leave theirs; else from what is published with the book
    (``results/``); else the step is run, and what it needs.
    """

    def __init__(self, profile: str | Profile, *, runs: Path = RUNS, published: Path = PUBLISHED):
        self.profile = load_profile(profile) if isinstance(profile, str) else profile
        self.published_steps = table.steps(self.profile, inputs.as_published())
        self.runs = Store(runs)
        self.published = Store(published / self.profile.name, table.names(self.published_steps))
        name = self.profile.backbone.name.rpartition("/")[2]
        self.backbone = TITLES.get(name, name)

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every step by name, with the data that this machine has."""
        return table.steps(self.profile, inputs.on_this_machine(download=True))

    @cached_property
    def names(self) -> dict[str, str]:
        """Key -> name."""
        return table.names(self.steps)

    def __getitem__(self, name: str):
        """The typed result of the step ``name``, or `Missing`; it is run where there is none."""
        stored = self.stored(name)
        if stored is None:
            self.run([name])
            stored = self.runs.read(self.steps[name])
        return stored.result

    def stored(self, name: str) -> Stored | None:
        """The result of the step ``name`` and what is known of its making, where one holds."""
        if name not in self.published_steps:
            known = list(self.published_steps)
            raise StepError(f"no step {name!r}{nearest(name, known)}. Steps: {', '.join(known)}")
        known = None
        if self.profile.search.seeds != "extes" and self.profile.cso.pairs != "published":  # a user's own files are not
            known = Stores(self.runs, (self.published,)).find(self.published_steps[name], whole=False)
        return known or Stores(self.runs).find(self.steps[name], whole=False, quiet=True)

    @cached_property
    def beside(self) -> list[Book]:
        """The books of the other `BACKBONES` that have published results; none beside a profile that is not among them."""
        if self.profile.name not in BACKBONES:
            return []
        results = self.published.folder.parent
        others = [name for name in BACKBONES if name != self.profile.name and any((results / name).glob("*.json"))]
        return [Book(name, runs=self.runs.folder, published=results) for name in others]

    def everywhere(self, name: str) -> dict[str, object]:
        """Backbone -> the result of the step ``name``: this profile's first, then what is published of the books `beside` it."""
        there = {one.backbone: one.published.read(one.published_steps[name]) for one in self.beside}
        found = {backbone: stored.result for backbone, stored in there.items() if stored is not None}
        return {self.backbone: self[name]} | {
            backbone: result for backbone, result in found.items() if not isinstance(result, Missing)
        }

    @cached_property
    def served_book(self) -> Book | None:
        """The book of `SERVED`, where it has published results and this profile has no LLM judge of its own."""
        results = self.published.folder.parent
        here = self.profile.judge is None and any((results / SERVED).glob("*.json"))
        return Book(SERVED, runs=self.runs.folder, published=results) if here else None

    def served(self, name: str):
        """The result of the step ``name`` by an LLM behind a server: this profile's own judge, or what is published of `SERVED`."""
        if self.profile.judge is not None:
            return self[name]
        stored = self.served_stored(name)
        return stored.result if stored else Missing(f"no {name} of profile {SERVED} is published")

    def served_stored(self, name: str) -> Stored | None:
        """What `served` gives, with what is known of its making; None where there is nothing."""
        book = self if self.profile.judge is not None else self.served_book
        if book is None or book is self:
            return book and book.stored(name)
        return book.published.read(book.published_steps[name])

    @property
    def caveats(self) -> str:
        """What a reader has to know of the backbones `beside` this one, as the end of a caption; empty where there are none."""
        said = ""
        for one in self.beside:
            seeds = (one.profile.seed, *one.profile.other_seeds)
            alone = " (intervals for other dialogues alone)" if len(seeds) == 1 else ""
            words = [f"profile {one.profile.name}, seed(s) {', '.join(map(str, seeds))}{alone}", *one.profile.caveats]
            said += f" {one.backbone}: {'; '.join(words)}."
        return said and f" Ours: {self.backbone}.{said}"

    def run(self, names: Sequence[str], workers=None, *, runs_only: bool = False) -> int:
        """Run the steps ``names`` and what they need where no result holds; returns how many were run.

        ``runs_only``: published results don't count, so that everything is computed here.
        """
        stores = Stores(self.runs, () if runs_only else (self.published,))
        workers = workers or local_workers(self.profile)
        return schedule.run(
            [self.steps[name] for name in names], self.names, stores, workers, needs_gpu=self.profile.needs_gpu
        )

    @property
    def label(self) -> str:
        """The profile's name for captions, with a warning where the data is the synthetic miniature."""
        synthetic = self["data"].corpus == "miniature"
        return f"{self.profile.name} on SYNTHETIC miniature data" if synthetic else self.profile.name

    def source(self, what: str, counted: bool = False) -> str:
        """The line that stands in every figure: who made it, from how much (``what``), and how far it may be read.

        ``counted``: no model had a part in it, and every profile counts the same.
        """
        how_far = "the same under every profile" if counted else REACH[self.profile.scale]
        return f"profile {self.label} ({how_far}) · {what}"


def open_book(namespace: MutableMapping) -> Book:
    """The book under a chapter's parameter ``profile``.  Called with ``globals()`` in the cell after the parameters.

    Raises ProfileError for a parameter that the chapter does not have, naming the nearest: papermill itself would set
    it and go on.
    """
    # Said by libraries that would draw progress bars in a notebook; it names a path of this machine.
    warnings.filterwarnings("ignore", message="IProgress not found")
    for cell in namespace.get("In", []):
        if cell.startswith("# Parameters\n"):  # how papermill opens the cell that it injects
            assigned = [node for node in ast.parse(cell).body if isinstance(node, ast.Assign)]
            for name in (target.id for node in assigned for target in node.targets):
                if name != "profile":
                    raise ProfileError(f"unknown parameter {name!r}{nearest(name, ['profile'])}. Parameters: profile")
    return Book(namespace["profile"])


def local_workers(profile: Profile, cores: int | None = None) -> Local:
    """Worker processes on this machine: one for each core, and for steps that run a model one for each card."""
    # glibc gives large blocks back to the system after each use, and a training step asks for the same ones again:
    # keeping them takes a third off the time on CPU.  Steps side by side fill the cores, each with one thread of its own.
    settings = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30), "OMP_NUM_THREADS": "1"}
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    cards = () if not profile.needs_gpu else [-1] if profile.launch else visible_cards()
    return Local(cores or core_count(), cards=cards, preload=PRELOAD, provenance=surroundings)


def visible_cards() -> list[int]:
    """The GPUs that this process may use, by number."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [int(card) for card in chosen.split(",") if card.strip().isdigit()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return list(range(sum(line.startswith("GPU ") for line in listed.splitlines())))


def core_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_VERSIONS = "decoupled-esc torch transformers trl peft accelerate datasets numpy scikit-learn nltk".split()


def surroundings() -> dict:
    """Where and with what this process computes: date, commit, hardware, versions, and its peak memory so far."""
    torch = sys.modules.get("torch")
    hardware = {"machine": platform.machine(), "system": platform.system(), "cores": core_count()}
    if torch is not None:
        hardware["threads"] = torch.get_num_threads()
        hardware["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "commit": commit(),
        "hardware": hardware,
        "versions": {package: importlib.metadata.version(package) for package in _VERSIONS},
        "python": platform.python_version(),
    }


def commit() -> str | None:
    """The git commit of this tree, marked ``+`` where files differ from it; None outside a checkout or without git."""
    if shutil.which("git") is None:
        return None
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or None


def changed_since(stored: Stored, step: Step) -> list[str]:
    """Modules of the rooms behind ``step`` that changed since ``stored`` was made: advice, no more."""
    text = Path(sys.modules[type(step).__module__].__file__).read_text(encoding="utf-8")
    changed = _changed_files((stored.provenance.get("commit") or "").rstrip("+"))
    rooms = {name.split("/")[0].removesuffix(".py") for name in changed}
    behind = {room for room in rooms if room in ("turn_trees", "prompts") or f"decoupled_esc.{room}" in text}
    return [name for name in changed if name.split("/")[0].removesuffix(".py") in behind]


@cache
def _changed_files(commit: str) -> list[str]:
    """Modules of this library, from its folder, and of turn_trees that differ from those of ``commit``."""
    if not commit or shutil.which("git") is None:
        return []
    command = ["git", "diff", "--name-only", commit, "--", "src/decoupled_esc", "packages/turn_trees/src"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.split()
    return [line.partition("src/")[2].removeprefix("decoupled_esc/") for line in listed if line.endswith(".py")]


class PublishError(KnownError):
    """Results that can't be published."""


ROWS_SHOWN = {
    "judged", "search",
    *(f"replies-{system}-{name}" for system in ("vanilla", "decoupled") for name in ("base", "sft", "sft-argmax", "dpo")),
}  # fmt: skip
"""Steps whose rows are published because a chapter shows some of them, as are counts, to which other seeds are added, and what a
judge gets wrong.  All others would only fill the repository, and whoever runs the step has them under ``runs/``."""


def publish_results(book: Book, names: Sequence[str] = ()) -> list[str]:
    """Copy results of this machine's runs, or those of the steps ``names`` alone, to ``results/``; returns their names.

    Raises PublishError where a step does not exist, has no result, here or published, or was not made from the published data.
    """
    fresh, lost = {}, []
    for name in names or book.steps:
        if name not in book.steps:
            raise PublishError(f"no step {name!r}{nearest(name, list(book.steps))}")
        step = book.steps[name]
        if step.key != book.published_steps[name].key:
            raise PublishError(
                f"{name} was not made from the published files and can't be published; see decoupled-esc data"
            )
        stored = Stores(book.runs).find(step)
        if stored is not None:
            fresh[name] = stored
        elif Stores(book.published).find(step, whole=False) is None:
            lost.append(name)
    if lost:
        raise PublishError(
            f"no result of {', '.join(lost[:8])}; run them first: decoupled-esc run --profile {book.profile.name}"
        )
    shown = {book.steps[name].key for name in ROWS_SHOWN}
    for name, stored in fresh.items():
        step = book.steps[name]
        kept = step.key in shown or isinstance(
            step, CountPerSeed | CountErrors | MeasureErrorRates | AnswerStrategyTest
        )
        book.published.write(step, stored.result, stored.provenance | {"name": name}, rows_left_out=not kept)
    return list(fresh)
