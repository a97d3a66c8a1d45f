"""Uploads recorded traces and votes to MLflow: in order, once.

It runs in the process beside a server (`spool.uploader_process`). The acknowledged byte offset is stored after each
record; killed in between, it sends a record again, which changes nothing: traces, spans and files have ids that follow
from the record, and a vote is looked for before it is written. A vote on a trace that MLflow does not have yet (another
replica's) waits in `waiting.jsonl` for a day and holds nothing up.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainplane.errors import error_line
from trainplane.serving.mlflow_trace import mlflow_trace_id, read_files, spans, trace_info
from trainplane.tracking.client import is_value_refused
from trainplane.tracking.mlflow_names import MAX_TAG, valid_text
from trainplane.tracking.run_id import find_or_create_experiment
from trainplane.tracking.spool.ledger import SpoolRecord
from trainplane.tracking.spool.meta import replace_file
from trainplane.tracking.spool.spool import read_lines, repair_acknowledged, upload_lock, write_acknowledged
from trainplane.tracking.spool.upload import BUSY, UploadResult, count_unsent, store_rejected
from trainplane.tracking.spool.uploader_process import run_uploader

logger = logging.getLogger(__name__)

# MLflow's pages of such an experiment open on its traces.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "genai_development"}
# Names of the columns that votes have in MLflow's pages.
PREFERRED, RATING, GOLDEN = "preferred", "rating", "golden"
# Key of a vote's metadata by which it is found again.
VOTE_KEY = "vote"
_WAITING = "waiting.jsonl"
_WAIT_S = 24 * 3600.0
# A trace of another replica comes within seconds; one that was kept nowhere never does.
RETRY_S = 20.0


def main() -> None:
    """Runs the process beside a server."""
    run_uploader(lambda folder, client, stop, is_last: upload_traces(folder, client, stop=stop))


def upload_traces(folder: Path, client: Any, *, stop: Callable[[], bool] = lambda: False) -> UploadResult:
    """Sends unacknowledged traces and votes.

    A failure of a server raises nothing: the records stay on the disk, and the result has the reason.

    Args:
        folder: The queue's folder.
        client: An `MlflowClient`.
        stop: Asked before each record; true ends the upload.
    """
    with upload_lock(folder) as is_uploader:
        if not is_uploader:
            return UploadResult(unsent=count_unsent(folder), error=BUSY)
        uploader = _TraceUpload(folder, client)
        error = None
        # The client of a server, a database or an object store may raise anything; the answer is the same: the
        # records stay on the disk and are tried again.
        try:
            uploader.run(stop)
        except Exception as failure:
            logger.debug("queue %s was not sent", folder, exc_info=True)
            error = f"{type(failure).__name__}: {error_line(failure)[:300]}"
    return UploadResult(uploader.sent, count_unsent(folder), uploader.rejected, error)


class _TraceUpload:
    """One upload, under the queue's lock."""

    def __init__(self, folder: Path, client: Any) -> None:
        self._folder, self._client = folder, client
        self._experiments: dict[str, str] = {}
        self.sent = self.rejected = 0

    def run(self, stop: Callable[[], bool]) -> None:
        acknowledged = repair_acknowledged(self._folder)
        for record, raw in read_lines(self._folder, acknowledged.offset):
            if stop():
                return
            if record is not None and not self._send(record):
                self._wait_for_trace(raw)
            acknowledged = replace(acknowledged, offset=acknowledged.offset + len(raw))
            write_acknowledged(self._folder, acknowledged)
            # Only now: killed before, the record is sent again, with its files.
            for local, _ in (record or {}).get("files", []):
                shutil.rmtree((self._folder / local).parent, ignore_errors=True)
            self.sent += 1
        self._send_waiting(stop)

    def _send(self, record: SpoolRecord) -> bool:
        # Sends a record; False if its trace is not there yet. What MLflow itself refuses for good is set aside.
        from mlflow.exceptions import MlflowException

        try:
            match record["k"]:
                case "trace":
                    self._send_trace(record)
                case "verdict" | "golden":
                    return self._send_vote(record)
                case unknown:
                    self._reject(record, f"unknown kind {unknown!r}")
        except MlflowException as error:
            if not is_value_refused(error):
                raise
            self._reject(record, error_line(error)[:300])
        except (KeyError, TypeError, AttributeError) as error:
            # Damage on the disk that is JSON still.
            self._reject(record, f"damaged: {type(error).__name__} {error}")
        return True

    def _reject(self, record: SpoolRecord, why: str) -> None:
        store_rejected(self._folder, [(json.dumps(record), why)])
        self.rejected += 1

    def _send_trace(self, record: SpoolRecord) -> None:
        fields = record["v"]
        experiment_id = self._experiment_id(record)
        tracing = tracing_client(self._client)
        info = tracing.start_trace(trace_info(fields, experiment_id))
        # A gateway may have answered in the server's place.
        if info.trace_id != mlflow_trace_id(fields["trace"]):
            raise RuntimeError("the server accepted a trace and does not name it")
        references = {}
        artifacts = tracing._get_artifact_repo_for_trace(info)
        for file in read_files(record):
            path = self._folder / file.local
            if not path.exists():
                store_rejected(self._folder, [(file.local, "the attachment is missing in the queue")])
                continue
            data = path.read_bytes()
            artifacts.upload_attachment(file.id(fields["trace"]), data)
            references[file.role, file.name] = file.reference(fields["trace"], len(data))
        tracing.log_spans(experiment_id, spans(fields, references))

    def _experiment_id(self, record: SpoolRecord) -> str:
        name = record["experiment"]
        if name not in self._experiments:
            root = record.get("artifact_root")
            self._experiments[name] = find_or_create_experiment(self._client, name, root, tags=_EXPERIMENT_TAGS)
        return self._experiments[name]

    def _send_vote(self, record: SpoolRecord) -> bool:
        # Writes a vote as feedback; False if MLflow does not have the trace.
        from mlflow.exceptions import MlflowException

        tracing = tracing_client(self._client)
        trace_id = mlflow_trace_id(record["v"]["trace"])
        try:
            info = tracing.get_trace_info(trace_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
                return False
            raise
        feedback, key = _feedback(record)
        # Sent before, and not acknowledged.
        if not any((vote.metadata or {}).get(VOTE_KEY) == key for vote in info.assessments):
            tracing.log_assessment(trace_id, feedback)
        if record["k"] == "golden":
            # A tag, because MLflow searches by it in all its versions.
            tracing.set_trace_tag(trace_id, GOLDEN, "true")
        return True

    def _wait_for_trace(self, raw: bytes) -> None:
        line = json.dumps({"since": time.time(), "record": json.loads(raw)}) + "\n"
        with (self._folder / _WAITING).open("a", encoding="utf-8") as stream:
            stream.write(line)

    def _send_waiting(self, stop: Callable[[], bool]) -> None:
        path = self._folder / _WAITING
        # Looked at again each `RETRY_S`: writing the file sets its time.
        if not path.exists() or time.time() - path.stat().st_mtime < RETRY_S:
            return
        waiting = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                record, since = entry["record"], float(entry["since"])
            except (ValueError, KeyError, TypeError):
                continue
            if stop() or not self._send(record):
                if time.time() - since > _WAIT_S:
                    self._reject(record, "its trace never came")
                else:
                    waiting.append(line)
        if waiting:
            replace_file(path, "".join(f"{line}\n" for line in waiting).encode())
        else:
            path.unlink()


def tracing_client(client: Any) -> Any:
    """MLflow's client of traces, for the server of `client`."""
    from mlflow.tracing.client import TracingClient

    return TracingClient(client.tracking_uri)


def _feedback(record: Mapping[str, Any]) -> tuple[Any, str]:
    """A vote as MLflow's feedback, and its key."""
    from mlflow.entities import AssessmentSource, Feedback

    fields = record["v"]
    key = f"{record['k']}:{fields['rater']}:{fields.get('at', '')}"
    metadata = {VOTE_KEY: key}
    if record["k"] == "golden":
        name, value = GOLDEN, True
    else:
        versions = fields["versions"]
        choice = fields["choice"]
        # The column shows the version, not the label that the rater saw.
        name, value = (RATING, choice) if choice in ("good", "bad") else (PREFERRED, versions.get(choice, choice))
        metadata |= {"choice": choice, "versions": json.dumps(versions, sort_keys=True), "at": str(fields["at"])}
    return (
        Feedback(
            name=name,
            value=value,
            source=AssessmentSource(source_type="HUMAN", source_id=valid_text(fields["rater"], MAX_TAG) or "unknown"),
            rationale=valid_text(fields.get("comment", ""), MAX_TAG) or None,
            metadata=metadata,
            create_time_ms=round(fields["at"] * 1000) if "at" in fields else None,
        ),
        key,
    )
