"""What a cluster knows of its jobs and of its nodes, asked through Ray's dashboard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainplane.cluster.jobs.queue import DRIVER
from trainplane.errors import RunFailed, UserError

_POLL_S = 0.5


@dataclass(frozen=True)
class JobState:
    """A job as the cluster sees it. `takes` is what it told that its driver takes: `line.DRIVER`, or nothing."""

    job: str
    status: str
    message: str
    entrypoint: str
    exit_code: int | None
    started_ms: int | None
    ended_ms: int | None
    takes: str = ""

    @property
    def is_over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_status(self) -> int:
        """What `isnet submit` exits with: the job's own status, 128 and the signal where one killed it (as shells
        have it), 1 where it was stopped or never started."""
        if self.status == "SUCCEEDED":
            return 0
        if self.exit_code is not None and self.exit_code < 0:
            return 128 - self.exit_code
        return self.exit_code or 1


def states(connection: Any) -> list[JobState]:
    """All submitted jobs, oldest first."""
    found = [_state(info) for info in connection.list_jobs() if info.submission_id]
    return sorted(found, key=lambda state: (state.started_ms or 0, state.job))


def state_of(connection: Any, job: str) -> JobState:
    """One job; `UserError` where the cluster does not know it."""
    try:
        return _state(connection.get_job_info(job))
    except RuntimeError as error:
        if "404" in str(error) or "does not exist" in str(error):
            raise UserError(f"no job {job!r} on this cluster; `isnet jobs list` shows those it knows") from error
        raise


def wait(connection: Any, job: str, *, timeout_s: float) -> JobState:
    """Poll until the job is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = state_of(connection, job)
        if state.is_over:
            return state
        if time.monotonic() > deadline:
            raise RunFailed(f"job {job} is still {state.status} {timeout_s:.0f} s after its output ended")
        time.sleep(_POLL_S)


def _state(info: Any) -> JobState:
    return JobState(
        job=info.submission_id,
        status=str(getattr(info.status, "value", info.status)),
        message=info.message or "",
        entrypoint=info.entrypoint,
        exit_code=info.driver_exit_code,
        # Ray's start is the moment of submission.
        started_ms=info.start_time,
        ended_ms=info.end_time,
        takes=(info.metadata or {}).get("takes", ""),
    )


def ray_version(connection: Any) -> str:
    """The version of Ray that the cluster runs (its client's `get_version` is that of the jobs' protocol)."""
    return str(connection._do_request("GET", "/api/version").json()["ray_version"])


@dataclass(frozen=True)
class Room:
    """What the cluster's nodes have together, how many there are, and how many drivers its line lets in at once."""

    nodes: int
    cpus: float
    gpus: float
    drivers: float


def room(connection: Any) -> Room:
    """Of the nodes that are alive."""
    answer = connection._do_request("GET", "/api/v0/nodes?limit=10000&detail=true").json()
    nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
    totals = [node.get("resources_total") or {} for node in nodes]
    cpus, gpus, drivers = (sum(total.get(name, 0.0) for total in totals) for name in ("CPU", "GPU", DRIVER))
    return Room(len(nodes), cpus, gpus, drivers)


def waits_for(job: JobState, states: Sequence[JobState]) -> str:
    """What a job that has not started waits for, in words; `states` are all jobs."""
    if job.takes != DRIVER:
        return job.message
    mine = [state for state in states if state.takes == DRIVER]
    own = (job.started_ms or 0, job.job)
    before = sum(state.status == "PENDING" and (state.started_ms or 0, state.job) < own for state in mine)
    run = sum(state.status == "RUNNING" for state in mine)
    if not before:
        return f"it is the next in the cluster's line, {run} run"
    return f"{before} {'jobs stand' if before > 1 else 'job stands'} before it in the cluster's line, {run} run"
