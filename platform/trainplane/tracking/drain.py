"""The sending half of tracking: from a spool to MLflow, in order, once, in batches.

`drain` runs in the process beside a training (`flusher`), or in any other after its death. It remembers the
acknowledged byte offset after every group; killed in between, it sends a group again, which changes nothing: MLflow's
SQL store ignores metrics that are equal in (key, timestamp, step, value), parameters and tags overwrite themselves,
and attachments keep their names. One `log_batch` of 1000 metrics costs about as much as six single calls.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainplane.tracking.branches import Record, as_live
from trainplane.tracking.spool import Sent, about, drainer_lock, pending, read_sent, write_sent

logger = logging.getLogger(__name__)

MAX_METRICS = 1000
MAX_NAMES = 100
# MLflow refuses requests beyond 1 MB; a metric takes about three times as much in a request as on a line here.
MAX_GROUP_BYTES = 250_000
BUSY = "another process is sending these records"
# What the server will answer again and again to the same entity.
_FOR_GOOD = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}


@dataclass(frozen=True)
class Drained:
    """One drain: records acknowledged and left, entities refused for good, and why it ended early, if it did."""

    sent: int = 0
    unsent: int = 0
    rejected: int = 0
    error: str | None = None


def drain(folder: Path, client: Any, *, stop: Callable[[], bool] = lambda: False) -> Drained:
    """Send what is unacknowledged through `client` (an MlflowClient) until all is sent, `stop()` or a failure.

    Never raises for what a server or a network does: the records stay and the reason is in `error`.
    """
    run_id = about(folder)["run_id"]
    sent = rejected = 0
    error = None
    with drainer_lock(folder) as alone:
        if not alone:
            return Drained(unsent=count_unsent(folder), error=BUSY)
        done = read_sent(folder)
        while not stop() and (group := _next_group(folder, done.offset)):
            records = [record for record, _ in group if record is not None]
            after = _after(folder, done, group)
            try:
                refused = _send(client, run_id, folder, after.sending)
            # Whatever the client of a server, a database or an object store raises, the answer is the same: the
            # records stay on the disk and are tried again.
            except Exception as failure:
                error = f"{type(failure).__name__}: {_first_line(failure)}"
                break
            refused += [(raw.decode(errors="replace"), "is no record") for record, raw in group if record is None]
            _keep_rejected(folder, refused)
            done = after.sent
            write_sent(folder, done)
            _remove_attachments(folder, records)
            sent += len(group)
            rejected += len(refused)
    return Drained(sent, count_unsent(folder), rejected, error)


def count_unsent(folder: Path) -> int:
    """Records that MLflow has not acknowledged."""
    return sum(1 for _ in pending(folder, read_sent(folder).offset))


@dataclass(frozen=True)
class _After:
    """What one group of records asks to be sent, and how far the spool is acknowledged once it is."""

    sending: list[Record]
    sent: Sent


def _after(folder: Path, done: Sent, group: list[tuple[Record | None, bytes]]) -> _After:
    """Points that wait for a checkpoint go under `live/`; a commit lets them go as they are, a branch gives them up."""
    ledger = done.ledger()
    end = done.offset + sum(len(raw) for _, raw in group)
    held = done.held
    sending: list[Record] = []
    for record in (record for record, _ in group if record is not None):
        match record["k"]:
            case "branch":
                held = end
            case "commit" if held is not None:
                released, held = _released(folder, done, record["step"], end)
                sending += released
            case "commit":
                continue
            case "metrics" if ledger.waits(record):
                sending.append(as_live(record))
            case _:
                sending.append(record)
        ledger.take(record)
    return _After(sending, Sent(end, ledger.marks, ledger.committed, held))


def _released(folder: Path, done: Sent, committed: int, end: int) -> tuple[list[Record], int]:
    """The records that stand from this commit on, and the byte from which on others still wait.

    `done` is how far the spool was acknowledged before the commit, whose line ends at byte `end`.
    """
    before = done.ledger()
    position = done.needed_from
    released, left = [], [end]
    for record, raw in pending(folder, position):
        if position >= done.offset:
            break
        if record is not None and before.waits(record):
            if record["step"] <= committed:
                released.append(record)
            else:
                left.append(position)
        position += len(raw)
    return released, min(left)


def _next_group(folder: Path, offset: int) -> list[tuple[Record | None, bytes]]:
    """The next records that go into one `log_batch`, or one record of another kind; empty at the end."""
    group: list[tuple[Record | None, bytes]] = []
    num_metrics = num_bytes = 0
    names: set[str] = set()
    for record, raw in pending(folder, offset):
        kind = record["k"] if record is not None else None
        if record is not None and kind not in ("metrics", "params", "tags"):
            return group or [(record, raw)]
        new_names = set(record["v"]) if record is not None and kind != "metrics" else set()
        num_metrics += len(record["v"]) if record is not None and kind == "metrics" else 0
        num_bytes += len(raw)
        # A parameter or tag that stands twice in one request is refused or has no defined order.
        full = num_metrics > MAX_METRICS or num_bytes > MAX_GROUP_BYTES or len(names | new_names) > MAX_NAMES
        if group and (full or names & new_names):
            return group
        names |= new_names
        group.append((record, raw))
    return group


def _send(client: Any, run_id: str, folder: Path, records: list[Record]) -> list[tuple[str, str]]:
    """Send one group; returns (entity, reason) for what was refused for good."""
    from mlflow.entities import Metric, Param, RunTag

    metrics, others = [], []
    refused: list[tuple[str, str]] = []
    for record in records:
        match record["k"]:
            case "metrics":
                metrics += [
                    Metric(key, float(value), record["ts"], record["step"]) for key, value in record["v"].items()
                ]
            case "params":
                others += [Param(key, value) for key, value in record["v"].items()]
            case "tags":
                others += [RunTag(key, value) for key, value in record["v"].items()]
            case "file":
                refused += _send_files(client, run_id, folder, record)
            case "status":
                _send_status(client, run_id, record)
            case unknown:
                refused.append((json.dumps(record), f"unknown kind {unknown!r}"))
    for entities, limit in ((metrics, MAX_METRICS), (others, MAX_NAMES)):
        for start in range(0, len(entities), limit):
            refused += _send_batch(client, run_id, entities[start : start + limit])
    return refused


def _send_batch(client: Any, run_id: str, entities: list[Any]) -> list[tuple[str, str]]:
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
        if error.error_code not in _FOR_GOOD or _is_deleted(client, run_id):
            raise
        if len(entities) > 1:
            middle = len(entities) // 2
            return _send_batch(client, run_id, entities[:middle]) + _send_batch(client, run_id, entities[middle:])
        return [(json.dumps(dict(entities[0])), _first_line(error))]
    return []


def _is_deleted(client: Any, run_id: str) -> bool:
    """A deleted run refuses everything; its records must wait for `mlflow runs restore`, not be thrown away."""
    return bool(client.get_run(run_id).info.lifecycle_stage != "active")


def _send_files(client: Any, run_id: str, folder: Path, record: Record) -> list[tuple[str, str]]:
    from mlflow.exceptions import MlflowException

    refused = []
    for local, artifact in record["files"]:
        parent = str(Path(artifact).parent)
        try:
            client.log_artifact(run_id, str(folder / local), None if parent == "." else parent)
        except FileNotFoundError:
            refused.append((artifact, "the attachment is gone from the spool"))
        except MlflowException as error:
            if error.error_code not in _FOR_GOOD or _is_deleted(client, run_id):
                raise
            refused.append((artifact, _first_line(error)))
    return refused


def _send_status(client: Any, run_id: str, record: Record) -> None:
    if record["v"] == "RUNNING":
        client.update_run(run_id, status="RUNNING")
    else:
        client.set_terminated(run_id, status=record["v"], end_time=record["ts"])


def _keep_rejected(folder: Path, refused: list[tuple[str, str]]) -> None:
    if refused:
        logger.warning("tracking: %d entries were refused for good, the first: %s (%s)", len(refused), *refused[0])
        with (folder / "rejected.jsonl").open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"entity": entity, "reason": reason}) + "\n" for entity, reason in refused)


def _remove_attachments(folder: Path, records: list[Record]) -> None:
    for record in records:
        for local, _ in record.get("files", []):
            shutil.rmtree((folder / local).parent, ignore_errors=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]
