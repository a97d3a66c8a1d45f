"""Decides who runs, who waits, and who is refused.

A request takes a place before its body is read, so that bodies are bounded in number, too. `admit` and `next_in_line`
decide; `AdmissionQueue` acts for one event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from trainplane.errors import RunFailed

# Before the first answer nobody knows how long one takes.
_FIRST_GUESS_S = 1.0
_LONGEST_RETRY_S = 60
# Weight of the newest answer in the mean time of one.
_NEWEST = 0.2


@dataclass(frozen=True)
class QueueLimits:
    """Bounds of a queue, all at least 1."""

    running: int  # Requests that are computed at once
    waiting: int  # Requests that wait, or whose bodies arrive
    waiting_of_one: int  # Of these, by one user


class QueueFull(RunFailed):
    """Raised where no further request may wait."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def admit(limits: QueueLimits, *, waiting: int, mine: int) -> Literal["wait", "full", "mine full"]:
    """Decides if a further request may wait.

    Args:
        limits: The queue's bounds.
        waiting: Requests that wait already.
        mine: Of these, by the same user.
    """
    if waiting >= limits.waiting:
        return "full"
    return "mine full" if mine >= limits.waiting_of_one else "wait"


def retry_after_s(limits: QueueLimits, *, waiting: int, seconds_each: float) -> int:
    """Seconds until a place is probably free, 1 to 60."""
    seconds = math.ceil(seconds_each * (waiting + 1) / limits.running)
    return max(1, min(_LONGEST_RETRY_S, seconds))


def next_in_line(waiting: Sequence[str], running: Mapping[str, int]) -> int:
    """Index of the waiting request that runs next.

    The oldest one of a user with the fewest running requests: a user with many requests does not shut out the others.
    """
    return min(range(len(waiting)), key=lambda index: (running.get(waiting[index], 0), index))


@dataclass(eq=False)
class QueuePlace:
    """A request's place; it waits in `turn`."""

    user: str
    queue: AdmissionQueue
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    is_lined_up: bool = False

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits until the request may run, and runs it."""
        self.queue.line_up(self)
        try:
            await self.ready.wait()
        except BaseException:
            self.queue.step_out(self)
            raise
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            yield
            self.queue.learn(loop.time() - started)
        finally:
            self.queue.end(self)


class AdmissionQueue:
    """Bounded queue of one event loop, fair between users."""

    def __init__(self, limits: QueueLimits, on_change: Callable[[int, int], None] | None = None) -> None:
        """Makes an empty queue.

        Args:
            limits: Its bounds.
            on_change: Called with the numbers of running and waiting requests.
        """
        self.limits = limits
        self.seconds_each = _FIRST_GUESS_S
        self._is_first = True
        self._places: list[QueuePlace] = []  # All that wait, their bodies still arriving or not
        self._running: Counter[str] = Counter()
        self._on_change = on_change or (lambda running, waiting: None)

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._places)

    @property
    def running(self) -> int:
        """Number of requests that run."""
        return self._running.total()

    @asynccontextmanager
    async def place(self, user: str) -> AsyncIterator[QueuePlace]:
        """Takes a place, or raises `QueueFull`."""
        mine = sum(place.user == user for place in self._places)
        # Free runners take what would wait, so their number adds to the places.
        free = max(0, self.limits.running - self.running)
        decision = admit(self.limits, waiting=max(0, self.waiting - free), mine=max(0, mine - free))
        if decision != "wait":
            seconds = retry_after_s(self.limits, waiting=self.waiting, seconds_each=self.seconds_each)
            whose = "of yours" if decision == "mine full" else "of all users"
            raise QueueFull(
                f"{mine if decision == 'mine full' else self.waiting} requests {whose} wait already, "
                f"which is all that may; try again in {seconds} s",
                seconds,
            )
        place = QueuePlace(user, self)
        self._places.append(place)
        self._changed()
        try:
            yield place
        finally:
            self.step_out(place)

    def line_up(self, place: QueuePlace) -> None:
        """Marks a request as complete, so that it may run."""
        place.is_lined_up = True
        self._start()

    def step_out(self, place: QueuePlace) -> None:
        """Gives up a place that was not used."""
        if place in self._places:
            self._places.remove(place)
            self._changed()
        elif place.is_lined_up and place.ready.is_set():
            # Its turn had come as it was cancelled.
            self.end(place)

    def learn(self, seconds: float) -> None:
        """Updates the mean time of one answer."""
        self.seconds_each = seconds if self._is_first else (1 - _NEWEST) * self.seconds_each + _NEWEST * seconds
        self._is_first = False

    def end(self, place: QueuePlace) -> None:
        """Ends a request's run; the next one starts."""
        if not place.is_lined_up:
            return
        place.is_lined_up = False
        self._running[place.user] -= 1
        if not self._running[place.user]:
            del self._running[place.user]
        self._start()

    def _start(self) -> None:
        while self.running < self.limits.running:
            lined_up = [place for place in self._places if place.is_lined_up]
            if not lined_up:
                break
            place = lined_up[next_in_line([place.user for place in lined_up], self._running)]
            self._places.remove(place)
            self._running[place.user] += 1
            place.ready.set()
        self._changed()

    def _changed(self) -> None:
        self._on_change(self.running, self.waiting)
