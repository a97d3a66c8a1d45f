"""Settings and fixtures of all tests: threads, groups for parallel runs, a tracking store, an MLflow server."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from trainplane.cluster.ports import free_port
from trainplane.testing.mlflow_server import tracking_server

# Fixtures of tests/support: an S3 server, and a project with datasets and a run.
pytest_plugins = ["s3_fixtures", "project_fixtures"]

# Tests run in several processes at once and their tensors are small: threads that wait for each other cost more than
# they bring. Commands that a test starts inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long drawing an example takes says something of the machine, not of the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leaves what is imported by now to itself: collecting garbage would look at a million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Computes with one thread, as commands that a test starts do."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def empty_tracking_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite tracking store with MLflow's tables and nothing in it; making one takes seconds, copying it none."""
    from trainplane.tracking.client import TrackingServer

    path = tmp_path_factory.mktemp("tracking") / "mlflow.db"
    TrackingServer(f"sqlite:///{path}").client.search_experiments()
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
    port = free_port()

    def start() -> AbstractContextManager[str]:
        return tracking_server(tracking_uri, port=port, artifacts=str(tmp_path / "artifacts"))

    return start
