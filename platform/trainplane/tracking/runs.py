"""Start and end of a run in MLflow.

However an attempt crashed, the same key (`train.run_key`) is the same MLflow run: its status goes back to RUNNING, and
its attempts are counted. With an unreachable server, start and end are records of the spool like all others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainplane.errors import RunFailed, UserError
from trainplane.tracking.client import TrackingServer, is_refusal, reason
from trainplane.tracking.heartbeat import LEASE_TAG, new_lease, owner_id
from trainplane.tracking.run_id import (
    ERROR_TAG,
    OWNER_TAG,
    REAPED_TAG,
    RunSpec,
    find_or_create,
    find_reserved_run,
    is_reserved,
    set_tags,
    start_attempt,
)
from trainplane.tracking.spool.ledger import SpoolRecord
from trainplane.tracking.spool.meta import read_meta
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import BUSY, count_unsent, remove_outdated_tags, upload
from trainplane.tracking.tracker import Status

logger = logging.getLogger(__name__)

# A command that starts or ends a run waits this long for a slow server; `isnet runs sync` sends what is left.
_UPLOAD_S = 15.0
_ERROR_CHARACTERS = 500


@dataclass(frozen=True)
class RunHandle:
    """Picklable MLflow run at the start of an attempt."""

    run_id: str  # MLflow's id; a reserved id if MLflow did not answer and this host does not know it
    resumed: bool  # The run existed before, as far as MLflow or this host knows
    attempt: int = 1  # Number of this attempt, from 1
    offline_reason: str | None = None  # Why MLflow did not answer; None if it did


@dataclass(frozen=True)
class RunMetadata:
    """Records of a run that never change."""

    params: Mapping[str, str] = field(default_factory=dict)  # Settings
    texts: Mapping[str, str] = field(default_factory=dict)  # Text artifacts by file name
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # Datasets by purpose, such as `training`


def find_or_create_run(server: TrackingServer, spec: RunSpec) -> RunHandle:
    """Starts an attempt, owned by this process, in MLflow alone."""
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        return _start_in_mlflow(server.client, spec)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error


def start_run(server: TrackingServer, spec: RunSpec, metadata: RunMetadata, *, spool: Path, require: bool) -> RunHandle:
    """Starts a run in MLflow, or offline in its spool.

    A start that fails closes the run.

    Args:
        server: Server of the run.
        spec: Arguments to create the run.
        metadata: Recorded once in the life of the run.
        spool: Folder of this run alone. A full disk is a `UserError`.
        require: True: an unreachable server is a `UserError`. A refusal (password, address) always is one.
    """
    from mlflow.exceptions import MlflowException

    handle = None
    try:
        try:
            server.knock()
            handle = _start_in_mlflow(server.client, spec)
        except (MlflowException, OSError) as error:
            if require or is_refusal(error):
                raise server.unreachable(error) from error
            # Unreachable: the run starts in its spool.
            handle = _start_offline(spec, spool, reason(error))
        _record_start(server, spec, metadata, handle, spool)
    except BaseException as error:
        # Ctrl-C, too: the error goes up, and the run does not stay RUNNING.
        _close_failed_start(server, spec, handle, error, spool)
        raise
    return handle


def _record_start(
    server: TrackingServer, spec: RunSpec, metadata: RunMetadata, handle: RunHandle, folder: Path
) -> None:
    """Writes start and metadata into the spool; sends both."""
    try:
        with closing(Spool(folder, run_id=handle.run_id, tracking=server.public_address, run_spec=spec)) as spool:
            # MLflow could not be asked to start the attempt, so the uploader will do it.
            if handle.offline_reason is not None:
                spool.append({"k": "start", "v": {**spec.tags, LEASE_TAG: new_lease()}, "owner": owner_id()})
            # A resumed run has its metadata from its first attempt.
            if not handle.resumed:
                for record in _metadata_records(spool, metadata):
                    spool.append(record)
    except OSError as error:
        raise UserError(
            f"{folder}: the run cannot be recorded there ({error.strerror}); "
            "free some space, or set ISNET_HOME to a folder of yours with room"
        ) from error
    if handle.offline_reason is None:
        _upload_idle_spool(folder, server.client)


def exit_status(error: BaseException) -> tuple[Status, dict[str, str]]:
    """Status and tags of a run that `error` ended."""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", {}
    return "FAILED", {ERROR_TAG: f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]}


def _close_failed_start(
    server: TrackingServer, spec: RunSpec, handle: RunHandle | None, error: BaseException, spool: Path
) -> None:
    """Closes a run that this process started before `error` came."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = handle.run_id if handle else _running_here(server, spec)
    except (MlflowException, OSError, UserError) as request_error:
        # Perhaps the run was not started; if it was, it is marked stale once this process has ended.
        logger.info("MLflow does not answer whether the run has started (%s)", reason(request_error))
        return
    status, tags = exit_status(error)
    if handle is None or handle.offline_reason is None:
        if run_id is not None:
            close_run(server, run_id, status, tags, spool=spool)
    # An offline run is known to this disk alone, or not even there.
    elif (spool / "about.json").exists():
        with suppress(OSError, UserError):
            _record(server, handle.run_id, spool, tags, {}, status)


