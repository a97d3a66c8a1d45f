"""A run's beginning and its end.

A run has a deterministic key (`identity`). Whatever crashed in between, the same key is the same MLflow run: its status
goes back to RUNNING, its attempts are counted, and the handle says which steps are recorded already. Where the server
is away, beginning and end are records of the spool like all others; what a loop records while it trains goes through
`tracker`, which never waits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer, is_refusal, reason
from trainplane.tracking.heartbeat import LEASE_TAG, held, new_lease, owner, reap
from trainplane.tracking.history import recorded_steps
from trainplane.tracking.run_id import (
    ERROR_TAG,
    OWNER_TAG,
    REAPED_TAG,
    Birth,
    begin,
    find,
    is_reserved,
    set_tags,
    settle,
)
from trainplane.tracking.spool.ledger import Record
from trainplane.tracking.spool.meta import read_about
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import BUSY, count_unsent, drain, forget_end_tags
from trainplane.tracking.tracker import NullTracker, Recorder, Status, Tracker

__all__ = [
    "ERROR_TAG",
    "Birth",
    "Facts",
    "NullTracker",
    "Recorder",
    "RunHandle",
    "Status",
    "Tracker",
    "begin_run",
    "close_run",
    "end_run",
    "ending",
    "find_or_create_run",
    "held",
    "note",
    "owner",
    "reap",
]

logger = logging.getLogger(__name__)

_SENDING_S = 15.0


@dataclass(frozen=True)
class RunHandle:
    """One MLflow run, as far as it was recorded when this attempt began.

    `last_steps` has the last recorded step of every metric, and of every picture under `picture KEY`; `last_step` is
    the last one of training metrics. Where MLflow did not answer, `away` says why, `run_id` is the reserved one, and
    `resumed` is what this host knows. It is small and picklable: the launcher makes it, rank 0 uses it.
    """

    run_id: str
    experiment_id: str
    resumed: bool
    last_step: int | None
    attempt: int = 1
    last_steps: Mapping[str, int] = field(default_factory=dict)
    away: str | None = None


@dataclass(frozen=True)
class Facts:
    """What is recorded of a run once for life: settings, texts by file name, and datasets by what they are for."""

    params: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def find_or_create_run(
    server: TrackingServer,
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
    from mlflow.exceptions import MlflowException

    birth = Birth(experiment, run_key, run_name, artifact_root, parent_run_id, tags)
    try:
        server.knock()
        return _begun(server.client, birth)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error


def begin_run(server: TrackingServer, birth: Birth, facts: Facts, *, spool: Path, require: bool) -> RunHandle:
    """As `find_or_create_run`, with `facts`; but where nobody answers the run begins in the folder `spool`.

    What was answered and refused is a `UserError` in any case: a wrong password or address does not mend itself. With
    `require`, so is silence; and so is a disk without room for the spool. A run that was begun before it is closed.
    """
    from mlflow.exceptions import MlflowException

    handle = None
    try:
        try:
            server.knock()
            handle = _begun(server.client, birth)
        except (MlflowException, OSError) as error:
            if require or is_refusal(error):
                raise server.unreachable(error) from error
            handle = _begun_here(birth, spool, reason(error))
        _record_beginning(server, birth, facts, handle, spool)
    except BaseException as error:
        # Ctrl-C, too: whatever it is goes on upwards, and the run does not stay RUNNING.
        _close_cut_short(server, birth, handle, error, spool)
        raise
    return handle


def _record_beginning(server: TrackingServer, birth: Birth, facts: Facts, handle: RunHandle, spool: Path) -> None:
    try:
        with _opened(server, spool, handle.run_id, birth) as written:
            if handle.away is not None:
                written.append({"k": "start", "v": {**birth.tags, LEASE_TAG: new_lease()}, "owner": owner()})
            if not handle.resumed:
                for record in _fact_records(written, facts):
                    written.append(record)
    except OSError as error:
        raise UserError(
            f"{spool}: the run cannot be recorded there ({error.strerror}); "
            "free some space, or set ISNET_HOME to a folder of yours with room"
        ) from error
    if handle.away is None:
        _send(spool, server.client)


def ending(error: BaseException) -> tuple[Status, dict[str, str]]:
    """How a run ends that `error` ends, and the tags that tell why."""
    if isinstance(error, KeyboardInterrupt):
        return "KILLED", {}
    return "FAILED", {ERROR_TAG: f"{type(error).__name__}: {error}"[:500]}


def _close_cut_short(
    server: TrackingServer, birth: Birth, handle: RunHandle | None, error: BaseException, spool: Path
) -> None:
    """Close the run of `birth` that `error` kept from going on, where this process has begun it."""
    from mlflow.exceptions import MlflowException

    try:
        run_id = handle.run_id if handle else _begun_by_us(server, birth)
    except (MlflowException, OSError, UserError) as another:
        # Nothing is known to have begun; whoever looks gives up the run of a process that is gone.
        logger.info("whether the run has begun could not be asked (%s)", reason(another))
        return
    status, tags = ending(error)
    if handle is None or handle.away is None:
        if run_id is not None:
            close_run(server, run_id, status, tags, spool=spool)
    # Only this disk has heard of it, if that has.
    elif (spool / "about.json").exists():
        with suppress(OSError, UserError):
            _record(server, handle.run_id, spool, tags, {}, status)


def _begun_by_us(server: TrackingServer, birth: Birth) -> str | None:
    """MLflow's id of the run of `birth`, where it is RUNNING and this process has it."""
    server.knock()
    found = find(server.client, birth.reserved_id)
    if found is None or found.info.status != "RUNNING" or found.data.tags.get(OWNER_TAG) != owner():
        return None
    return str(found.info.run_id)


