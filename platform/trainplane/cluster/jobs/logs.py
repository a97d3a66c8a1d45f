"""Follows a job: queue, output, final state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from trainplane.cluster.jobs.status import JobState, job_state, job_states, queue_message
from trainplane.command_line import command_line
from trainplane.errors import RunFailed, UserError, error_line

_POLL_S = 0.5
# Normal time of a start; before that, waiting is not reported.
_START_S = 5.0
# A queue may be long, and every waiting client polls.
_QUEUE_POLL_S = 3.0
# A restarted head is back within a minute; its jobs are gone, and the user gets a message.
_LOST_AFTER_S = 60.0


def wait_for_start(connection: Any, job: str, *, timeout_s: float, emit: Callable[[str], None]) -> JobState:
    """Waits until the job runs or is over.

    Ray cannot remove a job that waits: it stops it when its turn comes, or after `queue.QUEUE_VARIABLES`. Messages tell
    when what it waits for changes. Raises `RunFailed` after `timeout_s`, or where the cluster or the job is lost.
    """
    # Each round reads the state, then reports what has changed; an error of the connection skips the report.
    started_s, last_message = time.monotonic(), ""
    outage = _Outage(job)
    while True:
        waited_s = time.monotonic() - started_s
        is_queued, is_late = waited_s > _START_S, waited_s > timeout_s
        message = None
        try:
            state = job_state(connection, job)
            if state.status != "PENDING":
                return state
            if is_queued or is_late:
                message = queue_message(state, job_states(connection))
            if is_late:
                connection.stop_job(job)
        except UserError as error:
            raise _lost_job(job) from error
        # A job may be queued for hours: a lost connection is tried again.
        except (OSError, RuntimeError) as error:
            outage.record(error)
            time.sleep(_POLL_S)
            continue
        outage.end()
        if message is not None:
            if is_late:
                raise RunFailed(
                    f"job {job} did not start within {timeout_s:.0f} s and was told to stop, which Ray does when its "
                    f"turn would come; what it waited for: {message}. "
                    f"Free or add nodes (`{command_line('jobs', 'list')}`), ask for less with --cpus, or "
                    "wait longer with --wait"
                )
            if message != last_message:
                last_message = message
                emit(f"job {job} waits: {message}")
        time.sleep(_QUEUE_POLL_S if is_queued else _POLL_S)


def follow(connection: Any, job: str, write: Callable[[str], None]) -> JobState:
    """Writes the job's output until it ends; returns its state.

    Resumes a broken stream. A cluster that is unreachable for a minute raises `RunFailed`.
    """
    from aiohttp import ClientError

    output = _Output(connection, job, write)
    outage = _Outage(job)
    while True:
        try:
            # Blocks until Ray ends the stream.
            asyncio.run(output.stream())
            state = job_state(connection, job)
            if state.is_over:
                output.finish()
                return state
            outage.end()
        except UserError as error:
            raise _lost_job(job) from error
        except (TimeoutError, OSError, RuntimeError, ClientError) as error:
            outage.record(error)
            time.sleep(_POLL_S)
            continue
        # The stream may end before the state is final, or be cut in the middle of a run.
        time.sleep(_POLL_S)


def full_log(connection: Any, job: str) -> str:
    """Reads all output so far; `RunFailed` if Ray cannot."""
    try:
        return str(connection.get_job_logs(job))
    except RuntimeError as error:
        # Ray reads a log as UTF-8 or not at all (ray 2.60.0), and a program may write any byte.
        if "UnicodeDecodeError" not in str(error):
            raise
        raise RunFailed(
            f"Ray cannot show the output of job {job}, which is not all UTF-8; read it on the cluster's head, "
            f"job-driver-{job}.log in the folder of Ray's logs"
        ) from error


def _lost_job(job: str) -> RunFailed:
    return RunFailed(
        f"the cluster's head was restarted and does not know job {job} any more; submit it again, "
        "a run goes on from its last checkpoint"
    )


class _Outage:
    """Time since the cluster last answered; `RunFailed` after a minute."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._since: float | None = None

    def end(self) -> None:
        self._since = None

    def record(self, error: Exception) -> None:
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > _LOST_AFTER_S:
            raise RunFailed(
                f"the cluster does not answer any more, and job {self._job} may be running; look with "
                f"`{command_line('jobs', 'show', self._job)}` when it is back ({error_line(error, last=True)})"
            ) from error


class _Output:
    """Output of a job, each character once.

    Ray begins every stream with the first character, so those that are written already are skipped.
    """

    def __init__(self, connection: Any, job: str, write: Callable[[str], None]) -> None:
        self._connection, self._job, self._write = connection, job, write
        self._written = 0

    async def stream(self) -> None:
        """Writes what the stream adds, until it ends or breaks."""
        position = 0
        async for chunk in self._connection.tail_job_logs(self._job):
            self._write_new(position, chunk)
            position += len(chunk)

    def finish(self) -> None:
        """Writes what came after the last stream, or why not."""
        try:
            self._write_new(0, full_log(self._connection, self._job))
        except RunFailed as error:
            self._write(f"\nisnet: {error}\n")

    def _write_new(self, start: int, text: str) -> None:
        """Writes the new part of `text`, which begins at `start`."""
        new_text = text[max(0, self._written - start) :]
        if new_text:
            self._write(new_text)
            self._written = start + len(text)
