"""What the machine does while a run trains, recorded beside it under `system/`, never inside a step.

A thread wakes every few seconds, asks the operating system, and records through the tracker. The loop hands in
counters that only it knows; what is recorded of those is their change per second. Steps of these curves are numbers of
samples, which go on across attempts; the times of the points are real.

Not covered: other nodes. One writer records a run, so these are the figures of the machine of rank 0.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

Counters = Callable[[], Mapping[str, float]]


class SystemMonitor:
    """Samples this process, its children, its machine and the counters it was given, until closed."""

    def __init__(self, record: Callable[[Mapping[str, float]], None], *, every_s: float) -> None:
        self._record = record
        self._every_s = every_s
        self._counters: Counters = dict
        self._closing = threading.Event()
        self._usage = Usage()
        self._thread = threading.Thread(target=self._run, name="system-monitor", daemon=True)
        self._thread.start()

    def watch(self, counters: Counters) -> None:
        """Record the changes of these from now on, instead of those of an earlier attempt."""
        self._counters = counters

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        counters = self._counters
        before, then = counters(), time.monotonic()
        while not self._closing.wait(self._every_s):
            same, counters = counters is self._counters, self._counters
            after, now = dict(counters()), time.monotonic()
            rates = {name: (value - before.get(name, 0.0)) / (now - then) for name, value in after.items()}
            self._record(self._usage.sample() | (rates if same else {}))
            before, then = after, now


class Usage:
    """CPU, memory, disk and GPU, as far as this machine tells."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        psutil.cpu_percent()
        self._gpus = _Gpus()

    def sample(self) -> dict[str, float]:
        """Percentages of all processors, bytes in MiB."""
        memory = psutil.virtual_memory()
        return {
            "cpu_percent": psutil.cpu_percent(),
            "memory_percent": memory.percent,
            "rss_mib": self._rss() / 2**20,
            **self._gpus.sample(),
        }

    def _rss(self) -> int:
        """Resident bytes of this process and what it started; shared pages count once for each."""
        total = 0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:
                # It ended while we looked.
                continue
        return total


class _Gpus:
    """GPUs of this machine through NVIDIA's management library (package nvidia-ml-py), where there is one."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            self._nvml = importlib.import_module("pynvml")
            self._nvml.nvmlInit()
        except ImportError:
            return
        except self._nvml.NVMLError:
            return
        self._handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]

    def sample(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for number, handle in enumerate(self._handles):
            try:
                use, memory = (
                    self._nvml.nvmlDeviceGetUtilizationRates(handle),
                    self._nvml.nvmlDeviceGetMemoryInfo(handle),
                )
            except self._nvml.NVMLError:
                # A GPU that fell off the bus, or a part of one that does not tell its use.
                continue
            found[f"gpu_{number}_percent"] = float(use.gpu)
            found[f"gpu_{number}_memory_mib"] = memory.used / 2**20
        return found