def _running_here(server: TrackingServer, spec: RunSpec) -> str | None:
    """MLflow's id of a run that this process has RUNNING."""
    server.knock()
    run = find_reserved_run(server.client, spec.reserved_id)
    if run is None or run.info.status != "RUNNING" or run.data.tags.get(OWNER_TAG) != owner_id():
        return None
    return str(run.info.run_id)


def _start_in_mlflow(client: Any, spec: RunSpec) -> RunHandle:
    # The claim names this process as owner even if it dies before the attempt starts.
    run, existed = find_or_create(client, spec, claim={OWNER_TAG: owner_id(), LEASE_TAG: new_lease()})
    run_id = run.info.run_id
    attempt = start_attempt(client, run, tags={**spec.tags, LEASE_TAG: new_lease()}, owner=owner_id())
    # An earlier attempt was marked stale; this one is alive.
    if REAPED_TAG in run.data.tags:
        client.delete_tag(run_id, REAPED_TAG)
    return RunHandle(run_id, existed, attempt)


def _start_offline(spec: RunSpec, spool: Path, why: str) -> RunHandle:
    """A run that only this host has for now."""
    # An earlier attempt may have left MLflow's id in the spool.
    try:
        run_id = read_meta(spool).run_id
    except UserError:
        run_id = spec.reserved_id
    return RunHandle(run_id, resumed=not is_reserved(run_id), offline_reason=why)


def _metadata_records(spool: Spool, metadata: RunMetadata) -> list[SpoolRecord]:
    # Records of metadata, marked `once`. An attempt on another host may have sent them, and they never change.
    texts = [[spool.attach(name, text.encode()), name] for name, text in metadata.texts.items()]
    return [
        {"k": "params", "v": dict(metadata.params), "once": True},
        *({"k": "input", "v": dict(dataset), "context": purpose} for purpose, dataset in metadata.inputs.items()),
        *({"k": "file", "files": [pair], "once": True} for pair in texts),
    ]


def _upload_idle_spool(spool: Path, client: Any) -> int:
    """Sends a closed spool for seconds; returns the records left."""
    deadline = time.monotonic() + _UPLOAD_S
    # The uploader of a recorder that has just ended may still be at work.
    while (result := upload(spool, client, stop=lambda: time.monotonic() > deadline)).error == BUSY:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if result.error:
        logger.warning("tracking: %d records wait in %s (%s)", result.unsent, spool, result.error)
    return result.unsent


def annotate_run(
    server: TrackingServer, run_id: str, *, spool: Path, tags: Mapping[str, str], texts: Mapping[str, str]
) -> int:
    """Records tags and texts without a recorder; returns records left.

    A failure of the server raises nothing. Raises `UserError` while the run is recorded, `OSError` on a full disk.
    """
    return _record(server, run_id, spool, tags, texts, None)


def close_run(server: TrackingServer, run_id: str, status: Status, tags: Mapping[str, str], *, spool: Path) -> int:
    """Records a run's end in any case; returns records left."""
    try:
        return _record(server, run_id, spool, tags, {}, status)
    except (OSError, UserError) as error:
        # The disk is full, or a rank that was taken for dead still records: try MLflow directly.
        logger.warning("tracking: the end of the run cannot be stored on this disk (%s)", error)
    # Without a spool the end is lost if MLflow does not answer either.
    try:
        end_run(server, run_id, status, tags)
    except (UserError, RunFailed) as error:
        logger.warning("tracking: the end of run %s is not recorded (%s)", run_id, error)
    return 0


def _record(
    server: TrackingServer,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    texts: Mapping[str, str],
    status: Status | None,
) -> int:
    """Writes records and sends them; returns the records left."""
    with closing(Spool(folder, run_id=run_id, tracking=server.public_address)) as spool:
        for name, text in texts.items():
            spool.append({"k": "file", "files": [[spool.attach(Path(name).name, text.encode()), name]]})
        if tags:
            spool.append({"k": "tags", "v": {key: str(value) for key, value in tags.items()}})
        # The status last: a run that has ended has all of its records.
        if status is not None:
            spool.append({"k": "status", "v": status, "ts": time.time_ns() // 1_000_000})
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
    except (OSError, MlflowException):
        return count_unsent(folder)
    return _upload_idle_spool(folder, client)


def discard_run(server: TrackingServer, run_id: str) -> None:
    """Deletes a run that a user's mistake ended at once."""
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        server.client.delete_run(run_id)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error


def end_run(server: TrackingServer, run_id: str, status: Status, tags: Mapping[str, str] | None = None) -> None:
    """Closes a run in MLflow, without a spool."""
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
        set_tags(client, run_id, tags or {})
        client.set_terminated(run_id, status=status)
        remove_outdated_tags(client, run_id, status)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error
