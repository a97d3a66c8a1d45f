"""Sends one group of records to MLflow in few requests.

Sending again changes nothing: MLflow's SQL store ignores metrics equal in (key, timestamp, step, value), tags overwrite
themselves, parameters refuse to change, attachments keep their names. MLflow's own refusal of an entity is final and is
set aside, entity by entity; a gateway's is not. An answer that points arrived is checked by reading the run, because
MLflow's client takes an empty answer for success.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainplane.errors import error_line
from trainplane.tracking.client import is_value_refused, set_with_retry
from trainplane.tracking.mlflow_names import MAX_MODEL_TAG, dataset, metric, param, run_tag, valid_key, valid_text
from trainplane.tracking.run_id import find_reserved_run, is_reserved, start_attempt
from trainplane.tracking.spool.ledger import SpoolRecord

# Limits of one `log_batch` request.
MAX_METRICS = 1000
MAX_NAMES = 100
# A gateway's answer, in the words of MLflow's client.
_TOO_LARGE = "failed with error code 413"

Refused = list[tuple[str, str]]
"""(entity, reason) of everything that the server will never accept."""


def send(client: Any, run_id: str, folder: Path, records: Iterable[SpoolRecord]) -> Refused:
    """Sends a run's records; returns entities refused for good.

    Failed requests raise the client's errors. Metrics, parameters and tags are collected; other kinds take a request
    each.
    """
    metrics, others = [], []
    refused: Refused = []
    recorded = _RecordedInRun(client, run_id)
    # Collect what one request can hold, and send the other kinds.
    for record in records:
        match record["k"]:
            case "metrics":
                metrics += [metric(key, value, record["ts"], record["step"]) for key, value in record["v"].items()]
            case "params":
                params = recorded.new_params(record["v"]) if record.get("once") else record["v"]
                others += [param(key, value) for key, value in params.items()]
            case "tags":
                others += [run_tag(key, value) for key, value in record["v"].items()]
            case "file":
                if not (record.get("once") and recorded.has_files(record)):
                    refused += _send_files(client, run_id, folder, record)
            case "input":
                _send_input(client, run_id, record)
            case "start":
                start_attempt(client, client.get_run(run_id), tags=record["v"], owner=record["owner"], is_replay=True)
            case "run_tags":
                refused += _send_run_tags(client, record)
            case "version":
                refused += _send_version(client, folder, record)
            case "status":
                _send_status(client, run_id, record)
            case unknown:
                refused.append((json.dumps(record), f"unknown kind {unknown!r}"))
    # Send the collected ones, within MLflow's limits.
    for entities, limit in ((metrics, MAX_METRICS), (others, MAX_NAMES)):
        for start in range(0, len(entities), limit):
            refused += _send_batch(client, run_id, entities[start : start + limit])
    # A gateway may have answered in the server's place.
    if metrics and not refused and client.tracking_uri.startswith("http"):
        _check_arrived(client, run_id, metrics)
    return refused


class _RecordedInRun:
    """Parameters and files that a run has, asked for once."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client, self._run_id = client, run_id
        self._params: set[str] | None = None
        self._files: set[str] | None = None

    def new_params(self, values: Mapping[str, str]) -> dict[str, str]:
        # One request for all records of the group.
        if self._params is None:
            self._params = set(self._client.get_run(self._run_id).data.params)
        return {key: value for key, value in values.items() if valid_key(key) not in self._params}

    def has_files(self, record: SpoolRecord) -> bool:
        if self._files is None:
            self._files = {entry.path for entry in self._client.list_artifacts(self._run_id)}
        return all(artifact in self._files for _, artifact in record["files"])


def _send_batch(client: Any, run_id: str, entities: list[Any]) -> Refused:
    """Sends one `log_batch`; halves a refused one until accepted."""
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
        if not _is_final(error) or _is_deleted(client, run_id):
            raise
        # One bad entity refuses the whole request: halve it until the bad one stands alone.
        if len(entities) > 1:
            middle = len(entities) // 2
            return _send_batch(client, run_id, entities[:middle]) + _send_batch(client, run_id, entities[middle:])
        return [(json.dumps(dict(entities[0])), error_line(error)[:300])]
    return []


def _is_final(error: Any) -> bool:
    # Checks for a refusal that stays the same. Final are MLflow's own refusals, and requests too large for its gateway.
    return _TOO_LARGE in str(error) or is_value_refused(error)


def _is_deleted(client: Any, run_id: str) -> bool:
    """Checks for a deleted run, which `mlflow runs restore` restores."""
    return bool(client.get_run(run_id).info.lifecycle_stage != "active")


def _check_arrived(client: Any, run_id: str, metrics: list[Any]) -> None:
    # A run has the last step of each metric.
    newest: dict[str, int] = {}
    for point in metrics:
        newest[point.key] = max(point.step, newest.get(point.key, point.step))
    stored = {point.key: int(point.step) for point in client.get_run(run_id).data.to_proto().metrics}
    missing = [key for key, step in newest.items() if stored.get(key, step - 1) < step]
    if missing:
        raise RuntimeError(
            f"the server accepted {len(metrics)} points and does not have them, for example {missing[0]!r}"
        )


def _send_files(client: Any, run_id: str, folder: Path, record: SpoolRecord) -> Refused:
    from mlflow.exceptions import MlflowException

    refused: Refused = []
    for local, artifact in record["files"]:
        parent = str(Path(artifact).parent)
        try:
            client.log_artifact(run_id, str(folder / local), None if parent == "." else parent)
        # Removed by hand, or sent before: after a damaged `sent.json` everything is sent again.
        except FileNotFoundError:
            refused.append((artifact, "the attachment is missing in the spool"))
        except MlflowException as error:
            if not _is_final(error) or _is_deleted(client, run_id):
                raise
            refused.append((artifact, error_line(error)[:300]))
    return refused


def _send_run_tags(client: Any, record: SpoolRecord) -> Refused:
    refused: Refused = []
    for run_id, tags in record["v"].items():
        if is_reserved(run_id):
            run = find_reserved_run(client, run_id)
            # MLflow does not have it yet: its own records were not sent from the host it ran on.
            if run is None:
                continue
            run_id = run.info.run_id
        refused += _send_batch(client, run_id, [run_tag(key, value) for key, value in tags.items()])
    return refused


def _send_version(client: Any, folder: Path, record: SpoolRecord) -> Refused:
    """Attaches files, then tags, to a registered model's version."""
    name, version = record["name"], record["version"]
    run_id = client.get_model_version(name, version).run_id
    refused = _send_files(client, run_id, folder, record) if run_id else []
    # In the record's order: the last tag vouches for files and tags before it.
    for key, value in record["v"].items():
        text = valid_text(value, MAX_MODEL_TAG)
        set_with_retry(client.set_model_version_tag, name, version, valid_key(key), text)
    return refused


def _send_input(client: Any, run_id: str, record: SpoolRecord) -> None:
    """Records a dataset of the run; MLflow ignores duplicates."""
    from mlflow.entities import DatasetInput, InputTag

    purpose = InputTag("mlflow.data.context", record["context"])
    client.log_inputs(run_id, [DatasetInput(dataset(**record["v"]), [purpose])])


def _send_status(client: Any, run_id: str, record: SpoolRecord) -> None:
    if record["v"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, status=record["v"], end_time=record["ts"])
