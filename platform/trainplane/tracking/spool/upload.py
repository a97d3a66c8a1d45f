"""Uploads a spool to MLflow: in order, once, in batches.

It runs in the process beside a training (`uploader_process`), or in any other after its death. It stores the
acknowledged byte offset after every group; killed in between, it sends a group again, which changes nothing. One
`log_batch` of 1000 metrics costs about as much as six single calls. Pending points wait; once they are discarded, or
run or recording has ended, they are sent under `without checkpoint/`.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainplane.errors import error_line
from trainplane.tracking.history import (
    RecordedSteps,
    fetch_recorded_steps,
    read_recorded_steps,
    write_recorded_steps,
)
from trainplane.tracking.run_id import ERROR_TAG, REAPED_TAG
from trainplane.tracking.spool.ledger import SpoolRecord, without_checkpoint
from trainplane.tracking.spool.meta import read_meta, resolve_run_id
from trainplane.tracking.spool.mlflow_batch import MAX_METRICS, MAX_NAMES, Refused, send
from trainplane.tracking.spool.spool import (
    Acknowledged,
    read_acknowledged,
    read_lines,
    repair_acknowledged,
    upload_lock,
    write_acknowledged,
)

logger = logging.getLogger(__name__)

# MLflow refuses requests beyond 1 MB; a metric takes about three times as much in a request as on a line here.
MAX_GROUP_BYTES = 250_000
BUSY = "another process is sending these records"
OnVersion = Callable[[str, str], None]
"""Called with name and version of a registered model after something was attached to it."""
Group = list[tuple[SpoolRecord | None, bytes]]
"""Lines that are sent together; None for a damaged line."""


@dataclass(frozen=True)
class UploadResult:
    """Outcome of one upload."""

    sent: int = 0  # Records acknowledged
    unsent: int = 0  # Records left
    rejected: int = 0  # Entities that the server refused for good
    error: str | None = None  # Reason why the upload ended early; None if it did not


def upload(
    folder: Path,
    client: Any,
    *,
    stop: Callable[[], bool] = lambda: False,
    show_pending: bool = True,
    on_version: OnVersion | None = None,
) -> UploadResult:
    """Sends unacknowledged records to MLflow.

    It ends when all are sent, `stop()` is true (asked before each group), or a request fails. A failure of a server
    raises nothing: the records stay on the disk, and the result has the reason.

    Args:
        folder: The spool.
        client: An `MlflowClient`.
        stop: Ends the upload.
        show_pending: True sends all points that are pending at the end, too, under `without checkpoint/`.
        on_version: Called before an attachment to a registered version is acknowledged; if it raises, it is sent again.
    """
    read_meta(folder)
    with upload_lock(folder) as is_uploader:
        if not is_uploader:
            return UploadResult(unsent=count_unsent(folder), error=BUSY)
        uploader = _SpoolUpload(folder, client, on_version)
        error = uploader.run(stop, show_pending=show_pending)
    return UploadResult(uploader.sent, count_unsent(folder), uploader.rejected, error)


class _SpoolUpload:
    """One upload, under the spool's lock."""

    def __init__(self, folder: Path, client: Any, on_version: OnVersion | None) -> None:
        self._folder, self._client, self._on_version = folder, client, on_version
        self._acknowledged = read_acknowledged(folder)
        self.sent = self.rejected = 0

    def run(self, stop: Callable[[], bool], *, show_pending: bool) -> str | None:
        """Sends; returns why it ended early."""
        try:
            self._acknowledged = repair_acknowledged(self._folder)
        except OSError as failure:
            # The disk is full and there is something to repair: without the repair, progress would be lost at once.
            return f"{type(failure).__name__}: {error_line(failure)[:300]}"
        has_pending = show_pending and self._acknowledged.held is not None
        if not has_pending and not _next_group(self._folder, self._acknowledged.offset):
            # Nothing to send: no request to find out which run it is.
            return None
        try:
            self._run_id = resolve_run_id(self._folder, self._client)
            self._recorded = self._steps_before_spool()
            self._commit_ahead()
            while not stop() and (group := _next_group(self._folder, self._acknowledged.offset)):
                self._send_group(group)
            if show_pending and not stop():
                self._send_given_up(list(_acknowledged_pending(self._folder, self._acknowledged)))
        # The client of a server, a database or an object store may raise anything; the answer is the same: the
        # records stay on the disk and are tried again.
        except Exception as failure:
            logger.debug("spool %s was not sent", self._folder, exc_info=True)
            return f"{type(failure).__name__}: {error_line(failure)[:300]}"
        return None

    def _steps_before_spool(self) -> RecordedSteps:
        recorded = read_recorded_steps(self._folder)
        if recorded is None:
            # An older spool without the file, partly sent: MLflow may have the steps from here.
            is_first = self._acknowledged.offset == 0
            recorded = RecordedSteps(fetch_recorded_steps(self._client, self._run_id) if is_first else {})
            write_recorded_steps(self._folder, recorded)
        return recorded

    def _commit_ahead(self) -> None:
        # Applies a commit that is recorded further on. So its points are sent once, and not as given up, too.
        step = _commit_before_branch(self._folder, self._acknowledged)
        if step is not None:
            committed, pending_from = _split_at_commit(
                self._folder, self._acknowledged, step, self._acknowledged.offset
            )
            send(self._client, self._run_id, self._folder, self._recorded.without_recorded(committed))
            self._acknowledge(replace(self._acknowledged, committed=step, held=pending_from))

    def _send_group(self, group: Group) -> None:
        records = [record for record, _ in group if record is not None]
        # Send committed points under their own keys, and those that no checkpoint will commit.
        plan = _plan_group(self._folder, self._acknowledged, group)
        refused = send(self._client, self._run_id, self._folder, self._recorded.without_recorded(plan.final))
        self._send_given_up(plan.given_up)
        # Follow up what was sent.
        for record in records:
            if record["k"] == "status" and record["v"] != "RUNNING":
                remove_outdated_tags(self._client, self._run_id, record["v"])
            if record["k"] == "version" and self._on_version is not None:
                self._on_version(record["name"], record["version"])
        # Set aside what will never be accepted, then acknowledge, and only then remove the attachments.
        refused += [(raw.decode(errors="replace"), "is no record") for record, raw in group if record is None]
        store_rejected(self._folder, refused)
        self._acknowledge(plan.acknowledged)
        _remove_attachments(self._folder, records)
        self.sent += len(group)
        self.rejected += len(refused)
        if any(record["k"] == "branch" for record in records):
            self._commit_ahead()

    def _send_given_up(self, records: list[SpoolRecord]) -> None:
        if records:
            send(self._client, self._run_id, self._folder, map(without_checkpoint, records))

    def _acknowledge(self, acknowledged: Acknowledged) -> None:
        self._acknowledged = acknowledged
        write_acknowledged(self._folder, acknowledged)


