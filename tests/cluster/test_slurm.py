"""The launcher for Slurm, with a real controller and a real node on loopback."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import SMALL

from trainplane.cluster.ports import free_port

LAUNCHER = Path(__file__).resolve().parents[2] / "infra" / "slurm" / "train.sbatch"
DAEMONS = ("munged", "slurmctld", "slurmd")
CONFIG = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=20
SlurmctldPort={controller}
SlurmdPort={node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path):
    """A Slurm of one node; yields what its commands need in their environment."""
    if os.geteuid() or not all(shutil.which(daemon) for daemon in DAEMONS):
        pytest.skip("needs root, and slurmd, slurmctld and munge installed")
    # The path of munge's socket has 107 bytes at most, and nobody else may write to its folder.
    folder = Path("/run") / f"isnet-slurm-{os.getpid()}"
    for name in ("", "state", "spool", "key"):
        (folder / name).mkdir(mode=0o755)
    (folder / "key" / "munge.key").write_bytes(os.urandom(128))
    (folder / "key" / "munge.key").chmod(0o400)
    config = folder / "slurm.conf"
    ports = [free_port()]
    ports.append(free_port(ports))
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(folder=folder, host=host, controller=ports[0], node=ports[1]))
    munge = [
        "munged",
        "--foreground",
        "--force",
        f"--key-file={folder}/key/munge.key",
        f"--socket={folder}/munge.socket",
    ]
    munge += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed"]
    commands = [munge, ["slurmctld", "-D", "-f", config], ["slurmd", "-D", "-f", config]]
    environment = {**os.environ, "SLURM_CONF": str(config)}
    started = []
    try:
        for command in commands:
            with open(folder / f"{command[0]}.out", "wb") as log:
                started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)
        deadline = time.monotonic() + 60
        while "idle" not in (said := slurm_says(environment, "sinfo", "--noheader")):
            texts = [path.read_text()[-1500:] for path in folder.glob("*.out")]
            assert time.monotonic() < deadline, "\n".join([said, *texts])
            time.sleep(0.5)
        yield environment
    finally:
        # What still runs ends with its job; daemons would wait for it.
        slurm_says(environment, "scancel", "--full", "--user=root")
        time.sleep(2)
        for process in reversed(started):
            process.kill()
            process.wait()
        shutil.rmtree(folder)


def slurm_says(environment, *command):
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.nightly
def test_a_job_that_is_told_to_end_saves_and_slurm_starts_it_again(project, slurm, tmp_path):
    settings = [word for word in SMALL if not word.startswith(("train.steps", "train.checkpoint", "train.validate"))]
    settings += ["train.steps=200", "train.checkpoint_every=500", "train.validate_every=200", "train.seed=31"]
    log = tmp_path / "job.log"
    environment = {**slurm, "ISNET": f"{sys.executable} -m jobs.cli"}
    command = ["sbatch", "--parsable", f"--output={log}", LAUNCHER, "train", "demo", *settings]
    done = subprocess.run([*map(str, command)], cwd=project.folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    wait_for(log, r"step [1-9]\d*/200")
    slurm_says(environment, "scancel", "--batch", "--signal=TERM", job)
    wait_for(log, "back into Slurm's queue")
    # Slurm keeps a requeued job back for as long as its credentials live.
    wait_for(log, "state digest")
    text = log.read_text()
    saved = int(re.search(r"step (\d+) of 200 is saved", text)[1])
    before, _, after = text.partition(" of 200 is saved")
    assert max(int(step) for step in re.findall(r"step (\d+)/200", before)) <= saved
    assert min(int(step) for step in re.findall(r"step (\d+)/200", after)) > saved
    straight = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", "demo", *settings, "--fresh", "--json"],
        cwd=project.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.findall(r"state digest +(\w+)", text) == [json.loads(straight.stdout)["state_digest"]]


def wait_for(log, pattern):
    deadline = time.monotonic() + 900
    while not (log.exists() and re.search(pattern, log.read_text())):
        assert time.monotonic() < deadline, log.read_text() if log.exists() else "no log"
        time.sleep(0.2)
