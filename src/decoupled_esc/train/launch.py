"""The same training in several processes, one a GPU: ``accelerate launch`` with a configuration file; on the CPU torchrun and gloo.

The parent writes down what is to be trained; its children load the weights, train together as ``fine_tune`` does alone, and
leave policy and log in the same folder.  An optimiser step reads the same sequences however many processes share it.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict, PositiveInt

from decoupled_esc.train.data import Sequences
from decoupled_esc.train.trainer import Log, Preference, Training, fine_tune

CONFIGS = Path(__file__).parents[3] / "profiles" / "accelerate"


class Launch(BaseModel):
    """How many processes train together, and how weights and gradients are spread over them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: PositiveInt
    config: str
    """A file of ``profiles/accelerate`` without its ending: ddp, fsdp, zero2; the path of one of yours; or ``cpu``."""

    @property
    def path(self) -> Path:
        """The configuration file."""
        return CONFIGS / f"{self.config}.yaml" if "/" not in self.config else Path(self.config)


class LaunchError(RuntimeError):
    """The processes could not be started, or one of them failed."""


def launched(
    weights: tuple, sequences: Sequences, how: Training, folder: Path, launch: Launch, *, seed: int, preference: Preference | None = None,
    reference: Sequence[Sequence[float]] | None = None,
) -> Log:  # fmt: skip
    """`fine_tune` by ``launch.processes`` processes; ``weights`` are (source, revision, dtype, adapter folder or None).

    Resumes from a checkpoint as `fine_tune` does.  Raises LaunchError where a process fails (what it said stands above) and
    ValueError for a batch that can't be shared evenly.
    """
    if how.batch % (how.micro_batch * launch.processes):
        raise ValueError(f"batch {how.batch} can't be shared by {launch.processes} processes of micro_batch {how.micro_batch}")
    if launch.config != "cpu" and not launch.path.exists():
        known = ["cpu", *sorted(path.stem for path in CONFIGS.glob("*.yaml"))]
        raise LaunchError(f"no configuration {launch.path.name}; there are {', '.join(known)}")
    work, log = folder / "launch.pickle", folder / "launch.json"
    log.unlink(missing_ok=True)
    work.write_bytes(pickle.dumps((weights, sequences, how, seed, preference, reference)))
    if launch.config == "cpu":  # accelerate would want MPI for it
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(launch.processes)]
    else:
        launcher = ["accelerate.commands.launch", "--config_file", str(launch.path), "--num_processes", str(launch.processes), "--main_process_port", "0"]
    command = [sys.executable, "-m", *launcher, "-m", "decoupled_esc.train.launch", str(folder)]
    environment = os.environ | ({"ACCELERATE_USE_CPU": "true"} if launch.config == "cpu" else {})
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if code or not log.exists():
        raise LaunchError(f"{' '.join(command[2:])} ended with status {code}; run again to go on from the last checkpoint")
    work.unlink()
    found = json.loads(log.read_text(encoding="utf-8"))
    return Log(**{**found, "steps": tuple(found["steps"])})


def main(folder: Path) -> None:
    """One of the processes."""
    import torch
    from accelerate import PartialState

    from decoupled_esc import models

    state = PartialState(cpu=not torch.cuda.is_available())  # first, so that each process has a GPU of its own
    (source, revision, dtype, adapter), sequences, how, seed, preference, reference = pickle.loads((folder / "launch.pickle").read_bytes())
    torch.set_num_threads(1 if not torch.cuda.is_available() else torch.get_num_threads())
    model = models.load(source, revision=revision, dtype=dtype, adapter=adapter, for_training=True)
    tokenizer = models.load_tokenizer(source, revision)
    log = fine_tune(model, tokenizer, sequences, how, folder, seed=seed, preference=preference, reference=reference)
    if state.is_main_process:
        (folder / "launch.json").write_text(json.dumps(asdict(log)), encoding="utf-8")
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
