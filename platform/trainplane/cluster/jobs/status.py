"""Jobs and capacity of a cluster, read from Ray's dashboard."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainplane.cluster.jobs.queue import DRIVER
from trainplane.command_line import command_line
from trainplane.errors import CLI, RunFailed, UserError

_POLL_S = 0.5


@dataclass(frozen=True)
class JobState:
    """A job as the cluster sees it."""

    job: str  # Its submission id
    status: str  # Ray's `PENDING`, `RUNNING`, `SUCCEEDED`, `FAILED` or `STOPPED`
    message: str  # Ray's explanation of the status
    entrypoint: str  # Its command line
    exit_code: int | None  # Of the driver; negative for a signal, None before the end
    started_ms: int | None  # Moment of submission, in milliseconds since the epoch
    ended_ms: int | None  # Moment of its end
    takes: str = ""  # Custom resource of its driver: `queue.DRIVER`, or empty
    words: str = ""  # The command as it was typed behind `submit`
    user: str = ""  # Who submitted it

    @property
    def is_over(self) -> bool:
        """True once it cannot run any more."""
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_status(self) -> int:
        """Exit status of `isnet submit`.

        The job's own, 128 plus the signal if one killed it (as in shells), 1 if it was stopped or never started.
        """
        if self.status == "SUCCEEDED":
            return 0
        # Python reports a signal as its negative number.
        if self.exit_code is not None and self.exit_code < 0:
            return 128 - self.exit_code
        return self.exit_code or 1


def job_states(connection: Any) -> list[JobState]:
    """Lists all submitted jobs, oldest first."""
    # Drivers that connected by themselves have no submission id.
    states = [_state(info) for info in connection.list_jobs() if info.submission_id]
    return sorted(states, key=lambda state: (state.started_ms or 0, state.job))


def find_job(connection: Any, asked_id: str) -> JobState:
    """Reads the job whose id is, or begins with, `asked_id`."""
    states = job_states(connection)
    exact = [state for state in states if state.job == asked_id]
    matches = exact or [state for state in states if state.job.startswith((asked_id, f"{CLI}-{asked_id}"))]
    if len(matches) > 1:
        names = "".join(f"\n  {state.job}  {state.status}" for state in matches)
        raise UserError(f"several jobs begin with {asked_id!r}; give more of the id:{names}")
    # A job that the list does not have is asked for by its name, for the message.
    return matches[0] if matches else job_state(connection, asked_id)


def job_state(connection: Any, job: str) -> JobState:
    """Reads one job; `UserError` if it does not exist."""
    try:
        return _state(connection.get_job_info(job))
    except RuntimeError as error:
        # Ray has no error of its own for this.
        if "404" in str(error) or "does not exist" in str(error):
            raise UserError(
                f"no job {job!r} on this cluster; `{command_line('jobs', 'list')}` shows those it knows"
            ) from error
        raise


def wait_until_over(connection: Any, job: str, *, timeout_s: float) -> JobState:
    """Polls until the job is over."""
    deadline = time.monotonic() + timeout_s
    while True:
        state = job_state(connection, job)
        if state.is_over:
            return state
        if time.monotonic() > deadline:
            raise RunFailed(f"job {job} is still {state.status} {timeout_s:.0f} s after its output ended")
        time.sleep(_POLL_S)


def _state(info: Any) -> JobState:
    metadata = info.metadata or {}
    return JobState(
        job=info.submission_id,
        status=str(getattr(info.status, "value", info.status)),
        message=info.message or "",
        entrypoint=info.entrypoint,
        exit_code=info.driver_exit_code,
        # Ray's start is the moment of submission.
        started_ms=info.start_time,
        ended_ms=info.end_time,
        takes=metadata.get("takes", ""),
        words=metadata.get("words", ""),
        user=metadata.get("user", ""),
    )


def ray_version(connection: Any) -> str:
    """Version of Ray on the cluster; `get_version` is the protocol's."""
    return str(connection._do_request("GET", "/api/version").json()["ray_version"])


@dataclass(frozen=True)
class ClusterResources:
    """Sum over living nodes; without a queue `drivers` is 0."""

    nodes: int
    cpus: float
    gpus: float
    drivers: float


def cluster_resources(connection: Any) -> ClusterResources:
    """Reads the resources of all living nodes."""
    # The client has no method for nodes; their resources need `detail`.
    answer = connection._do_request("GET", "/api/v0/nodes?limit=10000&detail=true").json()
    nodes = [node for node in answer["data"]["result"]["result"] if node["state"] == "ALIVE"]
    totals = [node.get("resources_total") or {} for node in nodes]
    cpus, gpus, drivers = (sum(total.get(name, 0.0) for total in totals) for name in ("CPU", "GPU", DRIVER))
    return ClusterResources(len(nodes), cpus, gpus, drivers)


def queue_message(job: JobState, states: Sequence[JobState]) -> str:
    """Explains what a pending job, one of `states`, waits for."""
    if job.takes != DRIVER:
        return job.message
    queued = [state for state in states if state.takes == DRIVER]
    # Submission decides the order; the id decides between jobs of one millisecond.
    position = (job.started_ms or 0, job.job)
    before = sum(state.status == "PENDING" and (state.started_ms or 0, state.job) < position for state in queued)
    running = sum(state.status == "RUNNING" for state in queued)
    if not before:
        return f"it is first in the cluster's queue ({running} running)"
    return f"{before} {'jobs are' if before > 1 else 'job is'} before it in the cluster's queue ({running} running)"
