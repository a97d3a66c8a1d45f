"""The replica that `isnet bench traffic --replicas` kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.bench.traffic import kill_replica
from trainplane.errors import RunFailed


def replica(home: Path) -> subprocess.Popen[bytes]:
    """A process with the name and the home of a replica."""
    words = ["ray::ServeReplica:isnet:fills.answer", "-c", "import time; print(flush=True); time.sleep(60)"]
    process = subprocess.Popen(
        words, executable=sys.executable, env={**os.environ, "ISNET_HOME": str(home)}, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_only_a_replica_of_this_servers_home_is_killed(tmp_path: Path) -> None:
    mine, other = replica(tmp_path / "home"), replica(tmp_path / "other")
    try:
        kill_replica(tmp_path / "home")
        assert mine.wait(10) == -9
        assert other.poll() is None
        with pytest.raises(RunFailed, match="no process is called"):
            kill_replica(tmp_path / "home")
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()
