"""The book as a graph of jobs: stages, chapters and the book itself, with the files each depends on.

The Snakefile turns this graph into rules.  A job is due when its marker is missing or older than one of its files; the job
itself then looks closer (a stage compares digests, and does nothing where its result still holds).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from decoupled_esc import corpus
from decoupled_esc.corpus import fetch
from decoupled_esc.workflow import chapters, stages
from decoupled_esc.workflow.code import PACKAGE, files_behind, stage_code
from decoupled_esc.workflow.profiles import files, load_profile
from decoupled_esc.workflow.store import ROOT, write_atomically


@dataclass(frozen=True)
class Job:
    """One node of the graph."""

    kind: str
    """``stage``, ``chapter`` or ``book``."""
    name: str
    needs: tuple[str, ...]
    """Markers of the jobs before it."""
    files: tuple[str, ...]
    marker: str
    gpu: bool = False

    @property
    def resources(self) -> dict[str, int]:
        """What a cluster is asked for: GPUs, memory (MB), time (minutes) and cores.  On one machine only ``gpu`` counts."""
        if self.gpu:
            return {"gpu": 1, "mem_mb": 64_000, "runtime": 24 * 60, "cpus_per_task": 8}
        return {"gpu": 0, "mem_mb": 8_000, "runtime": 6 * 60, "cpus_per_task": 1}


def build(profile: str) -> Path:
    """Where a run under ``profile`` puts executed chapters, markers and the book."""
    return ROOT / "build" / profile


def jobs(profile: str) -> list[Job]:
    """All jobs of ``profile``, each after those it needs."""
    settings, folder = load_profile(profile), build(profile)
    described = files(profile.partition("@")[0])

    weights = [settings.backbone.folder / "model.safetensors"] if settings.backbone.kind == "embedded" else []

    def marker(name: str) -> str:
        return str(folder / "done" / name)

    def job(stage: stages.Stage, end: str = "") -> Job:
        """The job of ``stage``, of another seed where ``end`` is ``@<seed>``."""
        others = () if end else tuple(f"{need}@{seed}" for need in stage.over_seeds for seed in settings.more_seeds)
        return Job(
            "stage",
            stage.name + end,
            tuple(marker(need) for need in (*(need + end * (not stages.STAGES[need].once) for need in stage.needs), *others)),
            _files(
                *described, folder / "data.txt", Path(stages.__file__), *weights,
                *stage_code(stage.run.__name__, Path(stages.__file__))[1],
            ),
            marker(stage.name + end),
            gpu=settings.needs_gpu and stage.uses_model,
        )  # fmt: skip

    others = [job(stages.STAGES[name], f"@{seed}") for seed in settings.more_seeds for name in stages.of_every_seed()]
    found = []
    for stage in stages.STAGES.values():
        if stage.over_seeds:  # after what is made once, and before what is read over seeds
            found, others = [*found, *others], []
        found.append(job(stage))
    drawing = [PACKAGE / "present" / "book.mplstyle", ROOT / "data" / "paper_values.json"]
    drawing += [path for folder in ("bench", "pretraining") for path in (ROOT / "results" / folder).glob("*.json")]
    for source in chapters.sources():
        read = tuple(marker(name) for name in chapters.stages_read(source))
        found.append(
            Job("chapter", source.stem, read, _files(source, *files_behind(source), *drawing), marker(source.stem))
        )
    pages = [ROOT / "_config.yml", ROOT / "_toc.yml", PACKAGE / "workflow" / "book.py"]
    pages += [path for path in (ROOT / "book").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    executed = tuple(job.marker for job in found if job.kind == "chapter")
    return [*found, Job("book", "book", executed, _files(*pages), marker("book"))]


def behind(graph: list[Job], names: list[str]) -> list[Job]:
    """The jobs called ``names`` and all that they need, in the graph's order; all jobs where no name is given."""
    by_marker, wanted = {job.marker: job for job in graph}, set()
    queue = [job.marker for job in graph if job.name in names or not names]
    while queue:
        marker = queue.pop()
        if marker not in wanted:
            wanted.add(marker)
            queue += by_marker[marker].needs
    return [job for job in graph if job.marker in wanted]


def due(graph: list[Job]) -> list[Job]:
    """The jobs that a run would start."""
    started: dict[str, Job] = {}
    for job in graph:
        path = Path(job.marker)
        inputs = [Path(name) for name in (*job.needs, *job.files)]
        if (
            not path.exists()
            or any(need in started for need in job.needs)
            or any(file.exists() and file.stat().st_mtime > path.stat().st_mtime for file in inputs)
        ):
            started[job.marker] = job
    return list(started.values())


def note_data(profile: str) -> str:
    """Write down which data this machine has, for the jobs that depend on it; returns where it came from.

    The file keeps its time when nothing changed, so that only other data makes jobs due.
    """
    found = {name: corpus.load(name) for name in ("esconv", "failed_esconv")}
    text = "".join(f"{name} {data.name} {data.digest}\n" for name, data in found.items())
    text += "".join(f"{name} {'here' if fetch.here(name) else 'absent'}\n" for name in stages.file_sets())
    path = build(profile) / "data.txt"
    if not path.exists() or path.read_text() != text:
        write_atomically(path, text)
    return ", ".join(f"{name} from {data.origin}" for name, data in found.items())


def _files(*paths: Path) -> tuple[str, ...]:
    return tuple(sorted({str(path) for path in paths}))
