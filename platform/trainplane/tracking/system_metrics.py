"""Metrics of the machine while a run trains, under `system/`.

A thread wakes every few seconds, asks the operating system and records through the tracker. Counters of the loop are
recorded as their change per second. Steps of these curves are numbers of samples, which continue across attempts. The
machine is rank 0's, which records the run; other nodes of it are gauges that their own samplers fill.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

Counters = Callable[[], Mapping[str, float]]
"""Returns counts by name that only grow, such as bytes read."""

Gauges = Callable[[], Mapping[str, float]]
"""Returns present values by name, such as the usage of other nodes."""


class SystemMonitor:
    """Samples this process, its machine and some counters until closed."""

    def __init__(self, record: Callable[[Mapping[str, float]], None], *, every_s: float) -> None:
        self._record = record
        self._every_s = every_s
        self._counters: Counters = dict
        self._gauges: Gauges = dict
        self._closing = threading.Event()
        self._usage = MachineUsage()
        self._thread = threading.Thread(target=self._run, name="system-monitor", daemon=True)
        self._thread.start()

    def watch(self, counters: Counters, gauges: Gauges = dict) -> None:
        """Replaces counters and gauges of an earlier attempt."""
        self._counters, self._gauges = counters, gauges

    def close(self) -> None:
        """Ends the thread."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        counters = self._counters
        counts_before, time_before = counters(), time.monotonic()
        while not self._closing.wait(self._every_s):
            is_same, counters = counters is self._counters, self._counters
            counts, now = dict(counters()), time.monotonic()
            elapsed_s = now - time_before
            rates = {name: (count - counts_before.get(name, 0.0)) / elapsed_s for name, count in counts.items()}
            # Counters that were exchanged meanwhile have no growth yet.
            self._record({**self._usage.sample(), **self._gauges(), **(rates if is_same else {})})
            counts_before, time_before = counts, now


class MachineUsage:
    """CPU, memory and GPU usage that the machine reports."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        # The first call only starts the measurement.
        psutil.cpu_percent()
        self._gpus = _Gpus()

    def sample(self) -> dict[str, float]:
        """Usage since the last sample, in percent and MiB."""
        memory = psutil.virtual_memory()
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "rss_mib": self._rss() / 2**20,
            **self._gpus.sample(),
        }

    def _rss(self) -> int:
        # Resident bytes of this process and its descendants. Shared pages count once for each process.
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                # It ended in the meantime.
                continue
        return total


class _Gpus:
    """GPUs by NVIDIA's management library; none without nvidia-ml-py."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            # Optional: a machine without GPUs need not have the package.
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
        except ImportError:
            return
        except self._nvml.NVMLError:
            return
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for number, handle in enumerate(self._handles):
            try:
                usage = self._nvml.nvmlDeviceGetUtilizationRates(handle)
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except self._nvml.NVMLError:
                # A GPU that fell off the bus, or a part of one that does not report its usage.
                continue
            metrics[f"gpu_{number}_percent"] = float(usage.gpu)
            metrics[f"gpu_{number}_memory_mib"] = memory.used / 2**20
        return metrics
