"""A tracking store of its own for every test that asks for one."""

from __future__ import annotations

import shutil
import socket
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
def unused_port() -> int:
    """A TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
