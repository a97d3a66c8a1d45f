"""Who a run is in MLflow.

A run has a deterministic key. Whatever crashed in between, the same key is the same MLflow run: its status goes back
to RUNNING, its attempts are counted, and the handle says which steps are recorded already. These calls talk to the
server and wait for it; what a loop records while it trains goes through `tracker`, which never waits.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainplane.errors import UserError
from trainplane.tracking.client import all_pages, client_for, unreachable
from trainplane.tracking.tracker import NullTracker, Recorder, Status, Tracker, recorded_steps

__all__ = [
    "NullTracker",
    "Recorder",
    "RunHandle",
    "Status",
    "Tracker",
    "end_run",
    "find_or_create_run",
    "owner",
    "reap",
]

KEY_TAG = "trainplane.run_key"
OWNER_TAG = "trainplane.owner"
# MLflow's pages then open on runs and metrics, not on traces of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
ATTEMPTS_TAG = "trainplane.attempts"


@dataclass(frozen=True)
class RunHandle:
    """One MLflow run, as far as it was recorded when this attempt began.

    `last_steps` has the last recorded step of every metric, and of every picture under `picture KEY`; `last_step` is
    the last one of training metrics. It is small and picklable: the launcher makes it, rank 0 uses it.
    """

    run_id: str
    experiment_id: str
    resumed: bool
    last_step: int | None
    attempt: int = 1
    last_steps: Mapping[str, int] = field(default_factory=dict)


def find_or_create_run(
    tracking_uri: str,
    experiment: str,
    *,
    run_key: str,
    run_name: str,
    tags: Mapping[str, str],
    parent_run_id: str | None = None,
    artifact_root: str,
) -> RunHandle:
    """The one MLflow run of `run_key`, now RUNNING and owned by this process.

    `artifact_root` (s3://… or a folder) is where a new experiment keeps its artifacts: the recorder writes straight
    there, not through the tracking server. Raises `UserError` when the address does not answer.
    """
    if not re.fullmatch(r"[A-Za-z0-9._:/@+=-]{1,250}", run_key):
        raise UserError(f"run key {run_key!r}: need 1 to 250 letters, digits and ._:/@+=-; choose another name")
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        experiment_id = _experiment(client, experiment, artifact_root)
        first_tags = {**tags, KEY_TAG: run_key}
        if parent_run_id is not None:
            first_tags["mlflow.parentRunId"] = parent_run_id
        found = _runs_with_key(client, experiment_id, run_key)
        resumed = bool(found)
        while not found:
            client.create_run(experiment_id, tags=first_tags, run_name=run_name)
            found = _only_one(client, _runs_with_key(client, experiment_id, run_key))
        run = client.get_run(found[0].info.run_id)
        attempt = int(run.data.tags.get(ATTEMPTS_TAG, "0")) + 1
        last_steps = recorded_steps(client, run.info.run_id) if resumed else {}
        client.update_run(run.info.run_id, status="RUNNING")
        _set_tags(client, run.info.run_id, {**tags, OWNER_TAG: owner(), ATTEMPTS_TAG: str(attempt)})
    except MlflowException as error:
        raise unreachable(tracking_uri, error) from error
    training = [step for key, step in last_steps.items() if key.startswith("train/")]
    return RunHandle(
        run_id=run.info.run_id,
        experiment_id=experiment_id,
        resumed=resumed,
        last_step=max(training, default=None),
        attempt=attempt,
        last_steps=last_steps,
    )


def end_run(tracking_uri: str, run_id: str, status: Status, tags: Mapping[str, str] | None = None) -> None:
    """Close a run from outside its recorder. Raises `UserError` when the address does not answer."""
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        _set_tags(client, run_id, tags or {})
        client.set_terminated(run_id, status=status)
    except MlflowException as error:
        raise unreachable(tracking_uri, error) from error


def reap(tracking_uri: str) -> list[str]:
    """Mark runs FAILED that are RUNNING although their process, on this host, is gone; returns their ids."""
    client = client_for(tracking_uri)
    from mlflow.exceptions import MlflowException

    reaped = []
    try:
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        running = all_pages(
            client.search_runs,
            experiment_ids=experiments,
            filter_string=f"attributes.status = 'RUNNING' and tags.`{OWNER_TAG}` LIKE '{_host()}:%'",
        )
        for run in running:
            if _is_gone(run.data.tags[OWNER_TAG]):
                _set_tags(client, run.info.run_id, {"trainplane.reaped": "its process ended without closing the run"})
                client.set_terminated(run.info.run_id, status="FAILED")
                reaped.append(run.info.run_id)
    except MlflowException as error:
        raise unreachable(tracking_uri, error) from error
    return reaped


def owner() -> str:
    """`host:pid:start` of this process; the host names its PID namespace too, since containers share names."""
    return f"{_host()}:{os.getpid()}:{_started(os.getpid())}"


def _host() -> str:
    return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _is_gone(owner_tag: str) -> bool:
    """Whether the process behind an owner tag of this host has ended; its number may belong to another one by now."""
    _, pid, started = owner_tag.rsplit(":", 2)
    return _started(int(pid)) != started


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot (no change of the clock alters them); None when it is gone."""
    try:
        # The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in "ZX" else rest[18]


def _experiment(client: Any, name: str, artifact_root: str) -> str:
    """The id of the experiment, created with its own place for artifacts when it is new."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        root = artifact_root if "://" in artifact_root else str(Path(artifact_root).resolve())
        try:
            place = f"{root.rstrip('/')}/{quote(name, safe='')}"
            return str(client.create_experiment(name, artifact_location=place, tags=_EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found.lifecycle_stage != "active":
        raise UserError(f"experiment {name!r} was deleted in MLflow; restore it there, or set tracking.experiment=…")
    return str(found.experiment_id)


def _runs_with_key(client: Any, experiment_id: str, run_key: str) -> list[Any]:
    """Runs of that key, the oldest first."""
    found = client.search_runs([experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{run_key}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def _only_one(client: Any, found: list[Any]) -> list[Any]:
    """The run that stays when several launchers made one for the same key at the same time.

    All see the same order, so all keep the same one; only when a launcher was delayed for long may it have gone on
    with another, which is why a run that an attempt has claimed comes first.
    """
    ranked = sorted(found, key=lambda run: ATTEMPTS_TAG not in run.data.tags)
    for surplus in ranked[1:]:
        client.delete_run(surplus.info.run_id)
    return ranked[:1]


def _set_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()], synchronous=True)
