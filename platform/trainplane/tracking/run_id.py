"""Identity of an MLflow run, derived from its key alone.

So a run can start while its server is unreachable. `find_or_create` may be called again, later, and from several hosts:
the same key is one run. Until then a run has a reserved id, a digest of experiment and key; MLflow chooses another id,
and `find_reserved_run` leads from the first to the second.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainplane.errors import UserError
from trainplane.tracking.mlflow_names import MAX_RUN_NAME, MAX_TAG, run_tag, valid_key, valid_text

# The tags that connect an MLflow run with its key, its reserved id and its process.
KEY_TAG = "trainplane.run_key"
RESERVED_TAG = "trainplane.reserved"
ATTEMPTS_TAG = "trainplane.attempts"
OWNER_TAG = "trainplane.owner"
REAPED_TAG = "trainplane.reaped"
# Why the last attempt failed; a finished run has none.
ERROR_TAG = "trainplane.error"
# MLflow's own, by which its pages show trials below their search.
PARENT_TAG = "mlflow.parentRunId"
_RESERVED = "reserved-"
# 96 bits: enough for all runs, short enough for a folder's name.
_RESERVED_DIGITS = 24
# MLflow's pages then open on runs and metrics, not on traces of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class RunSpec:
    """Arguments to create a run."""

    experiment: str  # Name of MLflow's experiment
    run_key: str  # 1 to 250 letters, digits and `._:/@+=-`; the same key is the same run
    run_name: str  # Shown on MLflow's pages
    # `s3://…` or a folder, where a new experiment stores its artifacts. The recorder writes there directly, not through
    # the tracking server.
    artifact_root: str
    parent_run_id: str | None = None  # The search that it is a trial of
    tags: Mapping[str, str] = field(default_factory=dict)  # Tags of the run

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._:/@+=-]{1,250}", self.run_key):
            raise UserError(
                f"run key {self.run_key!r}: need 1 to 250 letters, digits and ._:/@+=-; choose another name"
            )

    @property
    def reserved_id(self) -> str:
        """Id until MLflow has the run; names its spool, too."""
        # JSON of a list, so that no two pairs of names give one text.
        identity = json.dumps([self.experiment, self.run_key]).encode()
        return f"{_RESERVED}{hashlib.sha256(identity).hexdigest()[:_RESERVED_DIGITS]}"

    def to_json(self) -> dict[str, Any]:
        """Fields as JSON; `RunSpec(**fields)` is the way back."""
        return {**asdict(self), "tags": dict(self.tags)}


def is_reserved(run_id: str) -> bool:
    """Checks whether an id is reserved, so not MLflow's own."""
    return run_id.startswith(_RESERVED)


def find_or_create(client: Any, spec: RunSpec, *, claim: Mapping[str, str] | None = None) -> tuple[Any, bool]:
    """Finds or creates a key's run; True if it existed.

    Errors of the client go to the caller. `claim` has tags that name the owner of a new run from its first moment, so
    that it can be marked stale if `start_attempt` never follows.
    """
    experiment_id = find_or_create_experiment(client, spec.experiment, spec.artifact_root)
    runs = _runs_with_key(client, experiment_id, spec.run_key)
    existed = bool(runs)
    tags = {**spec.tags, **(claim or {}), KEY_TAG: spec.run_key, RESERVED_TAG: spec.reserved_id}
    if spec.parent_run_id is not None:
        tags[PARENT_TAG] = spec.parent_run_id
    valid_tags = {valid_key(key): valid_text(value, MAX_TAG) for key, value in tags.items()}
    # Another launcher may create the same run at this moment: search again, and agree on one.
    while not runs:
        client.create_run(experiment_id, tags=valid_tags, run_name=valid_text(spec.run_name, MAX_RUN_NAME))
        runs = _delete_surplus(client, _runs_with_key(client, experiment_id, spec.run_key))
    return client.get_run(runs[0].info.run_id), existed


def start_attempt(client: Any, run: Any, *, tags: Mapping[str, str], owner: str, is_replay: bool = False) -> int:
    """Sets a run RUNNING and owned; returns the attempt's number.

    `is_replay`: the same start may have been sent before, so the same owner is the same attempt.
    """
    attempts = int(run.data.tags.get(ATTEMPTS_TAG, "0"))
    if not (is_replay and attempts and run.data.tags.get(OWNER_TAG) == owner):
        attempts += 1
    client.update_run(run.info.run_id, status="RUNNING")
    set_tags(client, run.info.run_id, {**tags, OWNER_TAG: owner, ATTEMPTS_TAG: str(attempts)})
    return attempts


def find_reserved_run(client: Any, reserved_id: str) -> Any | None:
    """Finds a run by its reserved id, in any experiment."""
    # MLflow searches runs by experiment only.
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, filter_string=f"tags.`{RESERVED_TAG}` = '{reserved_id}'", max_results=2)
    return runs[0] if runs else None


def set_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets several tags with one request."""
    client.log_batch(run_id, tags=[run_tag(key, value) for key, value in tags.items()], synchronous=True)


def find_or_create_experiment(
    client: Any, name: str, artifact_root: str | None, *, tags: Mapping[str, str] = _EXPERIMENT_TAGS
) -> str:
    """Id of an experiment; creates a missing one.

    Without `artifact_root` a new one stores its files where the server says. `tags` are those of a new one.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            location = _artifact_location(artifact_root, name) if artifact_root else None
            return str(client.create_experiment(name, artifact_location=location, tags=dict(tags)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was faster.
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise UserError(f"experiment {name!r} was deleted in MLflow; restore it there, or set tracking.experiment=…")
    return str(experiment.experiment_id)


def _artifact_location(artifact_root: str, name: str) -> str:
    # Absolute, because later processes run in other folders.
    root = artifact_root if "://" in artifact_root else str(Path(artifact_root).resolve())
    return f"{root.rstrip('/')}/{quote(name, safe='')}"


def _runs_with_key(client: Any, experiment_id: str, run_key: str) -> list[Any]:
    """Runs of that key, the oldest first."""
    runs = client.search_runs([experiment_id], filter_string=f"tags.`{KEY_TAG}` = '{run_key}'")
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def _delete_surplus(client: Any, runs: list[Any]) -> list[Any]:
    # Keeps one of several runs created at the same time. All launchers see the same order, so all keep the same run.
    # Only a launcher that was delayed for long may already use another one, which is why a run with an attempt comes
    # first.
    ranked = sorted(runs, key=lambda run: ATTEMPTS_TAG not in run.data.tags)
    for surplus in ranked[1:]:
        client.delete_run(surplus.info.run_id)
    return ranked[:1]
