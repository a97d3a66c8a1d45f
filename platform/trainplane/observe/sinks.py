"""Sinks of metrics: Ray's exporter, text files, or a port.

In a process of Ray its node's exporter has them, which the cluster's Prometheus reads already. Elsewhere the context's
`metrics` (the variable below) says where: `file:FOLDER`, for the textfile collector of node_exporter, or `port:N` on
loopback, N + rank for further ranks. Nothing here fails a run.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from trainplane.errors import UserError
from trainplane.observe.metric_names import METRICS, PREFIX

log = logging.getLogger(__name__)

VARIABLE = "ISNET_METRICS"
Labels = Mapping[str, str]


def metrics_place(value: object, what: str) -> str:
    """Checks the setting; `what` names it in the `UserError`."""
    text = value if isinstance(value, str) else ""
    kind, _, place = text.partition(":")
    if kind == "port" and place.isdecimal() and 1024 <= int(place) <= 65000:
        return text
    if kind == "file" and place.startswith(("/", "~")):
        return f"file:{Path(place).expanduser()}"
    raise UserError(f"{what} is {value!r}; need file:FOLDER with an absolute folder, or port:N from 1024 to 65000")


class MetricSink(Protocol):
    """Takes values of metrics; never raises."""

    def set(self, name: str, value: float, labels: Labels) -> None:
        """Sets a gauge of `METRICS`."""

    def flush(self) -> None:
        """Shows what was set."""


class RaySink:
    """Metrics of a process of Ray."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def set(self, name: str, value: float, labels: Labels) -> None:
        """Sets a gauge in the node's exporter."""
        from ray.util.metrics import Gauge

        about, keys = METRICS[name]
        gauge = self._gauges.get(name) or self._gauges.setdefault(name, Gauge(name, about, tag_keys=keys))
        gauge.set(value, tags=dict(labels))

    def flush(self) -> None:
        """Does nothing: the exporter collects."""


class TextSink:
    """Metrics in Prometheus's text format: a file, or a port."""

    def __init__(self, *, file: Path | None = None, port: int | None = None) -> None:
        """Opens the port, if any; `OSError` if in use."""
        from prometheus_client import CollectorRegistry, start_http_server

        self._registry, self._file, self._server = CollectorRegistry(), file, None
        self._gauges: dict[str, Any] = {}
        if port is not None:
            self._server = start_http_server(port, addr="127.0.0.1", registry=self._registry)[0]

    def set(self, name: str, value: float, labels: Labels) -> None:
        """Sets a gauge."""
        from prometheus_client import Gauge

        about, keys = METRICS[name]
        if name not in self._gauges:
            self._gauges[name] = Gauge(f"{PREFIX}{name}", about, keys, registry=self._registry)
        (self._gauges[name].labels(**labels) if keys else self._gauges[name]).set(value)

    def flush(self) -> None:
        """Replaces the file atomically."""
        from prometheus_client import write_to_textfile

        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_to_textfile(str(self._file), self._registry)

    def close(self) -> None:
        """Closes the port."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def sinks_here(name: str, *, rank: int = 0) -> list[MetricSink]:
    """Sinks of this process; `name` is that of a file."""
    sinks: list[MetricSink] = []
    # Not imported for this: a process that has not is none of Ray.
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        sinks.append(RaySink())
    try:
        if text := os.environ.get(VARIABLE):
            kind, _, place = metrics_place(text, VARIABLE).partition(":")
            safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)
            file = Path(place, f"isnet-{safe}-rank-{rank}.prom") if kind == "file" else None
            sinks.append(TextSink(file=file, port=int(place) + rank if kind == "port" else None))
    except (OSError, UserError) as error:
        log.warning("metrics are not shown at %s=%s (%s)", VARIABLE, text, error)
    return sinks


class Metrics:
    """Values of some metrics, under fixed labels, at every sink."""

    def __init__(self, sinks: list[MetricSink], labels: Labels) -> None:
        self._sinks, self._labels = sinks, labels

    def show(self, values: Mapping[str, float], **labels: str) -> None:
        """Sets values; a full disk is not the run's matter."""
        for sink in self._sinks:
            with suppress(OSError, RuntimeError):
                for name, value in values.items():
                    sink.set(name, value, {**self._labels, **labels})

    def flush(self) -> None:
        """Shows what was set."""
        for sink in self._sinks:
            with suppress(OSError):
                sink.flush()

    def close(self) -> None:
        """Shows the last values, and closes ports."""
        self.flush()
        for sink in self._sinks:
            if isinstance(sink, TextSink):
                sink.close()
