"""From a spool to MLflow, in order, once, in batches: what to send next, and how far it was acknowledged.

`drain` runs in the process beside a training (`flusher`), or in any other after its death. It remembers the
acknowledged byte offset after every group; killed in between, it sends a group again, which changes nothing (`send`).
One `log_batch` of 1000 metrics costs about as much as six single calls.

Points that wait for a checkpoint would be sent twice. So of those only the newest of each key and group shows under
`live/`; all of them go there once they are given up, or the run ends, or nobody records any more.
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
from trainplane.tracking.history import Heard, read_heard, write_heard
from trainplane.tracking.run_id import ERROR_TAG, REAPED_TAG
from trainplane.tracking.spool.ledger import Record, as_live
from trainplane.tracking.spool.meta import read_about, settled_id
from trainplane.tracking.spool.mlflow_batch import MAX_METRICS, MAX_NAMES, Refused, send
from trainplane.tracking.spool.spool import Sent, drainer_lock, pending, read_sent, sent_within, write_sent

logger = logging.getLogger(__name__)

# MLflow refuses requests beyond 1 MB; a metric takes about three times as much in a request as on a line here.
MAX_GROUP_BYTES = 250_000
OnVersion = Callable[[str, str], None]
"""Called with name and version of a registered model after something was attached to it."""
BUSY = "another process is sending these records"


@dataclass(frozen=True)
class Drained:
    """One drain: records acknowledged and left, entities refused for good, and why it ended early, if it did."""

    sent: int = 0
    unsent: int = 0
    rejected: int = 0
    error: str | None = None


def drain(
    folder: Path,
    client: Any,
    *,
    stop: Callable[[], bool] = lambda: False,
    rest: bool = True,
    on_version: OnVersion | None = None,
) -> Drained:
    """Send what is unacknowledged through `client` (an MlflowClient) until all is sent, `stop()` or a failure.

    With `rest`, points that still wait at the end are shown under `live/`, all of them. Never raises for what a server
    or a network does: the records stay and the reason is in `error`. `on_version` is called before an attachment to a
    registered version is acknowledged; where it raises, the attachment is sent again later.
    """
    read_about(folder)
    with drainer_lock(folder) as alone:
        if not alone:
            return Drained(unsent=count_unsent(folder), error=BUSY)
        sending = _Drain(folder, client, on_version)
        error = sending.until(stop, rest=rest)
    return Drained(sending.sent, count_unsent(folder), sending.rejected, error)


class _Drain:
    """One drainer at work, under the spool's lock."""

    def __init__(self, folder: Path, client: Any, on_version: OnVersion | None) -> None:
        self._folder, self._client, self._on_version = folder, client, on_version
        self._done = read_sent(folder)
        self.sent = self.rejected = 0

    def until(self, stop: Callable[[], bool], *, rest: bool) -> str | None:
        """Send; returns why it ended early."""
        try:
            self._done = sent_within(self._folder)
        except OSError as failure:
            # A full disk, where there is something to mend: without that, what is sent would be forgotten at once.
            return f"{type(failure).__name__}: {error_line(failure)[:300]}"
        has_waiting = rest and self._done.held is not None
        if not has_waiting and not _next_group(self._folder, self._done.offset):
            # Nothing to send is no reason to ask anybody who the run is.
            return None
        try:
            self._run_id = settled_id(self._folder, self._client)
            self._heard = self._ask()
            self._look_ahead()
            while not stop() and (group := _next_group(self._folder, self._done.offset)):
                self._send_group(group)
            if rest and not stop():
                self._show(list(_waiting(self._folder, self._done)))
        # Whatever the client of a server, a database or an object store raises, the answer is the same: the records
        # stay on the disk and are tried again.
        except Exception as failure:
            logger.debug("spool %s was not sent", self._folder, exc_info=True)
            return f"{type(failure).__name__}: {error_line(failure)[:300]}"
        return None

    def _ask(self) -> Heard:
        """What MLflow had before the first record from here."""
        heard = read_heard(self._folder)
        if heard is None:
            from trainplane.tracking.history import recorded_steps

            # An older spool, without the file: what MLflow has may have come from here.
            is_first = self._done.offset == 0
            heard = Heard(recorded_steps(self._client, self._run_id)) if is_first else Heard()
            write_heard(self._folder, heard)
        return heard

    def _look_ahead(self) -> None:
        """Let a checkpoint that is recorded further on count from here: what it lets go need not wait, and go twice."""
        step = _committed_ahead(self._folder, self._done)
        if step is not None:
            released, held = _released(self._folder, self._done, step, self._done.offset)
            send(self._client, self._run_id, self._folder, self._heard.new(released))
            self._done = replace(self._done, committed=step, held=held)
            write_sent(self._folder, self._done)

    def _send_group(self, group: list[tuple[Record | None, bytes]]) -> None:
        records = [record for record, _ in group if record is not None]
        after = _after(self._folder, self._done, group)
        refused = send(self._client, self._run_id, self._folder, self._heard.new(after.sending))
        self._show(after.live)
        for record in records:
            if record["k"] == "status" and record["v"] != "RUNNING":
                forget_end_tags(self._client, self._run_id, record["v"])
            if record["k"] == "version" and self._on_version is not None:
                self._on_version(record["name"], record["version"])
        refused += [(raw.decode(errors="replace"), "is no record") for record, raw in group if record is None]
        _keep_rejected(self._folder, refused)
        self._done = after.sent
        write_sent(self._folder, self._done)
        _remove_attachments(self._folder, records)
        self.sent += len(group)
        self.rejected += len(refused)
        if any(record["k"] == "branch" for record in records):
            self._look_ahead()

    def _show(self, records: list[Record]) -> None:
        """Under `live/`, where attempts may repeat each other."""
        if records:
            send(self._client, self._run_id, self._folder, map(as_live, records))


