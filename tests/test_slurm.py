"""Steps as jobs of a real SLURM, on one node: opt in with ``DECOUPLED_ESC_SLURM=1 pytest tests/test_slurm.py`` (as root).

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

WANTED = os.environ.get("DECOUPLED_ESC_SLURM") == "1"
pytestmark = pytest.mark.skipif(not WANTED, reason="opt in with DECOUPLED_ESC_SLURM=1: it installs and starts SLURM")

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
    programs = [shutil.which(name) or f"/usr/sbin/{name}" for name in ("slurmctld", "slurmd")]
    daemons = [subprocess.Popen([program, "-D"], env=environment) for program in programs]
    try:
        told = {"env": environment, "capture_output": True, "text": True}
        until(lambda: "idle" in subprocess.run(["sinfo", "--noheader"], **told).stdout)
        yield environment, folder
    finally:
        conf.unlink()
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        if started:
            subprocess.run(["pkill", "munged"])


def test_steps_run_as_jobs_of_the_cluster(slurm, tmp_path):
    environment, folder = slurm
    parameters, script, runs = tmp_path / "cluster.yaml", tmp_path / "main.py", tmp_path / "runs"
    parameters.write_text("steps: {timeout_min: 10, mem_gb: 2, cpus_per_task: 1}\ngpu_steps: {}\n")
    script.write_text(
        "import sys\nfrom functools import partial\nfrom pathlib import Path\nfrom decoupled_esc import cli\n"
        f"from decoupled_esc.experiments import run\nrun.Book = partial(run.Book, runs=Path({str(runs)!r}))\n"
        f"sys.exit(cli.main(['run', 'data', 'base-model', 'sft-planner', '--cluster', {str(parameters)!r}]))\n"
    )
    begun = time.monotonic()
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=400)
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(list(runs.glob("steps/*/result.json"))) == 3 and "sft-planner done" in run.stdout
    log = (folder / "slurmctld.log").read_text()
    assert log.count("_job_complete") >= 6 or log.count("WEXITSTATUS 0") >= 3, log[-2000:]
    print(f"3 steps as SLURM jobs: {time.monotonic() - begun:.0f} s")
