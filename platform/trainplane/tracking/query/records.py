"""Reads records of runs by their ids.

To import MLflow costs two seconds of a processor; a local database is read as it is (`local.lists`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.find_run import find_run, is_run_id
from trainplane.tracking.local.database import SQLITE, database_path
from trainplane.tracking.local.lists import FoundRun, LocalLists, read_locally
from trainplane.tracking.local.moved import follow_move


def read_runs(server: TrackingServer, asked_ids: Sequence[str]) -> list[FoundRun]:
    """Reads runs by their ids, or beginnings of these.

    Raises:
        UserError: No run, or several, have such an id.
    """
    local: list[FoundRun | None] = [None] * len(asked_ids)
    if server.address.startswith(SQLITE) and server.exists:
        follow_move(database_path(server.address))
        local = read_locally(server.address, lambda lists: [_only(lists, each) for each in asked_ids]) or local
    # MLflow's client says what is wrong with the others.
    return [run or FoundRun.of(find_run(server, typed_id)) for run, typed_id in zip(local, asked_ids, strict=True)]


def _only(lists: LocalLists, asked_id: str) -> FoundRun | None:
    if not is_run_id(asked_id):
        return None
    runs = lists.runs(list(lists.experiments()), prefix=asked_id, limit=2, with_settings=True)
    return runs[0] if len(runs) == 1 else None


def local_folder(run: FoundRun) -> Path | None:
    """Folder of a run's artifacts, if on this machine."""
    address = run.artifacts.removeprefix("file://")
    return Path(address) if address.startswith("/") else None


def read_artifact(server: TrackingServer, run: FoundRun, name: str, scratch: Path) -> bytes | None:
    """Reads one artifact of a run, if it is there.

    Args:
        server: Has the run.
        run: The run.
        name: Path below its artifacts.
        scratch: Folder for what is downloaded.
    """
    if (folder := local_folder(run)) is not None:
        path = folder / name
        return path.read_bytes() if path.is_file() else None
    from mlflow.exceptions import MlflowException

    try:
        return Path(server.client.download_artifacts(run.run_id, name, str(scratch))).read_bytes()
    except (MlflowException, OSError):
        return None
