"""Nobody stays RUNNING after death: who holds a run says so every minute, and whoever looks gives up the others.

On the holder's own host its process is looked for, which tells at once. From other hosts the run's lease tells, within
some minutes (`lease`). `reap` is called by commands, and by every process that holds a run, so that a cluster on which
anything still runs tidies itself.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from trainplane.locks import ProcessId, boot_id
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.run_id import OWNER_TAG, REAPED_TAG, find, is_reserved, set_tags
from trainplane.tracking.spool.meta import read_about, replace_file
from trainplane.tracking.spool.spool import is_written
from trainplane.tracking.spool.upload import drain

logger = logging.getLogger(__name__)

LEASE_TAG = "trainplane.lease"
_SEEN = "leases.json"
RENEW_EVERY_S = 60.0
TERM_S = 300.0
# Longer than renewing takes once the server is back, and than the pause before it.
LAST_CHANCE_S = 2 * RENEW_EVERY_S

Verdict = Literal["held", "doubtful", "gone"]


def reap(server: TrackingServer, home: Path | None = None, *, term_s: float = TERM_S) -> list[str]:
    """Mark runs FAILED that are RUNNING although their process is gone; returns their ids.

    `home` is where this host remembers the leases it saw; without it only processes of this host are looked for.
    Raises `UserError` when the address does not answer.
    """
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        running = all_pages(
            client.search_runs, experiment_ids=experiments, filter_string="attributes.status = 'RUNNING'"
        )
        gone = {run.info.run_id: "its process ended without closing the run" for run in running if _is_gone_here(run)}
        if home is not None:
            others = [run for run in running if LEASE_TAG in run.data.tags and not _is_here(run)]
            told = "its process, on another host, has not been heard of for minutes"
            gone |= dict.fromkeys(_expired(others, home / _SEEN, term_s), told)
        for run_id, why in gone.items():
            set_tags(client, run_id, {REAPED_TAG: why})
            client.set_terminated(run_id, status="FAILED")
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error
    return list(gone)


def _is_here(run: Any) -> bool:
    return bool(run.data.tags.get(OWNER_TAG, "").startswith(f"{_host()}:"))


def _is_gone_here(run: Any) -> bool:
    return _is_here(run) and _is_gone(run.data.tags[OWNER_TAG])


def _expired(runs: list[Any], memory: Path, term_s: float) -> list[str]:
    """Of these runs, those that are to be given up; what was seen of the others is remembered."""
    boot, now = boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        seen = sightings_from_json(json.loads(memory.read_text()), boot=boot)
    except (OSError, ValueError):
        seen = {}
    verdicts = {
        run.info.run_id: judge(run.data.tags[LEASE_TAG], seen.get(run.info.run_id), now, term_s=term_s) for run in runs
    }
    remembered: dict[str, Sighting] = {run_id: sighting for run_id, (_, sighting) in verdicts.items()}
    kept = {"boot": boot, "seen": {run_id: asdict(sighting) for run_id, sighting in remembered.items()}}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        replace_file(memory, json.dumps(kept).encode())
    except OSError as error:
        # Without a memory nobody is given up too soon; on a full disk that is all it costs.
        logger.info("leases that were seen cannot be kept in %s (%s)", memory, error)
    return [run_id for run_id, (verdict, _) in verdicts.items() if verdict == "gone"]


class Keeper:
    """Renews one run's lease beside whatever this process does, and gives up the runs of processes that are gone.

    It never raises and nothing waits for it. `spool` is the folder of the run on this host: where the run began
    without a server it tells MLflow's id, and while nobody writes there, its records are sent from here.
    """

    def __init__(self, server: TrackingServer, run_id: str, *, home: Path, spool: Path | None, every_s: float) -> None:
        self._server, self._run_id, self._home, self._spool = server, run_id, home, spool
        self._every_s = every_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends without waiting for a server that is away."""
        self._closing.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._closing.wait(self._every_s * random.uniform(0.8, 1.0)):
            try:
                self._server.knock()
                client = self._server.client
                self._send_what_nobody_sends(client)
                run_id = self._settled(client)
                if run_id is not None and not self._closing.is_set():
                    renew(client, run_id)
                    reap(self._server, self._home)
            # A thread beside training: whatever a server, a database or a store answers, it is asked again.
            except Exception as error:
                logger.info("the lease of run %s could not be renewed (%s)", self._run_id, error)

    def _send_what_nobody_sends(self, client: Any) -> None:
        if self._spool is not None and (self._spool / "about.json").exists() and not is_written(self._spool):
            drain(self._spool, client, stop=self._closing.is_set)

    def _settled(self, client: Any) -> str | None:
        if is_reserved(self._run_id):
            known = read_about(self._spool).run_id if self._spool is not None else self._run_id
            if is_reserved(known):
                found = find(client, self._run_id)
                known = found.info.run_id if found else self._run_id
            self._run_id = known
        return None if is_reserved(self._run_id) else self._run_id


