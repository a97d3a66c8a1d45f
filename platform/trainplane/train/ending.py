"""Decides when a run ends before its last step.

Its time is over, or a metric no longer gets better. What it remembers is part of a checkpoint, so that a run that was
killed ends where it would have ended. Times are those of rank 0's clock, from attempt to attempt.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from trainplane.tracking.tracker import Recorder
from trainplane.train.config import TrainConfig
from trainplane.train.pulse import PULSE

# Most time for the last records at the end.
_FLUSH_S = 30.0
# Share of a limit after which it is told that it comes near.
WARN_SHARE = 0.8


class Ending:
    """Limits of one run; `reason` says why it ends."""

    def __init__(
        self,
        config: TrainConfig,
        stored: Mapping[str, Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts counting, from what a checkpoint `stored`."""
        stored = stored or {}
        self._config, self._clock, self._began = config, clock, clock()
        self._seconds = float(stored.get("seconds", 0.0))
        # The best value so far, its step, and the validations since: nothing yet where they were of another metric.
        self._goal = [config.best_metric, config.best_mode]
        counted = stored if stored.get("goal") == self._goal else {}
        self._best: float | None = counted.get("best")
        self._best_step, self._since = int(counted.get("best_step", 0)), int(counted.get("since", 0))
        hours = config.max_hours
        self._is_warned = False
        self._is_out_of_time = hours is not None and self._seconds >= 3600 * hours

    @property
    def reason(self) -> str:
        """Why the run ends now; empty: it goes on."""
        config = self._config
        if self._is_out_of_time:
            hours = f"train.max_hours={config.max_hours:g}"
            return f"it has trained for {hours}; its state is saved, and more hours go on from there"
        if config.patience is not None and self._since >= config.patience:
            best = "none that is finite" if self._best is None else f"{self._best:.4g} at step {self._best_step}"
            return (
                f"{self._since} validations in a row without a better {config.best_metric} (train.patience="
                f"{config.patience}; best: {best}); its state is saved, and more patience goes on from there"
            )
        return ""

    @property
    def is_due(self) -> bool:
        """True where the time is over by this process's clock."""
        return self._config.max_hours is not None and self.seconds >= 3600 * self._config.max_hours

    def warning(self) -> str:
        """Warns once when most time is used, else empty."""
        hours = self._config.max_hours
        if hours is None or self._is_warned or self.seconds < WARN_SHARE * 3600 * hours:
            return ""
        self._is_warned = True
        return f"{WARN_SHARE:.0%} of train.max_hours={hours:g} is used"

    @property
    def seconds(self) -> float:
        """Seconds of all attempts so far."""
        return self._seconds + self._clock() - self._began

    def out_of_time(self) -> None:
        """Ends the run, because rank 0's clock says so."""
        self._is_out_of_time = True

    def validated(self, done: int, metrics: Mapping[str, float]) -> None:
        """Counts a validation after `done` steps."""
        if self._config.patience is None or self._config.best_metric is None or not metrics:
            return
        value = metrics.get(self._config.best_metric, math.nan)
        sign = 1 if self._config.best_mode == "max" else -1
        if math.isfinite(value) and (self._best is None or sign * value > sign * self._best):
            self._best, self._best_step, self._since = value, done, 0
        else:
            self._since += 1

    def to_json(self) -> dict[str, Any]:
        """State for a checkpoint."""
        count = {"goal": self._goal, "best": self._best, "best_step": self._best_step, "since": self._since}
        return {"seconds": self.seconds, **count}


def flush(tracker: Recorder, config: TrainConfig) -> int:
    """Sends the last records, and returns how many are left.

    A server that is away is no stall: the wait is shorter than what counts as one.
    """
    with PULSE.at("record"):
        return tracker.close(timeout_s=min(_FLUSH_S, config.stall_s / 2))


@contextmanager
def flushing(tracker: Recorder, config: TrainConfig) -> Iterator[Recorder]:
    """Flushes the tracker however the block ends."""
    try:
        yield tracker
    finally:
        flush(tracker, config)
