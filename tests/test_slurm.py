"""The book's jobs on a real SLURM, on one node: opt in with ``DECOUPLED_ESC_SLURM=1 pytest tests/test_slurm.py`` (as root).

Debian's packages slurm-wlm and munge are installed where they are missing.  Takes about a minute.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from decoupled_esc.workflow import dag
from decoupled_esc.workflow.store import ROOT, RUNS

pytestmark = pytest.mark.skipif(os.environ.get("DECOUPLED_ESC_SLURM") != "1", reason="opt in with DECOUPLED_ESC_SLURM=1: it installs and starts SLURM")

CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=9000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


COMMAND = str(Path(sys.executable).parent / "decoupled-esc")


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "SLURM did not come up"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A controller and a node, both here; the environment in which its commands find it."""
    if not shutil.which("slurmctld"):
        subprocess.run(["apt-get", "-qq", "update"], check=True)
        subprocess.run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge"], check=True)
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = Path("/etc/slurm/slurm.conf")  # where jobs look for it, too
    assert not conf.exists(), "this machine has a SLURM of its own"
    conf.parent.mkdir(exist_ok=True)
    conf.write_text(CONFIG.format(folder=folder, host=host, cores=os.cpu_count()))
    environment = os.environ | {"SLURM_CONF": str(conf)}
    started = not subprocess.run(["pgrep", "munged"], capture_output=True).stdout
    if started:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True)
    daemons = [subprocess.Popen([shutil.which(name) or f"/usr/sbin/{name}", "-D"], env=environment) for name in ("slurmctld", "slurmd")]
    try:
        until(lambda: "idle" in subprocess.run(["sinfo", "--noheader"], env=environment, capture_output=True, text=True).stdout)
        yield environment, folder
    finally:
        conf.unlink()
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        if started:
            subprocess.run(["pkill", "munged"])


def test_stages_run_as_jobs_of_the_cluster(slurm):
    environment, folder = slurm
    names = ["data", "base-model"]
    for name in names:
        (RUNS / "smoke" / f"{name}.json").unlink(missing_ok=True)
        (dag.build("smoke") / "done" / name).unlink(missing_ok=True)
    begun = time.monotonic()
    run = subprocess.run(
        [COMMAND, "run", "--profile", "smoke", "--cluster", str(ROOT / "profiles" / "slurm"), *names],
        env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    for name in names:
        assert (RUNS / "smoke" / f"{name}.json").exists() and (dag.build("smoke") / "done" / name).exists()
    log = (folder / "slurmctld.log").read_text()
    assert log.count("_job_complete") >= 2 * len(names) or log.count("WEXITSTATUS 0") >= len(names), log[-2000:]
    print(f"{len(names)} stages as SLURM jobs: {time.monotonic() - begun:.0f} s")


def test_a_folder_without_a_profile_is_refused(tmp_path):
    run = subprocess.run([COMMAND, "run", "--cluster", str(tmp_path)], capture_output=True, text=True)
    assert run.returncode == 1 and "holds no config.yaml; profiles/slurm" in run.stderr
