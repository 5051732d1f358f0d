"""Where steps run.  `Local` starts each in a process of its own, forked from one that has paid the imports; `Slurm` submits jobs.

A step's process leads a group of its own, which ends with the process that started it, however that ends.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

from filelock import FileLock

from decoupled_esc.errors import DISK, KNOWN, KnownError
from decoupled_esc.pipeline.schedule import Outcome
from decoupled_esc.pipeline.step import Step, Work, attempt
from decoupled_esc.pipeline.store import Stores

GONE = "its process ended without a word ({}), perhaps for want of memory; the same command goes on from there"


def perform(step: Step, name: str, stores: Stores, provenance: Callable[[], dict]) -> Outcome:
    """Run ``step`` and store its result, in this process; one at a time for each key, whoever else asks."""
    folder, started = stores.runs.place(step).parent, time.perf_counter()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if stores.find(step, quiet=True) is None:  # whoever planned the run has named what is damaged
                if (folder / "result.json").exists():  # damaged: nothing beside it is trusted
                    stores.runs.clear(step)
                work = Work(step, name, folder, stores.runs.folder, stores)
                result = attempt(lambda: step.run(work))
                seconds = round(time.perf_counter() - started, 1)
                stores.runs.write(
                    step, result, {"name": name, "wall_seconds": seconds, "tokens": work.tokens, **provenance()}
                )
    except KNOWN as error:
        return Outcome(time.perf_counter() - started, str(error))
    except OSError as error:
        if error.errno not in DISK:
            return _fault(error, started)
        where = error.filename or folder
        return Outcome(time.perf_counter() - started, f"{where}: {error.strerror}; what was finished is kept")
    except Exception as error:
        return _fault(error, started)
    return Outcome(time.perf_counter() - started)


def _fault(error: Exception, started: float) -> Outcome:
    said = f"{type(error).__name__}: {error}"
    return Outcome(time.perf_counter() - started, said, "".join(traceback.format_exception(error)))


class Local:
    """Processes on this machine, each forked from a server that has imported ``preload`` once."""

    def __init__(self, slots: int, *, cards: Sequence[int] = (), preload: Sequence[str] = (), provenance=dict):
        self.slots, self.cards, self.provenance = slots, list(cards), provenance
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(preload))
        self._running: dict[Future, multiprocessing.Process] = {}

    def submit(self, step: Step, name: str, stores: Stores, card: int | None) -> Future:
        future: Future = Future()
        theirs, ours = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(ours, step, name, stores, card, self.provenance))
        with _plain_main():
            process.start()
        ours.close()
        self._running[future] = process
        threading.Thread(target=self._await, args=(future, process, theirs), daemon=True).start()
        return future

    def _await(self, future: Future, process, theirs) -> None:
        try:
            outcome = theirs.recv()
        except (EOFError, OSError):
            outcome = None
        process.join()
        self._running.pop(future, None)
        code = process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit status {code}"
        future.set_result(outcome or Outcome(0.0, GONE.format(how)))

    def stop(self) -> None:
        """End the running steps and what they started."""
        for process in list(self._running.values()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()


@contextlib.contextmanager
def _plain_main():
    """Keep a started process from importing the main module, which may be a notebook's or a test's."""
    main = sys.modules["__main__"]
    kept = {name: main.__dict__.get(name) for name in ("__spec__", "__file__")}
    main.__spec__ = main.__file__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def _child(ours, step: Step, name: str, stores: Stores, card: int | None, provenance) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os.killpg(0, signal.SIGKILL)), daemon=True).start()
    if card is not None and card >= 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(card)
    ours.send(perform(step, name, stores, provenance))
    ours.close()


class Slurm:
    """Jobs of a SLURM cluster, by submitit.  ``parameters``: of its AutoExecutor; ``gpu_parameters``: on top, for steps that run a model."""

    slots, cards = 100, ()

    def __init__(self, folder: Path, parameters: dict, gpu_parameters: dict, *, provenance=dict):
        try:
            import submitit
        except ImportError:
            raise KnownError("a cluster needs the package submitit: pip install -e '.[slurm]'") from None
        self.provenance = provenance
        self._parameters, self._gpu, self._jobs = parameters, gpu_parameters, []
        self._executor = submitit.AutoExecutor(folder=folder, cluster="slurm")

    def submit(self, step: Step, name: str, stores: Stores, card: int | None) -> Future:
        more = self._gpu if step.uses_model else {}
        self._executor.update_parameters(name=name, **{**self._parameters, **more})
        job, future = self._executor.submit(perform, step, name, stores, self.provenance), Future()
        self._jobs.append(job)
        threading.Thread(target=self._await, args=(future, job), daemon=True).start()
        return future

    def _await(self, future: Future, job) -> None:
        try:
            future.set_result(job.result())
        except Exception as error:  # the job's own errors are outcomes: this is the cluster's
            future.set_result(
                Outcome(0.0, f"job {job.job_id}: {' '.join(str(error).split())[-300:]} (logs: {job.paths.stderr})")
            )

    def stop(self) -> None:
        """Cancel the jobs."""
        for job in self._jobs:
            job.cancel(check=False)
