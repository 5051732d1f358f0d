"""The same training in several processes, one per GPU by ``accelerate launch``; on the CPU by torchrun and gloo.

The parent writes down what is to be trained; its children load the weights, train together as ``fine_tune`` does
alone, and leave policy and log in the same folder.  An optimiser step reads the same sequences however many share it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from decoupled_esc import processes
from decoupled_esc.errors import KnownError
from decoupled_esc.models import Weights
from decoupled_esc.train.config import CONFIGS, Launch, Preference, Training
from decoupled_esc.train.data import Sequences
from decoupled_esc.train.trainer import Log, fine_tune


class LaunchError(KnownError, RuntimeError):
    """The processes could not be started, or one of them failed."""


@dataclass(frozen=True)
class Job:
    """What is to be trained, as the children read it from ``launch-job.json``."""

    weights: Weights
    sequences: Sequences
    training: Training
    seed: int
    preference: Preference | None = None
    reference: list[list[float]] | None = None


def launched(job: Job, folder: Path, launch: Launch) -> Log:
    """`fine_tune` by ``launch.processes`` processes, which end with this one.  Resumes from a checkpoint as it does.

    Raises LaunchError where a process fails (what it said stands above) and TrainingError for a batch that can't be
    shared evenly.
    """
    job.training.accumulation(launch.processes)
    if launch.config != "cpu" and not launch.path.exists():
        known = ["cpu", *sorted(path.stem for path in CONFIGS.glob("*.yaml"))]
        raise LaunchError(f"no configuration {launch.path.name}; there are {', '.join(known)}")
    work, log = folder / "launch-job.json", folder / "launch-log.json"
    log.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    work.write_bytes(TypeAdapter(Job).dump_json(job))
    count, environment = str(launch.processes), dict(os.environ)
    if launch.config == "cpu":  # accelerate would want MPI for it
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", count]
        environment["ACCELERATE_USE_CPU"] = "true"
    else:
        launcher = ["accelerate.commands.launch", "--config_file", str(launch.path), "--num_processes", count]
        launcher += ["--main_process_port", "0"]
    command = [sys.executable, "-m", *launcher, "-m", "decoupled_esc.train.launch", str(folder)]
    with subprocess.Popen(
        command, start_new_session=True, env=environment, preexec_fn=processes.ends_with_parent()
    ) as process:
        try:
            code = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if code or not log.exists():
        raise LaunchError(
            f"{' '.join(command[2:])} ended with status {code}; run again to go on from the last checkpoint"
        )
    work.unlink()
    return TypeAdapter(Log).validate_json(log.read_bytes())


def main(folder: Path) -> None:
    """One of the processes."""
    processes.end_with_parent()
    import torch
    from accelerate import PartialState

    from decoupled_esc import models

    state = PartialState(cpu=not torch.cuda.is_available())  # first, so that each process has a GPU of its own
    job = TypeAdapter(Job).validate_json((folder / "launch-job.json").read_bytes())
    models.be_repeatable()
    log = fine_tune(
        models.load(job.weights, for_training=True),
        models.load_tokenizer(job.weights),
        job.sequences,
        job.training,
        folder,
        seed=job.seed,
        start=job.weights.identity,
        preference=job.preference,
        reference=job.reference,
    )
    if state.is_main_process:
        (folder / "launch-log.json").write_bytes(TypeAdapter(Log).dump_json(log))
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
