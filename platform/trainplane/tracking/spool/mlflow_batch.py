"""One group of records to MLflow: in as few requests as it takes, and again without changing anything.

Metrics that are equal in (key, timestamp, step, value) are ignored by MLflow's SQL store, tags overwrite themselves,
parameters refuse to change, attachments keep their names. What the server will refuse again and again is told from
what a gateway before it says today: only the first is given up, entity by entity. A server's word that points arrived
is checked by reading the run, because an answer of nothing at all counts as yes to MLflow's client.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainplane.errors import error_line
from trainplane.tracking.client import set_with_retry
from trainplane.tracking.run_id import begin, find, is_reserved
from trainplane.tracking.spool.ledger import Record

MAX_METRICS = 1000
MAX_NAMES = 100
# What the server will answer again and again to the same entity.
_FOR_GOOD = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_BY_GATEWAY = "failed with error code"
_TOO_LARGE = f"{_BY_GATEWAY} 413"

Refused = list[tuple[str, str]]
"""(entity, reason) of what the server will never take."""


def send(client: Any, run_id: str, folder: Path, records: Iterable[Record]) -> Refused:
    """Send these in few requests; returns what was refused for good. Raises whatever the client raises."""
    from mlflow.entities import Metric, Param, RunTag

    metrics, others = [], []
    refused: Refused = []
    known = _Known(client, run_id)
    for record in records:
        match record["k"]:
            case "metrics":
                metrics += [
                    Metric(key, float(value), record["ts"], record["step"]) for key, value in record["v"].items()
                ]
            case "params":
                new = known.new_params(record["v"]) if record.get("once") else record["v"]
                others += [Param(key, value) for key, value in new.items()]
            case "tags":
                others += [RunTag(key, value) for key, value in record["v"].items()]
            case "file" if not (record.get("once") and known.has_files(record)):
                refused += _send_files(client, run_id, folder, record)
            case "file":
                continue
            case "input":
                _send_input(client, run_id, record)
            case "start":
                begin(client, client.get_run(run_id), tags=record["v"], owner=record["owner"], again=True)
            case "run_tags":
                refused += _send_run_tags(client, record)
            case "version":
                refused += _send_version(client, folder, record)
            case "status":
                _send_status(client, run_id, record)
            case unknown:
                refused.append((json.dumps(record), f"unknown kind {unknown!r}"))
    for entities, limit in ((metrics, MAX_METRICS), (others, MAX_NAMES)):
        for start in range(0, len(entities), limit):
            refused += _send_batch(client, run_id, entities[start : start + limit])
    if metrics and not refused and client.tracking_uri.startswith("http"):
        _check_arrived(client, run_id, metrics)
    return refused


class _Known:
    """What the run has already, asked for at most once and only where a record is to be sent once for life."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._params: set[str] | None = None
        self._files: set[str] | None = None

    def new_params(self, values: Mapping[str, str]) -> dict[str, str]:
        if self._params is None:
            self._params = set(self._client.get_run(self._run_id).data.params)
        return {key: value for key, value in values.items() if key not in self._params}

    def has_files(self, record: Record) -> bool:
        if self._files is None:
            self._files = {entry.path for entry in self._client.list_artifacts(self._run_id)}
        return all(artifact in self._files for _, artifact in record["files"])


def _send_batch(client: Any, run_id: str, entities: list[Any]) -> Refused:
    """One `log_batch`; a refused one is halved until the guilty entities stand alone."""
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

    try:
        client.log_batch(
            run_id,
            metrics=[entity for entity in entities if isinstance(entity, Metric)],
            params=[entity for entity in entities if isinstance(entity, Param)],
            tags=[entity for entity in entities if isinstance(entity, RunTag)],
            synchronous=True,
        )
    except MlflowException as error:
        if not _is_for_good(error) or _is_deleted(client, run_id):
            raise
        if len(entities) > 1:
            middle = len(entities) // 2
            return _send_batch(client, run_id, entities[:middle]) + _send_batch(client, run_id, entities[middle:])
        return [(json.dumps(dict(entities[0])), error_line(error)[:300])]
    return []


def _is_for_good(error: Any) -> bool:
    """Whether the same request will never be taken: MLflow said so itself, or it is too large for what is before it."""
    if _TOO_LARGE in str(error):
        return True
    return error.error_code in _FOR_GOOD and _BY_GATEWAY not in str(error)


def _is_deleted(client: Any, run_id: str) -> bool:
    """A deleted run refuses everything; its records must wait for `mlflow runs restore`, not be thrown away."""
    return bool(client.get_run(run_id).info.lifecycle_stage != "active")


def _check_arrived(client: Any, run_id: str, metrics: list[Any]) -> None:
    newest: dict[str, int] = {}
    for metric in metrics:
        newest[metric.key] = max(metric.step, newest.get(metric.key, metric.step))
    there = {metric.key: int(metric.step) for metric in client.get_run(run_id).data.to_proto().metrics}
    missing = [key for key, step in newest.items() if there.get(key, step - 1) < step]
    if missing:
        raise RuntimeError(f"the server took {len(metrics)} points and does not have them, {missing[0]!r} for one")


def _send_files(client: Any, run_id: str, folder: Path, record: Record) -> Refused:
    from mlflow.exceptions import MlflowException

    refused: Refused = []
    for local, artifact in record["files"]:
        parent = str(Path(artifact).parent)
        try:
            client.log_artifact(run_id, str(folder / local), None if parent == "." else parent)
        except FileNotFoundError:
            refused.append((artifact, "the attachment is gone from the spool"))
        except MlflowException as error:
            if not _is_for_good(error) or _is_deleted(client, run_id):
                raise
            refused.append((artifact, error_line(error)[:300]))
    return refused


def _send_run_tags(client: Any, record: Record) -> Refused:
    """Sets tags of other runs."""
    from mlflow.entities import RunTag

    refused: Refused = []
    for run_id, tags in record["v"].items():
        if is_reserved(run_id):
            run = find(client, run_id)
            # MLflow does not have it yet: its own records were not sent from the host it ran on.
            if run is None:
                continue
            run_id = run.info.run_id
        refused += _send_batch(client, run_id, [RunTag(key, value) for key, value in tags.items()])
    return refused


def _send_version(client: Any, folder: Path, record: Record) -> Refused:
    """Attaches files, then tags, to a version of a registered model."""
    name, version = record["name"], record["version"]
    run_id = client.get_model_version(name, version).run_id
    refused = _send_files(client, run_id, folder, record) if run_id else []
    for key, value in record["v"].items():
        set_with_retry(client.set_model_version_tag, name, version, key, value)
    return refused


def _send_input(client: Any, run_id: str, record: Record) -> None:
    """A dataset that the run reads, for a purpose; MLflow ignores what it has."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(**record["v"])
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])])


def _send_status(client: Any, run_id: str, record: Record) -> None:
    if record["v"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, status=record["v"], end_time=record["ts"])
