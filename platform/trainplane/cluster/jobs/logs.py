"""A job from its submission to its end: what it waits for, and its output, each character once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from trainplane.cluster.jobs.client import last_line
from trainplane.cluster.jobs.status import JobState, state_of, states, waits_for
from trainplane.errors import RunFailed, UserError

_POLL_S = 0.5
_START_S = 5.0
# A line may be long, and all who wait in it ask.
_LINE_POLL_S = 3.0
# A head that is restarted is back within a minute; its jobs are gone, and that is said.
_LOST_AFTER_S = 60.0


def await_start(connection: Any, job: str, *, timeout_s: float, say: Callable[[str], None]) -> JobState:
    """Wait until the job runs or is over, saying what it waits for; tell it to stop and raise after the deadline.

    Ray cannot take back a job that waits: it ends it when its turn comes, or when its patience ends (`line.PATIENCE`).
    """
    begun, told = time.monotonic(), ""
    silence = _Silence(job)
    while True:
        waited_s = time.monotonic() - begun
        # A start takes a few seconds, which are no news.
        is_news = waited_s > _START_S
        reason = None
        try:
            state = state_of(connection, job)
            if state.status != "PENDING":
                return state
            if is_news or waited_s > timeout_s:
                reason = waits_for(state, states(connection))
                if waited_s > timeout_s:
                    connection.stop_job(job)
        except UserError as error:
            raise _forgotten(job) from error
        # A line is waited in for hours: a connection that is lost meanwhile is looked for again.
        except (OSError, RuntimeError) as error:
            silence.goes_on(error)
            time.sleep(_POLL_S)
            continue
        silence.is_over()
        if reason is not None:
            if waited_s > timeout_s:
                raise RunFailed(
                    f"job {job} did not start within {timeout_s:.0f} s and was told to stop, which Ray does when its "
                    f"turn would come; what it waited for: {reason}. "
                    "Free or add nodes (`isnet jobs list`), ask for less with --cpus, or wait longer with --wait"
                )
            if reason != told:
                told = reason
                say(f"job {job} waits: {told}")
        time.sleep(_LINE_POLL_S if is_news else _POLL_S)


def follow(connection: Any, job: str, write: Callable[[str], None]) -> JobState:
    """Pass the job's output on until it is over; returns its final state.

    A stream that breaks is taken up where it stood; a cluster that stays away for a minute raises `RunFailed`.
    """
    from aiohttp import ClientError

    tail = _Tail(connection, job, write)
    silence = _Silence(job)
    while True:
        try:
            asyncio.run(tail.stream())
            state = state_of(connection, job)
            if state.is_over:
                tail.finish()
                return state
            silence.is_over()
        except UserError as error:
            raise _forgotten(job) from error
        except (TimeoutError, OSError, RuntimeError, ClientError) as error:
            silence.goes_on(error)
            time.sleep(_POLL_S)
            continue
        # The stream may end before the state is settled, or be cut in the middle of a run.
        time.sleep(_POLL_S)


def whole_log(connection: Any, job: str) -> str:
    """All that the job has written so far; `RunFailed` where Ray cannot read it."""
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


def _forgotten(job: str) -> RunFailed:
    return RunFailed(
        f"the cluster's head was restarted and does not know job {job} any more; submit it again, "
        "a run goes on from its last checkpoint"
    )


class _Silence:
    """How long a cluster has not answered; `RunFailed` after a minute."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._since: float | None = None

    def is_over(self) -> None:
        self._since = None

    def goes_on(self, error: Exception) -> None:
        self._since = self._since or time.monotonic()
        if time.monotonic() - self._since > _LOST_AFTER_S:
            raise RunFailed(
                f"the cluster does not answer any more, and job {self._job} may be running; look with `isnet jobs show "
                f"{self._job}` when it is back ({last_line(error)})"
            ) from error


class _Tail:
    """The output of a job, each character once: every stream begins anew with the first one."""

    def __init__(self, connection: Any, job: str, write: Callable[[str], None]) -> None:
        self._connection, self._job, self._write = connection, job, write
        self._written = 0

    async def stream(self) -> None:
        """Until it ends or breaks."""
        seen = 0
        async for chunk in self._connection.tail_job_logs(self._job):
            self._pass_on(seen, chunk)
            seen += len(chunk)

    def finish(self) -> None:
        """What came after the last stream had ended, or why it is not shown: the job's end is known all the same."""
        try:
            self._pass_on(0, whole_log(self._connection, self._job))
        except RunFailed as error:
            self._write(f"\nisnet: {error}\n")

    def _pass_on(self, start: int, text: str) -> None:
        fresh = text[max(0, self._written - start) :]
        if fresh:
            self._write(fresh)
            self._written = start + len(text)
