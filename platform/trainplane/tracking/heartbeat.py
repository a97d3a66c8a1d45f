"""Heartbeats of runs, so that dead runs are closed.

A live process renews its run's lease, a tag, every minute. On the owner's host its process is looked up, which gives an
answer at once. Other hosts decide by the lease within minutes: they compare its text with what they saw before, by
their own clock since boot; clocks of two hosts are never compared. A run expires after three looks: the lease was seen,
stood unchanged for its whole term, and once more for long enough that an owner who had been cut off would have renewed
it. An owner that was cut off for longer takes its run back (`renew_lease`). Commands and every process with a run call
`fail_stale_runs`, so a cluster cleans up after itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trainplane.locks import ProcessId, boot_id
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.local.lists import LocalLists, read_locally
from trainplane.tracking.run_id import OWNER_TAG, PARENT_TAG, REAPED_TAG, find_reserved_run, is_reserved, set_tags
from trainplane.tracking.spool.meta import read_meta, replace_file
from trainplane.tracking.spool.spool import has_writer
from trainplane.tracking.spool.upload import upload

logger = logging.getLogger(__name__)

LEASE_TAG = "trainplane.lease"
_SIGHTINGS = "leases.json"
RENEW_EVERY_S = 60.0
LEASE_TERM_S = 300.0
# Longer than the pause between two renewals, and than a renewal takes once the server is back.
GRACE_S = 2 * RENEW_EVERY_S

LeaseState = Literal["alive", "suspect", "expired"]


def fail_stale_runs(server: TrackingServer, home: Path | None = None, *, term_s: float = LEASE_TERM_S) -> list[str]:
    """Closes RUNNING runs without a live process.

    They are FAILED, and KILLED if the search that they are trials of was KILLED.

    Args:
        server: An unreachable one is a `UserError`.
        home: Folder in which this host stores the leases it saw; without it only processes of this host are checked.
        term_s: Seconds for which an unchanged lease is valid.

    Returns:
        Ids of the marked runs.
    """
    # No database, no runs. A local one that has none to close is not opened by MLflow, which takes seconds.
    if not server.exists or read_locally(server.address, LocalLists.num_running) == 0:
        return []
    from mlflow.exceptions import MlflowException

    try:
        # A silent host would cost the time limit of a whole request.
        server.knock()
        client = server.client
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        running = all_pages(
            client.search_runs, experiment_ids=experiments, filter_string="attributes.status = 'RUNNING'"
        )
        # Runs of this host: look up the process.
        reasons = {run.info.run_id: "its process ended without closing the run" for run in running if _has_died(run)}
        # Runs of other hosts: compare leases.
        if home is not None:
            remote = [run for run in running if LEASE_TAG in run.data.tags and not _is_local(run)]
            reason = "its process, on another host, has not renewed its lease for minutes"
            reasons |= dict.fromkeys(_expired_runs(remote, home / _SIGHTINGS, term_s), reason)
        # The tag before the status, so that an owner that is alive can tell this end from its own.
        stopped = _stopped_with_their_search(client, [run for run in running if run.info.run_id in reasons])
        for run_id, reason in reasons.items():
            set_tags(client, run_id, {REAPED_TAG: reason})
            client.set_terminated(run_id, status="KILLED" if run_id in stopped else "FAILED")
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error
    return list(reasons)


def _stopped_with_their_search(client: Any, runs: list[Any]) -> set[str]:
    """Ids of trials among `runs` whose search was stopped.

    Its processes are ended with it, and that is no failure of theirs.
    """
    from mlflow.exceptions import MlflowException

    parents = {run.info.run_id: run.data.tags.get(PARENT_TAG) for run in runs}
    killed = set()
    for parent in set(parents.values()) - {None}:
        # It may have been deleted.
        with suppress(MlflowException):
            if client.get_run(parent).info.status == "KILLED":
                killed.add(parent)
    return {run_id for run_id, parent in parents.items() if parent in killed}


def _is_local(run: Any) -> bool:
    return _local_owner(run) is not None


def _has_died(run: Any) -> bool:
    owner = _local_owner(run)
    return owner is not None and not owner.is_alive()


def _local_owner(run: Any) -> ProcessId | None:
    """Process of this host that owns a run, if any."""
    host, _, numbers = str(run.data.tags.get(OWNER_TAG, "")).partition(f"{_host()}:")
    pid, _, start_ticks = numbers.partition(":")
    # Anyone can edit a tag. One that names no process leaves the decision to the lease.
    if host or not re.fullmatch("[0-9]{1,10}:[0-9]{1,19}", numbers):
        return None
    return ProcessId(int(pid), int(start_ticks))


def _expired_runs(runs: list[Any], path: Path, term_s: float) -> list[str]:
    """Ids of runs with an expired lease; updates stored sightings."""
    boot, now = boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        sightings = sightings_from_json(json.loads(path.read_text()), boot=boot)
    except (OSError, ValueError):
        sightings = {}
    states = {
        run.info.run_id: assess_lease(run.data.tags[LEASE_TAG], sightings.get(run.info.run_id), now, term_s=term_s)
        for run in runs
    }
    # Nothing seen, nothing to forget.
    if not states and not sightings:
        return []
    # Only runs that are still RUNNING are remembered.
    stored = {"boot": boot, "seen": {run_id: asdict(sighting) for run_id, (_, sighting) in states.items()}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(stored).encode())
    except OSError as error:
        # Without stored sightings no run expires too soon; on a full disk stale runs merely stay RUNNING.
        logger.info("leases that were seen cannot be stored in %s (%s)", path, error)
    return [run_id for run_id, (state, _) in states.items() if state == "expired"]


class LeaseHeartbeat:
    """Thread that renews a lease, marks stale runs, never raises."""

    def __init__(self, server: TrackingServer, run_id: str, *, home: Path, spool: Path | None, every_s: float) -> None:
        """Starts the thread.

        Args:
            server: Server of the run.
            run_id: MLflow's id, or a reserved one.
            home: Folder in which this host stores the leases it saw.
            spool: The run's spool on this host; it has MLflow's id of a run that started without a server. While no
                process writes there, its records are sent from here.
            every_s: Seconds between two renewals.
        """
        self._server, self._run_id, self._home, self._spool = server, run_id, home, spool
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread without waiting for an unreachable server."""
        self._closing.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        # Jitter keeps many runs from renewing at the same moment.
        while not self._closing.wait(self._every_s * random.uniform(0.8, 1.0)):
            try:
                self._server.knock()
                client = self._server.client
                self._upload_idle_spool(client)
                run_id = self._mlflow_id(client)
                if run_id is not None and not self._closing.is_set():
                    renew_lease(client, run_id)
                    if is_look_due(self._home, self._server.address, self._every_s):
                        fail_stale_runs(self._server, self._home)
            # A thread beside training: whichever error a server, a database or a store raises, it tries again.
            except Exception as error:
                logger.info("the lease of run %s could not be renewed (%s)", self._run_id, error)

    def _upload_idle_spool(self, client: Any) -> None:
        """Sends records of a spool that has lost its recorder."""
        if self._spool is not None and (self._spool / "about.json").exists() and not has_writer(self._spool):
            upload(self._spool, client, stop=self._closing.is_set)

    def _mlflow_id(self, client: Any) -> str | None:
        """MLflow's id of the run; None if MLflow lacks it."""
        if is_reserved(self._run_id) and self._spool is not None:
            self._run_id = read_meta(self._spool).run_id
        if is_reserved(self._run_id):
            run = find_reserved_run(client, self._run_id)
            if run is None:
                return None
            self._run_id = run.info.run_id
        return self._run_id


