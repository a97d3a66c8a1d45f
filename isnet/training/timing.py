"""Where a step's time goes, without waiting for the device.

    watch = Stopwatch(device)
    with watch.part("discriminator"):
        ...
    watch.seconds()                    # {"discriminator": 1.7}: summed since the start

On a GPU parts are bounded by events in the stream: what is timed is the device's work, and only `seconds` waits for it.
Not covered: work on other streams; parts within parts.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Pairs of events that may be under way; older ones have long passed.
_EVENTS_HELD = 256


class Stopwatch:
    """Seconds by part, for one device."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._events: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what is done inside as `name`."""
        if not self._on_gpu:
            begin = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - begin
            return
        begun, ended = self._event(), self._event()
        begun.record()
        yield
        ended.record()
        self._events.append((name, begun, ended))
        while len(self._events) > _EVENTS_HELD and self._events[0][2].query():  # type: ignore[no-untyped-call]
            self._count(*self._events.popleft())

    def seconds(self) -> dict[str, float]:
        """Seconds by part so far. Waits for a GPU."""
        while self._events:
            name, begun, ended = self._events.popleft()
            ended.synchronize()
            self._count(name, begun, ended)
        return dict(self._seconds)

    @staticmethod
    def _event() -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

    def _count(self, name: str, begun: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        self._seconds[name] += begun.elapsed_time(ended) / 1000