def remove_outdated_tags(client: Any, run_id: str, status: str) -> None:
    """Deletes tags that a run's end has made wrong."""
    # The run may have been marked stale while its end was on its way; a finished run has no error, though an earlier
    # attempt had one.
    tags = client.get_run(run_id).data.tags
    for name in (REAPED_TAG, ERROR_TAG) if status == "FINISHED" else (REAPED_TAG,):
        if name in tags:
            client.delete_tag(run_id, name)


def count_unsent(folder: Path) -> int:
    """Number of records that MLflow has not acknowledged."""
    return sum(1 for _ in read_lines(folder, read_acknowledged(folder).offset))


@dataclass(frozen=True)
class _GroupPlan:
    """Records to send for one group."""

    final: list[SpoolRecord]  # To send as they are
    given_up: list[SpoolRecord]  # To send under `without checkpoint/`
    acknowledged: Acknowledged  # Progress of the spool after both


def _plan_group(folder: Path, acknowledged: Acknowledged, group: Group) -> _GroupPlan:
    # Decides which records to send for a group, and where. A commit makes pending points final, a branch discards them.
    ledger = acknowledged.ledger()
    end = acknowledged.offset + sum(len(raw) for _, raw in group)
    pending_from = acknowledged.held
    final: list[SpoolRecord] = []
    given_up: list[SpoolRecord] = []
    for record in (record for record, _ in group if record is not None):
        match record["k"]:
            # All pending points are discarded.
            case "branch":
                pending_from = end
                given_up += _acknowledged_pending(folder, acknowledged)
            # Pending points up to this step become final.
            case "commit" if pending_from is not None:
                committed, pending_from = _split_at_commit(folder, acknowledged, record["step"], end)
                final += committed
            # Nothing is ever pending in this run.
            case "commit":
                continue
            # It waits for its checkpoint.
            case "metrics" if ledger.is_pending(record):
                pass
            # The run ends: no checkpoint will follow.
            case "status" if record["v"] != "RUNNING":
                given_up += _acknowledged_pending(folder, acknowledged)
                final.append(record)
            case _:
                final.append(record)
        ledger.apply(record)
    return _GroupPlan(final, given_up, Acknowledged(end, ledger.marks, ledger.committed, pending_from))


