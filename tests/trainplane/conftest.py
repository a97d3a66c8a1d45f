"""Real parts that several tests of this folder share."""

from __future__ import annotations

import shutil
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
