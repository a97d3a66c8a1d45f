"""`isnet bench tracking`: what recording costs a training, and whether all of it arrives.

A real MLflow server (SQLite) stands behind a proxy that makes it healthy, slow (5 s a request), failing (500) or
absent. Writers are processes of their own, with `Tracker` as a training has it. Measured: how long a `log` call takes
in each state; what is lost or doubled of many points when the server goes away, the writer is killed by SIGKILL in the
middle and the next one repeats its last steps; how fast points arrive, against one `log_metric` a point. Not covered:
pictures, and servers over a network.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.common import machine
from jobs.bench.tracking_writer import value_of
from jobs.cli.main import emit
from trainplane.errors import RunFailed
from trainplane.testing.mlflow_server import STATES, StateProxy, mlflow_server
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.sync import sync_spools

METRICS = 20
STEPS_PER_S = 200  # 4,000 points a second
REPEATED_STEPS = 200


def tracking(args: argparse.Namespace) -> int:
    """`isnet bench tracking`."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name:
        bench = _Bench(Path(name))
        with bench.running():
            figures += bench.calls(args.seconds)
            figures += bench.outage(args.points)
            figures += bench.rate(args.steps, args.sample)
    emit(args, {"machine": machine(), "figures": figures}, "\n".join(map(_line, figures)))
    return 1 if any(figure["met"] is False for figure in figures) else 0


