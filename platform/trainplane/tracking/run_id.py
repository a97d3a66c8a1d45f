"""Which MLflow run is it? Decided here from its key alone, so that a run can begin while the server is away.

`Birth` holds all that MLflow needs to make the run. `settle` finds the run of that key or makes it, and may be called
again, later, and from several hosts at once: the same key is one run. Until it was settled a run goes by its reserved
id, a digest of experiment and key; MLflow chooses the other one, and `find` leads from the first to the second.
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

KEY_TAG = "trainplane.run_key"
RESERVED_TAG = "trainplane.reserved"
ATTEMPTS_TAG = "trainplane.attempts"
OWNER_TAG = "trainplane.owner"
REAPED_TAG = "trainplane.reaped"
# Why the last attempt failed; a finished run has none.
ERROR_TAG = "trainplane.error"
_RESERVED = "reserved-"
# MLflow's pages then open on runs and metrics, not on traces of language models.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


@dataclass(frozen=True)
class Birth:
    """What a run is made with.

    artifact_root -- `s3://…` or a folder, where a new experiment keeps its artifacts
    parent_run_id -- the search that it is a trial of
    """

    experiment: str
    run_key: str
    run_name: str
    artifact_root: str
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._:/@+=-]{1,250}", self.run_key):
            raise UserError(
                f"run key {self.run_key!r}: need 1 to 250 letters, digits and ._:/@+=-; choose another name"
            )

    @property
    def reserved_id(self) -> str:
        """The name of the run where MLflow has not been asked yet; also that of its spool's folder."""
        named = json.dumps([self.experiment, self.run_key]).encode()
        return f"{_RESERVED}{hashlib.sha256(named).hexdigest()[:24]}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tags": dict(self.tags)}


def is_reserved(run_id: str) -> bool:
    """Whether this is a name of ours, which MLflow does not know as an id."""
    return run_id.startswith(_RESERVED)


@dataclass(frozen=True)
class Settled:
    """A run in MLflow, and whether it was there before."""

    run: Any
    resumed: bool


def settle(client: Any, birth: Birth, *, claim: Mapping[str, str] | None = None) -> Settled:
    """The one MLflow run of this key, made where there is none. Raises MLflow's errors, and `UserError`.

    `claim`: tags that say whose a new run is from its first moment, so that it can be given up if `begin` never comes.
    """
    experiment_id = _experiment(client, birth.experiment, birth.artifact_root)
    found = _runs_with_key(client, experiment_id, birth.run_key)
    resumed = bool(found)
    tags = {**birth.tags, **(claim or {}), KEY_TAG: birth.run_key, RESERVED_TAG: birth.reserved_id}
    if birth.parent_run_id is not None:
        tags["mlflow.parentRunId"] = birth.parent_run_id
    while not found:
        client.create_run(experiment_id, tags=tags, run_name=birth.run_name)
        found = _only_one(client, _runs_with_key(client, experiment_id, birth.run_key))
    return Settled(client.get_run(found[0].info.run_id), resumed)


def begin(client: Any, run: Any, *, tags: Mapping[str, str], owner: str, again: bool = False) -> int:
    """The run is RUNNING and belongs to the process `owner`; returns which attempt this is.

    `again`: it may have been said before, so what is said of the same process is the same attempt.
    """
    attempts = int(run.data.tags.get(ATTEMPTS_TAG, "0"))
    if not (again and attempts and run.data.tags.get(OWNER_TAG) == owner):
        attempts += 1
    client.update_run(run.info.run_id, status="RUNNING")
    set_tags(client, run.info.run_id, {**tags, OWNER_TAG: owner, ATTEMPTS_TAG: str(attempts)})
    return attempts


def find(client: Any, reserved_id: str) -> Any | None:
    """The MLflow run with this reserved id, in whatever experiment it is; None where it was not settled yet."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, filter_string=f"tags.`{RESERVED_TAG}` = '{reserved_id}'", max_results=2)
    return found[0] if found else None


def set_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set several tags with one request."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()], synchronous=True)


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
