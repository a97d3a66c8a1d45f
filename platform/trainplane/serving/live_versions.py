"""Versions that are open, and how many requests use each.

A version is released when nothing wants it any more and its last request has ended, so answers in flight finish on the
version that they began with. The version before the last change stays open: the way back must not wait for a download.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

from trainplane.serving.engine import Engine, ServedVersion
from trainplane.serving.follow import why_not
from trainplane.serving.routing import TrafficSplit

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0


class LiveVersions:
    """Open versions of one event loop."""

    def __init__(self, engine: Engine, on_open: Callable[[], Awaitable[None]]) -> None:
        """Opens nothing yet.

        Args:
            engine: Opens and releases versions.
            on_open: Called when a version is open.
        """
        self._engine, self._on_open = engine, on_open
        self._open: dict[str, ServedVersion] = {}
        self._users: Counter[str] = Counter()
        self._wanted: set[str] = set()
        self._previous: str | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self.split: TrafficSplit | None = None
        self.faults: dict[str, str] = {}  # Why a wanted version is not open

    @property
    def served(self) -> Mapping[str, ServedVersion]:
        """Versions that may answer, by number."""
        # The previous version is open, and answers only who names it.
        numbers = set() if self.split is None else {self.split.production, self.split.candidate}
        return {number: version for number, version in self._open.items() if number in numbers}

    @property
    def open(self) -> Mapping[str, ServedVersion]:
        """All versions in memory, by number."""
        return self._open

    def add(self, version: ServedVersion) -> None:
        """Adds a version that was opened elsewhere."""
        self._open[version.version] = version

    def want(self, *versions: str) -> None:
        """Opens these in the background, unless they are open."""
        self._wanted = set(versions)
        for version in versions:
            task = self._tasks.get(version)
            if version not in self._open and (task is None or task.done()):
                self._tasks[version] = asyncio.create_task(self._prepare(version))
        for version in self.faults.keys() - self._wanted:
            del self.faults[version]

    def change(self, split: TrafficSplit) -> None:
        """Moves the traffic between versions that are open."""
        if self.split is not None and self.split.production != split.production:
            self._previous = self.split.production
        self.split = split
        self._release_unused()

    @contextmanager
    def use(self, version: str) -> Iterator[ServedVersion]:
        """Keeps a version open during the block."""
        self._users[version] += 1
        try:
            yield self._open[version]
        finally:
            self._users[version] -= 1
            self._release_unused()

    async def close(self) -> None:
        """Ends all background work."""
        tasks = [*self._tasks.values(), *self._releases]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self, version: str) -> None:
        pause = _FIRST_PAUSE_S
        while version in self._wanted:
            try:
                self._open[version] = await self._engine.prepare(version)
            # Whatever a version raises while it is opened, the others go on answering.
            except Exception as error:
                self.faults[version] = why_not(error)
                logger.warning("version %s cannot be opened (%s); trying again in %.0f s", version, error, pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self.faults.pop(version, None)
                await self._on_open()
                return

    def _release_unused(self) -> None:
        needed = {self._previous, *self._wanted}
        if self.split is not None:
            needed |= {self.split.production, self.split.candidate}
        for version in [v for v in self._open if v not in needed and not self._users[v]]:
            del self._open[version]
            self._users.pop(version, None)
            task = asyncio.create_task(self._engine.release(version))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)
