"""The few curves by which people follow a run.

MLflow's page of a run sorts charts by name; these have numbers in front and a group that comes first. They are sent at
once, while all other curves wait for their checkpoint (`tracking.spool.ledger`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from trainplane.tracking.spool.ledger import DASHBOARD
from trainplane.tracking.tracker import Recorder


class Dashboard:
    """Records headline metrics and the speed of training."""

    def __init__(self, tracker: Recorder, headlines: Sequence[str]) -> None:
        self._tracker = tracker
        self._keys = {name: dashboard_key(number, name) for number, name in enumerate(headlines, start=1)}
        self._rate_key = dashboard_key(len(headlines) + 1, "pictures_per_s")
        self._samples, self._time_s = 0, time.monotonic()

    def log(self, step: int, metrics: Mapping[str, float], *, samples: int | None = None) -> None:
        """Records the headlines among `metrics`.

        With `samples`, those trained on so far, the speed since the last such call, too.
        """
        values = {self._keys[name]: value for name, value in metrics.items() if name in self._keys}
        if samples is not None:
            now_s = time.monotonic()
            # The first interval has the start of processes in it.
            if self._samples and now_s > self._time_s:
                values[self._rate_key] = (samples - self._samples) / (now_s - self._time_s)
            self._samples, self._time_s = samples, now_s
        if values:
            self._tracker.log_metrics(step, values)


def dashboard_key(number: int, name: str) -> str:
    """Key of a curve: `dashboard/1 val psnr`."""
    return f"{DASHBOARD}{number} {name.replace('/', ' ').replace('_', ' ')}"
