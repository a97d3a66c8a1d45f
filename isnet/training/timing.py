"""Times a step's parts without waiting for the device.

    timer = StepTimer(device)
    with timer.part("discriminator"):
        ...
    timer.seconds()                    # {"discriminator": 1.7}: summed since the start

On a GPU a part lies between two events in the stream: the device's work is timed, and only `seconds` waits for it.
Not covered: work on other streams; parts within parts.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Pairs of events that may be pending; beyond it finished ones are added up.
_MAX_EVENTS = 256


class StepTimer:
    """Seconds by part, for one device."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Adds the time of the block to `name`."""
        if not self._on_gpu:
            start = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - start
            return
        start_event, end_event = self._event(), self._event()
        start_event.record()
        yield
        end_event.record()
        self._events.append((name, start_event, end_event))
        while len(self._events) > _MAX_EVENTS and self._events[0][2].query():  # type: ignore[no-untyped-call]
            self._count(*self._events.popleft())

    def seconds(self) -> dict[str, float]:
        """Seconds by part since the start; waits for a GPU."""
        while self._events:
            name, start, end = self._events.popleft()
            end.synchronize()
            self._count(name, start, end)
        return dict(self._seconds)

    @staticmethod
    def _event() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def _count(self, name: str, start: torch.cuda.Event, end: torch.cuda.Event) -> None:
        # elapsed_time is in milliseconds.
        self._seconds[name] += start.elapsed_time(end) / 1000
