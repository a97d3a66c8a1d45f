"""A job from its submission to its end: what it waits for, and its output, each character once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from trainplane.cluster.dashboard import last_line
from trainplane.cluster.job_state import JobState, state_of, states
from trainplane.cluster.line import waits_for
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
    while True:
        state = state_of(connection, job)
        if state.status != "PENDING":
            return state
        waited_s = time.monotonic() - begun
        # A start takes a few seconds, which are no news.
        is_news = waited_s > _START_S
        if is_news or waited_s > timeout_s:
            reason = waits_for(state, states(connection))
            if waited_s > timeout_s:
                connection.stop_job(job)
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
    silent_since: float | None = None
    while True:
        try:
            asyncio.run(tail.stream())
            state = state_of(connection, job)
            silent_since = None
        except UserError as error:
            raise RunFailed(
                f"the cluster's head was restarted and does not know job {job} any more; submit it again, "
                "a run goes on from its last checkpoint"
            ) from error
        except (TimeoutError, OSError, RuntimeError, ClientError) as error:
            silent_since = silent_since or time.monotonic()
            if time.monotonic() - silent_since > _LOST_AFTER_S:
                raise RunFailed(
                    f"the cluster does not answer any more, and job {job} may be running; look with `isnet jobs show "
                    f"{job}` when it is back ({last_line(error)})"
                ) from error
            time.sleep(_POLL_S)
            continue
        if state.is_over:
            tail.finish()
            return state
        # The stream may end before the state is settled, or be cut in the middle of a run.
        time.sleep(_POLL_S)


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
        """What came after the last stream had ended."""
        self._pass_on(0, self._connection.get_job_logs(self._job))

    def _pass_on(self, start: int, text: str) -> None:
        fresh = text[max(0, self._written - start) :]
        if fresh:
            self._write(fresh)
            self._written = start + len(text)