def _acknowledged_pending(folder: Path, acknowledged: Acknowledged) -> Iterator[SpoolRecord]:
    if acknowledged.held is None:
        return
    ledger, position = acknowledged.ledger(), acknowledged.held
    for record, raw in read_lines(folder, position):
        if position >= acknowledged.offset:
            return
        if record is not None and ledger.is_pending(record):
            yield record
        position += len(raw)


def _commit_before_branch(folder: Path, acknowledged: Acknowledged) -> int | None:
    """Newest unsent commit before a branch; None without news."""
    if acknowledged.committed is None:
        return None
    newest = acknowledged.committed
    for record, _ in read_lines(folder, acknowledged.offset):
        if record is not None and record["k"] == "branch":
            break
        if record is not None and record["k"] == "commit":
            newest = max(newest, record["step"])
    return newest if newest > acknowledged.committed else None


def _split_at_commit(
    folder: Path, acknowledged: Acknowledged, committed: int, end: int
) -> tuple[list[SpoolRecord], int]:
    """Splits the pending records at a commit, ending at `end`.

    Returns the records that become final, and the byte from which on others are still pending.
    """
    ledger = acknowledged.ledger()
    position = acknowledged.needed_from
    final, pending_positions = [], [end]
    for record, raw in read_lines(folder, position):
        if position >= acknowledged.offset:
            break
        if record is not None and ledger.is_pending(record):
            if record["step"] <= committed:
                final.append(record)
            else:
                pending_positions.append(position)
        position += len(raw)
    return final, min(pending_positions)


def _next_group(folder: Path, offset: int) -> Group:
    """Next lines for one `log_batch`, or one other record."""
    group: Group = []
    num_metrics = num_bytes = 0
    names: set[str] = set()
    for record, raw in read_lines(folder, offset):
        kind = record["k"] if record is not None else None
        # Another kind is a group by itself.
        if record is not None and kind not in ("metrics", "params", "tags"):
            return group or [(record, raw)]
        new_names = set(record["v"]) if record is not None and kind != "metrics" else set()
        num_metrics += len(record["v"]) if record is not None and kind == "metrics" else 0
        num_bytes += len(raw)
        is_full = num_metrics > MAX_METRICS or num_bytes > MAX_GROUP_BYTES or len(names | new_names) > MAX_NAMES
        # A parameter or tag that stands twice in one request is refused or has no defined order.
        if group and (is_full or names & new_names):
            return group
        names |= new_names
        group.append((record, raw))
    return group


def store_rejected(folder: Path, refused: Refused) -> None:
    """Keeps entities that the server refused for good."""
    if refused:
        entity, why = refused[0]
        logger.warning("tracking: %d entries were refused for good, the first: %.200s (%s)", len(refused), entity, why)
        with (folder / "rejected.jsonl").open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"entity": entity, "reason": reason}) + "\n" for entity, reason in refused)


def _remove_attachments(folder: Path, records: list[SpoolRecord]) -> None:
    for record in records:
        for local, _ in record.get("files", []):
            shutil.rmtree((folder / local).parent, ignore_errors=True)
