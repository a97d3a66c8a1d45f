"""Figures of a server for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServingMetrics:
    """Counters and times of one server."""

    def __init__(self, model: str) -> None:
        self.registry = CollectorRegistry()
        names: dict[str, Any] = {"namespace": "trainplane", "subsystem": "serving", "registry": self.registry}
        self.answers = Counter(
            "answers", "Answers by version, role and outcome", ("model", "version", "role", "outcome"), **names
        )
        self.seconds = Histogram(
            "answer_seconds", "Time of one version's answer", ("model", "version"), buckets=_SECONDS, **names
        )
        self.refused = Counter("refused", "Requests refused, by status", ("model", "status"), **names)
        self.share = Gauge("share", "Share of the requests that name no version", ("model", "version"), **names)
        self.running = Gauge("running", "Requests that are computed now", ("model",), **names)
        self.waiting = Gauge("waiting", "Requests that wait, or whose bodies arrive", ("model",), **names)
        self.backs = Counter("ways_back", "Candidates whose share was ended automatically", ("model",), **names)
        self._model = model

    def answered(self, version: str, role: str, seconds: float) -> None:
        """Counts an answer."""
        self.answers.labels(self._model, version, role, "ok").inc()
        self.seconds.labels(self._model, version).observe(seconds)

    def failed(self, version: str, role: str, outcome: str) -> None:
        """Counts a failure of a version."""
        self.answers.labels(self._model, version, role, outcome).inc()

    def refuse(self, status: int) -> None:
        """Counts a request that got no answer."""
        self.refused.labels(self._model, str(status)).inc()

    def queue(self, running: int, waiting: int) -> None:
        """Sets the length of the queue."""
        self.running.labels(self._model).set(running)
        self.waiting.labels(self._model).set(waiting)

    def shares(self, shares: Mapping[str, float], gone: Iterable[str]) -> None:
        """Sets the share of each version."""
        for version, share in shares.items():
            self.share.labels(self._model, version).set(share)
        for version in gone:
            self.share.labels(self._model, version).set(0)

    def way_back(self) -> None:
        """Counts an automatic way back."""
        self.backs.labels(self._model).inc()

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self.registry)
