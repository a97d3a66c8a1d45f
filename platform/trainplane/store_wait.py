"""Patience with a store that is away.

A command that works for long waits for its store, half an hour unless the context says otherwise; one that a person
waits for gives up soon. The variable below carries the limit to the processes that a command starts, on any node. The
requests wait in `storage/s3/request.py`; this module imports nothing heavy, because every command needs it.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from trainplane.environ import preserved_variables
from trainplane.errors import UserError

log = logging.getLogger(__name__)

VARIABLE = "ISNET_STORE_WAIT_S"
DEFAULT_WAIT_S = 1800.0
# A shorter wait is none: so long the first attempts may take.
MIN_WAIT_S, MAX_WAIT_S = 30.0, 7 * 86400.0
# Time between two looks at a request to stop, and two signs of life.
_SLICE_S = 0.5
_WATCH_S = 1.0
_SHARED_BYTES = 2048


def wait_of(value: object, what: str) -> float:
    """Checks the setting; `what` names it in the `UserError`."""
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = math.nan
    if not MIN_WAIT_S <= seconds <= MAX_WAIT_S:
        raise UserError(
            f"{what} is {value!r}; need seconds from {MIN_WAIT_S:.0f} to {MAX_WAIT_S:.0f} (a week), such as "
            f"{DEFAULT_WAIT_S:.0f} for half an hour"
        )
    return seconds


def store_wait_s() -> float:
    """Seconds that requests here wait; 0: a short patience."""
    text = os.environ.get(VARIABLE)
    return wait_of(text, VARIABLE) if text else 0.0


@contextmanager
def patience(*, is_long: bool) -> Iterator[None]:
    """Sets the limit of a command, in the block.

    Args:
        is_long: The command waits as long as the setting says, once the store has answered: until then a wrong address
            looks like an outage. Otherwise it gives up soon.
    """
    with preserved_variables(VARIABLE):
        wait_s = wait_of(os.environ.get(VARIABLE) or DEFAULT_WAIT_S, VARIABLE)
        if is_long:
            os.environ[VARIABLE] = f"{wait_s:g}"
        else:
            os.environ.pop(VARIABLE, None)
        STORE_WAITS.needs_answer, STORE_WAITS.is_over = True, False
        # Those of an earlier command of this process, say in a notebook, are none of this one's.
        STORE_WAITS.take_ended()
        try:
            yield
        finally:
            # Threads that are left over must not keep the process for half an hour.
            STORE_WAITS.is_over = True


@dataclass(frozen=True)
class Wait:
    """A wait for a store; seconds since the epoch."""

    since: float
    reason: str  # the store, the failure and the operation
    until: float | None = None  # None while it lasts

    def __str__(self) -> str:
        clock = f"{datetime.fromtimestamp(self.since, UTC):%H:%M:%S} UTC"
        if self.until is None:
            return f"waiting since {clock} for {self.reason}"
        return f"waited {self.until - self.since:.0f} s from {clock} for {self.reason}"


@dataclass(frozen=True, eq=False)
class SharedWaits:
    """Waits of a child process, in memory of its parent.

    Without locks: a child that is killed would never release one. Half-written text is read again.
    """

    state: Any  # JSON of [signs of life, since, reason]
    stop: Any  # 1 asks the child to give up

    @classmethod
    def new(cls, context: multiprocessing.context.BaseContext) -> SharedWaits:
        """Memory for one child, given to it at its start."""
        return cls(context.RawArray("c", _SHARED_BYTES), context.RawValue("b", 0))

    def write(self, beats: int, wait: Wait | None) -> None:
        """Called by the child."""
        reason = "" if wait is None else wait.reason[: _SHARED_BYTES // 8]
        self.state.value = json.dumps([beats, wait and wait.since, reason]).encode()

    def read(self) -> tuple[int, Wait | None]:
        """Called by the parent. Raises `ValueError`."""
        beats, since, reason = json.loads(self.state.value or b'[0, null, ""]')
        return int(beats), None if since is None else Wait(float(since), str(reason))


class StoreWaits:
    """Waits of this process and of its loader processes; thread-safe."""

    def __init__(self) -> None:
        self.beats = 0  # grows while anything waits
        self.needs_answer = False  # no long wait for a store that has never answered
        self.is_over = False  # the command ends or was interrupted: no long waits any more
        self._lock = threading.Lock()
        self._open: dict[object, Wait] = {}
        self._ended: list[Wait] = []
        self._current: Wait | None = None
        self._local = threading.local()
        self._shared: SharedWaits | None = None
        self._stop: Callable[[], bool] = lambda: False
        self._tell: Callable[[Wait], None] = lambda wait: log.warning("%s", wait)

    @contextmanager
    def listening(self, tell: Callable[[Wait], None], stop: Callable[[], bool]) -> Iterator[None]:
        """Sets who hears of waits and may end them.

        Args:
            tell: Called when this process begins to wait and when it ends to, from any thread.
            stop: True lets waits end as those of a command that a person waits for.
        """
        before = self._tell, self._stop
        self._tell, self._stop = tell, stop
        try:
            yield
        finally:
            self._tell, self._stop = before

    def obey(self, cancelled: Callable[[], bool]) -> None:
        """Ends waits of the calling thread at once when True."""
        self._local.cancelled = cancelled

    @contextmanager
    def obeying(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """As `obey`, in the block."""
        before = self.cancelled
        self.obey(cancelled)
        try:
            yield
        finally:
            self.obey(before)

    @property
    def cancelled(self) -> Callable[[], bool]:
        """Condition that the calling thread obeys."""
        never: Callable[[], bool] = lambda: False  # noqa: E731
        return getattr(self._local, "cancelled", never)

    def is_stopping(self) -> bool:
        """True if no wait should be long any more."""
        return self.is_over or self._stop() or (self._shared is not None and bool(self._shared.stop.value))

    def pause(self, seconds: float) -> None:
        """Sleeps, with signs of life; less when asked to stop."""
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            if seconds > _SLICE_S and (self.cancelled() or self.is_stopping()):
                return
            time.sleep(min(remaining, _SLICE_S))
            self._beat(1)

    def begin(self, key: object, wait: Wait) -> None:
        """Opens a wait, or renews its reason."""
        with self._lock:
            self._open[key] = wait
        self._update()

    def end(self, key: object) -> None:
        """Closes a wait."""
        with self._lock:
            self._open.pop(key, None)
        self._update()

    @property
    def num_ended(self) -> int:
        """Outages that ended and were not taken yet."""
        return len(self._ended)

    @property
    def last_ended(self) -> Wait | None:
        """The latest outage that ended and was not taken yet."""
        with self._lock:
            return self._ended[-1] if self._ended else None

    def take_ended(self) -> list[Wait]:
        """Outages that ended since the last call."""
        with self._lock:
            ended, self._ended = self._ended, []
        return ended

    def report_to(self, shared: SharedWaits) -> None:
        """Makes this a child process whose parent watches it."""
        self._shared = shared

    @contextmanager
    def watching(self, children: Sequence[SharedWaits]) -> Iterator[None]:
        """Counts the children's waits as this process's, in the block.

        They stop when this process does, or what the calling thread obeys.
        """
        end, cancelled = threading.Event(), self.cancelled
        beats_of = dict.fromkeys(range(len(children)), 0)

        def look() -> None:
            is_stopping = cancelled() or self.is_stopping()
            for number, child in enumerate(children):
                child.stop.value = is_stopping
                try:
                    beats, wait = child.read()
                except ValueError:
                    continue
                self._beat(max(0, beats - beats_of[number]))
                beats_of[number] = beats
                if wait is not None:
                    self.begin(child, wait)
                elif child in self._open:
                    self.end(child)

        def watch() -> None:
            while not end.wait(_WATCH_S):
                look()

        thread = threading.Thread(target=watch, name="store waits", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            for child in children:
                self.end(child)

    def _beat(self, count: int) -> None:
        if count:
            with self._lock:
                self.beats += count
            self._publish()

    def _update(self) -> None:
        """Tells of an outage's begin and end."""
        with self._lock:
            before = self._current
            first = min(self._open.values(), key=lambda wait: wait.since, default=None)
            if first is None and before is not None:
                self._current, news = None, Wait(before.since, before.reason, time.time())
                self._ended.append(news)
            elif first is not None and before is None:
                self._current = news = first
            else:
                news = None
        self._publish()
        if news is not None and self._shared is None:
            self._tell(news)

    def _publish(self) -> None:
        if self._shared is not None:
            self._shared.write(self.beats, self._current)


STORE_WAITS = StoreWaits()
"""Waits of this process."""


def _reset_in_child() -> None:
    # Locks of the parent's threads are held for ever in a forked child.
    needs_answer, STORE_WAITS.__dict__ = STORE_WAITS.needs_answer, StoreWaits().__dict__
    STORE_WAITS.needs_answer = needs_answer


os.register_at_fork(after_in_child=_reset_in_child)