class _Bench:
    """The server, the proxy before it, and one measurement after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._direct: Any = None

    @contextmanager
    def running(self) -> Iterator[None]:
        with mlflow_server(self._folder) as port:
            self._direct = TrackingServer(f"http://127.0.0.1:{port}").client
            self._proxy = StateProxy(port)
            self._server = TrackingServer(self._proxy.address)
            try:
                yield
            finally:
                self._proxy.close()

    def calls(self, seconds: float) -> list[dict[str, Any]]:
        """How long a call takes while the server is in each state."""
        figures = []
        for state in STATES:
            self._proxy.set_state("healthy")
            with self._writer(self._new_run(), 1, int(seconds * STEPS_PER_S), pause_s=1 / STEPS_PER_S) as writer:
                self._proxy.set_state(state)
                _go(writer)
                told = _report(writer)
            p99, bare = (1000 * float(np.percentile(told[which], 99)) for which in ("log_s", "bare_s"))
            figures.append(_figure(f"p99 of log, server {state}", round(p99, 3), "ms", below=1.0))
            figures.append(_figure(f"p99 of a bare write, server {state}", round(bare, 3), "ms"))
        self._proxy.set_state("healthy")
        return figures

    def outage(self, points: int) -> list[dict[str, Any]]:
        """The server away from 30 % to 80 % of the steps, the writer killed at half of them."""
        run_id, last = self._new_run(), points // METRICS
        with self._writer(run_id, 1, last, pause_s=0.001) as writer:
            _go(writer)
            _wait_for(writer, last * 3 // 10)
            self._proxy.set_state("down")
            killed_at = _wait_for(writer, last // 2)
            os.kill(writer.pid, signal.SIGKILL)
        # As after a checkpoint: the last steps are taken again, and give the same.
        with self._writer(run_id, max(1, killed_at - REPEATED_STEPS), last, pause_s=0.001) as writer:
            _go(writer)
            _wait_for(writer, last * 8 // 10)
            self._proxy.set_state("healthy")
            _report(writer)
        self._send_rest(run_id)
        lost, doubled, other = self._count(run_id, last)
        return [
            _figure(f"of {last * METRICS} points lost over an outage and a SIGKILL", lost, "points", below=1),
            _figure("of them doubled", doubled, "points", below=1),
            _figure("of them with another value", other, "points", below=1),
        ]

    def rate(self, steps: int, sample: int) -> list[dict[str, Any]]:
        """Points a second until they are in MLflow; the slow way half before and half after ours."""
        slow_s = self._one_by_one(sample // 2)
        run_id = self._new_run()
        with self._writer(run_id, 1, steps, pause_s=0.0, close_s=600) as writer:
            _go(writer)
            told = _report(writer)
        lost, doubled, other = self._count(run_id, steps)
        if told["left"] or lost or doubled or other:
            raise RunFailed(f"not all points arrived: {told['left']} left, {lost} lost, {doubled} doubled")
        slow_s += self._one_by_one(sample - sample // 2)
        ours, theirs = steps * METRICS / told["sent_s"], sample / slow_s
        return [
            _figure(f"rate of {METRICS} metrics x {steps} steps", round(ours), "points/s"),
            _figure(f"rate of one log_metric a point, {sample} points", round(theirs, 1), "points/s"),
            _figure("the first over the second", round(ours / theirs, 1), "×", least=20),
        ]

    def _one_by_one(self, count: int) -> float:
        run_id = self._new_run()
        client = self._server.client
        begun = time.perf_counter()
        for number in range(count):
            client.log_metric(run_id, f"m{number % METRICS:02d}", float(number), step=number // METRICS)
        return time.perf_counter() - begun

    def _new_run(self) -> str:
        return str(self._direct.create_run("0").info.run_id)

    @contextmanager
    def _writer(
        self, run_id: str, first: int, last: int, *, pause_s: float, close_s: float = 5.0
    ) -> Iterator[subprocess.Popen[str]]:
        """A writer that is ready to begin."""
        spool = str(self._folder / "spool" / run_id)
        values = (self._proxy.address, run_id, spool, first, last, METRICS, pause_s, close_s)
        writer = subprocess.Popen(
            [sys.executable, "-m", "jobs.bench.tracking_writer", *map(str, values)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert writer.stdout is not None
            if writer.stdout.readline() != "ready\n":
                raise RunFailed("the process that records ended before it began")
            yield writer
        finally:
            writer.kill()
            writer.communicate()

    def _send_rest(self, run_id: str) -> None:
        deadline = time.monotonic() + 600
        while sync_spools(self._folder / "spool", self._server)[run_id].unsent:
            if time.monotonic() > deadline:
                raise RunFailed("the rest could not be sent in ten minutes")
            time.sleep(0.5)

    def _count(self, run_id: str, last: int) -> tuple[int, int, int]:
        """(lost, doubled, of another value) of what MLflow holds, against what was recorded."""
        lost = doubled = other = 0
        for metric in range(METRICS):
            history = self._direct.get_metric_history(run_id, f"train/m{metric:02d}")
            steps = {point.step for point in history}
            lost += last - len(steps & set(range(1, last + 1)))
            doubled += len(history) - len(steps)
            other += sum(point.value != value_of(point.step, metric) for point in history)
        return lost, doubled, other


def _go(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("go\n")
    writer.stdin.flush()


def _wait_for(writer: subprocess.Popen[str], step: int) -> int:
    """Read what the writer says until it has passed `step`; returns the step it said last."""
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) >= step:
            return int(line)
    raise RunFailed("the process that records ended early")


def _report(writer: subprocess.Popen[str]) -> dict[str, Any]:
    """The writer's last word."""
    said, _ = writer.communicate()
    if writer.returncode:
        raise RunFailed(f"the process that records ended with status {writer.returncode}")
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    return told


def _figure(
    name: str, value: float, unit: str, *, below: float | None = None, least: float | None = None
) -> dict[str, Any]:
    target = None if below is None and least is None else f"< {below}" if below is not None else f"≥ {least}"
    met = None if target is None else value < below if below is not None else value >= (least or 0)
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met}


def _line(figure: Mapping[str, Any]) -> str:
    verdict = "" if figure["met"] is None else f"   {figure['target']}: {'yes' if figure['met'] else 'NO'}"
    return f"{figure['name']:<60} {figure['value']:>10} {figure['unit']}{verdict}"