def renew(client: Any, run_id: str) -> None:
    """Say that the run's process is there, and take the run back where it was given up."""
    tags = client.get_run(run_id).data.tags
    set_tags(client, run_id, {LEASE_TAG: new_lease()})
    if REAPED_TAG in tags:
        client.update_run(run_id, status="RUNNING")
        client.delete_tag(run_id, REAPED_TAG)


def new_lease() -> str:
    """A value that no lease had before. It reads as a time for people; nothing compares it with a clock."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}, every {RENEW_EVERY_S:.0f} s"


@contextmanager
def held(
    server: TrackingServer, run_id: str, *, home: Path, spool: Path | None = None, every_s: float = RENEW_EVERY_S
) -> Iterator[None]:
    """Hold the run's lease while the block runs."""
    keeper = Keeper(server, run_id, home=home, spool=spool, every_s=every_s)
    try:
        yield
    finally:
        keeper.close()


def owner() -> str:
    """`host:pid:start` of this process; the host names its PID namespace too, since containers share names."""
    process = ProcessId.here()
    return f"{_host()}:{process.pid}:{process.start_ticks}"


def _host() -> str:
    return f"{socket.gethostname()}/{os.stat('/proc/self/ns/pid').st_ino}"


def _is_gone(owner_tag: str) -> bool:
    """Whether the process behind an owner tag of this host has ended; its number may belong to another one by now."""
    _, pid, start_ticks = owner_tag.rsplit(":", 2)
    return not ProcessId(int(pid), int(start_ticks)).is_alive()


@dataclass(frozen=True)
class Sighting:
    """A lease as it was seen, in seconds of the observer's clock since boot.

    since_s -- first seen so; doubtful_s -- when its term was found to be over, None before
    """

    lease: str
    since_s: float
    doubtful_s: float | None = None


def judge(lease: str, seen: Sighting | None, now_s: float, *, term_s: float = TERM_S) -> tuple[Verdict, Sighting]:
    """What to think of a run whose lease reads `lease` now and was last seen as `seen`; and what to remember."""
    started_over = seen is not None and now_s < max(seen.since_s, seen.doubtful_s or 0.0)
    if seen is None or seen.lease != lease or started_over:
        return "held", Sighting(lease, now_s)
    if seen.doubtful_s is None:
        if now_s - seen.since_s < term_s:
            return "held", seen
        return "doubtful", Sighting(lease, seen.since_s, now_s)
    if now_s - seen.doubtful_s < LAST_CHANCE_S * term_s / TERM_S:
        return "doubtful", seen
    return "gone", seen


def sightings_from_json(stored: Any, *, boot: str) -> dict[str, Sighting]:
    """What was remembered since this boot; nothing where it is unreadable or from an earlier one."""
    if not isinstance(stored, Mapping) or stored.get("boot") != boot:
        return {}
    try:
        return {str(run_id): Sighting(**sighting) for run_id, sighting in stored["seen"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}