def is_look_due(home: Path, server: str, every_s: float) -> bool:
    """True for one process of this host in `every_s`."""
    # The age of a file says when a process last looked for dead runs of that server.
    path = home / f"leases-{hashlib.sha256(server.encode()).hexdigest()[:8]}.looked"
    try:
        # A clock that was set back makes it due.
        if 0 <= time.time() - path.stat().st_mtime < every_s * 0.75:
            return False
    except OSError:
        pass
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return True


def renew_lease(client: Any, run_id: str) -> None:
    """Renews a lease; a run marked stale is RUNNING again."""
    tags = client.get_run(run_id).data.tags
    set_tags(client, run_id, {LEASE_TAG: new_lease()})
    if REAPED_TAG in tags:
        client.update_run(run_id, status="RUNNING")
        client.delete_tag(run_id, REAPED_TAG)


def new_lease() -> str:
    """Text that no lease had before, readable as a time."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}, every {RENEW_EVERY_S:.0f} s"


@contextmanager
def hold_lease(
    server: TrackingServer, run_id: str, *, home: Path, spool: Path | None = None, every_s: float = RENEW_EVERY_S
) -> Iterator[None]:
    """Renews the run's lease while the block runs."""
    heartbeat = LeaseHeartbeat(server, run_id, home=home, spool=spool, every_s=every_s)
    try:
        yield
    finally:
        heartbeat.close()


def owner_id() -> str:
    """`host:pid:start` of this process, the owner of its runs."""
    # The host includes its PID namespace, since containers share names.
    process = ProcessId.here()
    return f"{_host()}:{process.pid}:{process.start_ticks}"


def _host() -> str:
    return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"


@dataclass(frozen=True)
class Sighting:
    """A lease as this host saw it; seconds since boot."""

    lease: str  # Text of the lease
    since_s: float  # First seen with this text
    doubtful_s: float | None = None  # First seen after its term; None before that


def assess_lease(
    lease: str, sighting: Sighting | None, now_s: float, *, term_s: float = LEASE_TERM_S
) -> tuple[LeaseState, Sighting]:
    """Decides whether a run's owner is alive. Pure: no I/O."""
    clock_restarted = sighting is not None and now_s < max(sighting.since_s, sighting.doubtful_s or 0.0)
    # First look, or the lease was renewed.
    if sighting is None or sighting.lease != lease or clock_restarted:
        return "alive", Sighting(lease, now_s)
    # Second look: unchanged for its term.
    if sighting.doubtful_s is None:
        if now_s - sighting.since_s < term_s:
            return "alive", sighting
        return "suspect", Sighting(lease, sighting.since_s, now_s)
    # Third look: unchanged for the grace period, too.
    if now_s - sighting.doubtful_s < GRACE_S * term_s / LEASE_TERM_S:
        return "suspect", sighting
    return "expired", sighting


def sightings_from_json(stored: Any, *, boot: str) -> dict[str, Sighting]:
    """Sightings by run id; none if unreadable or outdated."""
    if not isinstance(stored, Mapping) or stored.get("boot") != boot:
        return {}
    try:
        return {str(run_id): Sighting(**sighting) for run_id, sighting in stored["seen"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}