def _begun(client: Any, birth: Birth) -> RunHandle:
    found = settle(client, birth, claim={OWNER_TAG: owner(), LEASE_TAG: new_lease()})
    run_id = found.run.info.run_id
    last_steps = recorded_steps(client, run_id) if found.resumed else {}
    attempt = begin(client, found.run, tags={**birth.tags, LEASE_TAG: new_lease()}, owner=owner())
    if REAPED_TAG in found.run.data.tags:
        client.delete_tag(run_id, REAPED_TAG)
    training = [step for key, step in last_steps.items() if key.startswith("train/")]
    return RunHandle(
        run_id=run_id,
        experiment_id=found.run.info.experiment_id,
        resumed=found.resumed,
        last_step=max(training, default=None),
        attempt=attempt,
        last_steps=last_steps,
    )


def _begun_here(birth: Birth, spool: Path, why: str) -> RunHandle:
    """A run of which nobody but this host knows for now."""
    try:
        run_id = read_about(spool).run_id
    except UserError:
        return RunHandle(birth.reserved_id, "", resumed=False, last_step=None, away=why)
    return RunHandle(run_id, "", resumed=not is_reserved(run_id), last_step=None, away=why)


def _opened(server: TrackingServer, spool: Path, run_id: str, birth: Birth) -> Any:
    """The spool, for a few records; closed at the end of the block."""
    return closing(Spool(spool, run_id=run_id, tracking=server.public_address, birth=birth))


def _fact_records(spool: Spool, facts: Facts) -> Sequence[Record]:
    """Marked `once`: an earlier attempt, on another host, may have recorded them, and what a run is does not change."""
    texts = [[spool.attach(name, text.encode()), name] for name, text in facts.texts.items()]
    return [
        {"k": "params", "v": dict(facts.params), "once": True},
        *({"k": "input", "v": dict(dataset), "context": context} for context, dataset in facts.inputs.items()),
        *({"k": "file", "files": [pair], "once": True} for pair in texts),
    ]


def _send(spool: Path, client: Any) -> int:
    """Send what is in a spool that nobody else sends, for some seconds; returns what is left."""
    deadline = time.monotonic() + _SENDING_S
    while (drained := drain(spool, client, stop=lambda: time.monotonic() > deadline)).error == BUSY:
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if drained.error:
        logger.warning("tracking: %d records wait in %s (%s)", drained.unsent, spool, drained.error)
    return drained.unsent


def note(server: TrackingServer, run_id: str, *, spool: Path, tags: Mapping[str, str], texts: Mapping[str, str]) -> int:
    """Record something of a run that nobody records right now; returns what waits for the server. Never raises for it.

    Raises `UserError` where the run is being recorded, and `OSError` where the disk is full.
    """
    return _record(server, run_id, spool, tags, texts, None)


def close_run(server: TrackingServer, run_id: str, status: Status, tags: Mapping[str, str], *, spool: Path) -> int:
    """Record how a run ended; returns how many records wait for the server. Never raises for what a server does."""
    try:
        return _record(server, run_id, spool, tags, {}, status)
    except (OSError, UserError) as error:
        # The disk is full, or a rank that was given up for dead still records: MLflow can be told directly.
        logger.warning("tracking: the end is not kept on this disk (%s)", error)
        return _ended_directly(server, run_id, status, tags)


def _ended_directly(server: TrackingServer, run_id: str, status: Status, tags: Mapping[str, str]) -> int:
    try:
        end_run(server, run_id, status, tags)
    except UserError as error:
        logger.warning("tracking: how run %s ended is not recorded (%s)", run_id, error)
    return 0


def _record(
    server: TrackingServer,
    run_id: str,
    folder: Path,
    tags: Mapping[str, str],
    texts: Mapping[str, str],
    status: Status | None,
) -> int:
    written = Spool(folder, run_id=run_id, tracking=server.public_address)
    try:
        for name, text in texts.items():
            written.append({"k": "file", "files": [[written.attach(Path(name).name, text.encode()), name]]})
        if tags:
            written.append({"k": "tags", "v": {key: str(value) for key, value in tags.items()}})
        if status is not None:
            written.append({"k": "status", "v": status, "ts": time.time_ns() // 1_000_000})
    finally:
        written.close()
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
    except (OSError, MlflowException):
        return count_unsent(folder)
    return _send(folder, client)


def end_run(server: TrackingServer, run_id: str, status: Status, tags: Mapping[str, str] | None = None) -> None:
    """Close a run from outside its recorder. Raises `UserError` when the address does not answer."""
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
        set_tags(client, run_id, tags or {})
        client.set_terminated(run_id, status=status)
        forget_end_tags(client, run_id, status)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error