def forget_end_tags(client: Any, run_id: str, status: str) -> None:
    """Deletes tags that no longer hold for a run that ended with `status`.

    The run may have been marked stale while its end was on its way; a finished run has no error, though an earlier
    attempt had one.
    """
    tags = client.get_run(run_id).data.tags
    for name in (REAPED_TAG, ERROR_TAG) if status == "FINISHED" else (REAPED_TAG,):
        if name in tags:
            client.delete_tag(run_id, name)


def count_unsent(folder: Path) -> int:
    """Records that MLflow has not acknowledged."""
    return sum(1 for _ in pending(folder, read_sent(folder).offset))


@dataclass(frozen=True)
class _After:
    """What one group of records asks to be sent, as it is and under `live/`; how far the spool is acknowledged then."""

    sending: list[Record]
    live: list[Record]
    sent: Sent


def _after(folder: Path, done: Sent, group: list[tuple[Record | None, bytes]]) -> _After:
    """Points that wait for a checkpoint show under `live/`; a commit lets them go as they are, a branch gives up."""
    ledger = done.ledger()
    end = done.offset + sum(len(raw) for _, raw in group)
    held = done.held
    sending: list[Record] = []
    live: list[Record] = []
    newest: dict[str, Record] = {}
    for record in (record for record, _ in group if record is not None):
        match record["k"]:
            case "branch":
                held = end
                live += _waiting(folder, done)
            case "commit" if held is not None:
                released, held = _released(folder, done, record["step"], end)
                sending += released
            case "commit":
                continue
            case "metrics" if ledger.waits(record):
                newest |= dict.fromkeys(record["v"], record)
            case "status" if record["v"] != "RUNNING":
                live += _waiting(folder, done)
                sending.append(record)
            case _:
                sending.append(record)
        ledger.take(record)
    live += [{**record, "v": {key: record["v"][key]}} for key, record in newest.items()]
    return _After(sending, live, Sent(end, ledger.marks, ledger.committed, held))


def _waiting(folder: Path, done: Sent) -> Iterator[Record]:
    """The acknowledged records whose points wait for a checkpoint."""
    if done.held is None:
        return
    ledger, position = done.ledger(), done.held
    for record, raw in pending(folder, position):
        if position >= done.offset:
            return
        if record is not None and ledger.waits(record):
            yield record
        position += len(raw)


def _committed_ahead(folder: Path, done: Sent) -> int | None:
    """The newest checkpoint recorded before the next branch, where it lets go of more than is known to stand."""
    if done.committed is None:
        return None
    newest = done.committed
    for record, _ in pending(folder, done.offset):
        if record is not None and record["k"] == "branch":
            break
        if record is not None and record["k"] == "commit":
            newest = max(newest, record["step"])
    return newest if newest > done.committed else None


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


def _keep_rejected(folder: Path, refused: Refused) -> None:
    if refused:
        entity, why = refused[0]
        logger.warning("tracking: %d entries were refused for good, the first: %.200s (%s)", len(refused), entity, why)
        with (folder / "rejected.jsonl").open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"entity": entity, "reason": reason}) + "\n" for entity, reason in refused)


def _remove_attachments(folder: Path, records: list[Record]) -> None:
    for record in records:
        for local, _ in record.get("files", []):
            shutil.rmtree((folder / local).parent, ignore_errors=True)
