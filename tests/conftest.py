"""A tracking store, and a real server over it, for every test that asks for one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_tracking_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite tracking store with MLflow's tables and nothing in it; making one takes seconds, copying it none."""
    from trainplane.tracking.client import client_for

    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    client_for(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracking_uri(empty_tracking_db: Path, tmp_path: Path) -> str:
    """The address of an SQLite tracking store of the test's own."""
    path = tmp_path / "mlflow.db"
    shutil.copyfile(empty_tracking_db, path)
    return f"sqlite:///{path}"


@pytest.fixture
def mlflow_server(tracking_uri: str, tmp_path: Path) -> Callable[[], AbstractContextManager[str]]:
    """Starts a real server process over `tracking_uri`, always at the same address, which the block gets.

    Leaving the block kills the server and everything it started, without a word to it.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking_uri, "--default-artifact-root", str(tmp_path / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}

    @contextmanager
    def start() -> Iterator[str]:
        server = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 120
            while not _is_healthy(port):
                assert server.poll() is None, "the server ended while it was starting"
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()

    return start


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False
