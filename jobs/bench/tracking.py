"""`isnet bench tracking`: cost and completeness of recording.

A real MLflow server (SQLite) stands behind a proxy that makes it healthy, slow (5 s a request), failing (500) or
absent. Writers are separate processes, with `Tracker` as a training has it. Measured: the time of a `log` call in each
state; lost and doubled points when the server goes away, SIGKILL ends the writer in the middle and the next writer
repeats its last steps; the rate at which points arrive, against one `log_metric` a point. Not covered: pictures, and
servers over a network.

    python -m jobs.bench.tracking ADDRESS RUN SPOOL FIRST LAST PAUSE_S CLOSE_S

is such a writer, alone in its interpreter, as a training is, and to be killed.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from jobs.bench.common import Figure, figure, report
from trainplane.errors import RunFailed
from trainplane.testing.mlflow_server import STATES, StateProxy, mlflow_server
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.sync import sync_spools
from trainplane.tracking.tracker import Tracker

METRICS = 20
STEPS_PER_S = 200  # 4,000 points a second
REPEATED_STEPS = 200
_LINE_BYTES = 700  # about a line of the spool


def tracking(args: argparse.Namespace) -> int:
    """`isnet bench tracking`."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name, _recording(Path(name)) as bench:
        figures += bench.calls(args.seconds)
        figures += bench.outage(args.points)
        figures += bench.rate(args.steps, args.sample)
    return report(args, figures)


@contextmanager
def _recording(folder: Path) -> Iterator[_RecordingBench]:
    with mlflow_server(folder) as port:
        proxy = StateProxy(port)
        try:
            yield _RecordingBench(folder / "spool", proxy, TrackingServer(f"http://127.0.0.1:{port}").client)
        finally:
            proxy.close()


class _RecordingBench:
    """Measurements through the proxy; `direct` is a client without it."""

    def __init__(self, spools: Path, proxy: StateProxy, direct: Any) -> None:
        # Reading goes around the proxy, so that counting does not fail with it.
        self._spools, self._proxy, self._direct = spools, proxy, direct
        self._server = TrackingServer(proxy.address)

    def calls(self, seconds: float) -> Iterator[Figure]:
        """Times a call while the server is in each state."""
        for state in STATES:
            # The run is created on a healthy server; the state begins before the writer does.
            self._proxy.set_state("healthy")
            with self._writer(self._new_run(), 1, int(seconds * STEPS_PER_S), pause_s=1 / STEPS_PER_S) as writer:
                self._proxy.set_state(state)
                writer.start()
                times = writer.result()
            p99, bare = (1000 * float(np.percentile(times[name], 99)) for name in ("log_s", "bare_s"))
            yield figure(f"p99 of log, server {state}", p99, "ms", "< 1.0")
            yield figure(f"p99 of a bare write, server {state}", bare, "ms")
        self._proxy.set_state("healthy")

    def outage(self, points: int) -> list[Figure]:
        """Counts points after an outage with a SIGKILL."""
        # The server is away from 30 % to 80 % of the steps; the writer is killed at half of them.
        run_id, last = self._new_run(), points // METRICS
        with self._writer(run_id, 1, last, pause_s=0.001) as writer:
            writer.start()
            writer.wait_for(last * 3 // 10)
            self._proxy.set_state("down")
            killed_at = writer.wait_for(last // 2)
            os.kill(writer.process.pid, signal.SIGKILL)
        # As after a checkpoint: the last steps are repeated, and give the same values.
        with self._writer(run_id, max(1, killed_at - REPEATED_STEPS), last, pause_s=0.001) as writer:
            writer.start()
            writer.wait_for(last * 8 // 10)
            self._proxy.set_state("healthy")
            writer.result()
        self._send_unsent(run_id)
        num_lost, num_doubled, num_wrong = self._count(run_id, last)
        return [
            figure(f"of {last * METRICS} points lost over an outage and a SIGKILL", num_lost, "points", "< 1"),
            figure("of them doubled", num_doubled, "points", "< 1"),
            figure("of them with another value", num_wrong, "points", "< 1"),
        ]

    def rate(self, steps: int, sample: int) -> list[Figure]:
        """Measures points a second until they are in MLflow."""
        # The slow way runs half before and half after ours, so that the load falls on both.
        slow_s = self._one_by_one(sample // 2)
        run_id = self._new_run()
        with self._writer(run_id, 1, steps, pause_s=0.0, close_s=600) as writer:
            writer.start()
            result = writer.result()
        unsent, (num_lost, num_doubled, num_wrong) = result["left"], self._count(run_id, steps)
        if unsent or num_lost or num_doubled or num_wrong:
            raise RunFailed(f"not all points arrived: {unsent} left, {num_lost} lost, {num_doubled} doubled")
        # Every point must have arrived before rates mean anything.
        slow_s += self._one_by_one(sample - sample // 2)
        ours, theirs = steps * METRICS / result["sent_s"], sample / slow_s
        return [
            figure(f"rate of {METRICS} metrics x {steps} steps", round(ours), "points/s"),
            figure(f"rate of one log_metric a point, {sample} points", round(theirs, 1), "points/s"),
            figure("the first over the second", round(ours / theirs, 1), "×", "≥ 20"),
        ]

    def _one_by_one(self, count: int) -> float:
        run_id = self._new_run()
        client = self._server.client
        start = time.perf_counter()
        for number in range(count):
            client.log_metric(run_id, f"m{number % METRICS:02d}", float(number), step=number // METRICS)
        return time.perf_counter() - start

    def _new_run(self) -> str:
        return str(self._direct.create_run("0").info.run_id)

    @contextmanager
    def _writer(
        self, run_id: str, first: int, last: int, *, pause_s: float, close_s: float = 5.0
    ) -> Iterator[WriterProcess]:
        writer = WriterProcess(self._proxy.address, run_id, self._spools / run_id, first, last, pause_s, close_s)
        try:
            writer.wait_until_ready()
            yield writer
        finally:
            writer.process.kill()
            writer.process.communicate()

    def _send_unsent(self, run_id: str) -> None:
        # What the killed writer had in its spool is sent by `runs sync`, and here.
        deadline = time.monotonic() + 600
        while sync_spools(self._spools, self._server)[run_id].unsent:
            if time.monotonic() > deadline:
                raise RunFailed("the rest could not be sent in ten minutes")
            time.sleep(0.5)

    def _count(self, run_id: str, last: int) -> tuple[int, int, int]:
        # Lost, doubled and wrong points in MLflow, against what was recorded.
        num_lost = num_doubled = num_wrong = 0
        for metric in range(METRICS):
            history = self._direct.get_metric_history(run_id, f"train/m{metric:02d}")
            steps = {point.step for point in history}
            num_lost += last - len(steps & set(range(1, last + 1)))
            num_doubled += len(history) - len(steps)
            num_wrong += sum(point.value != value_of(point.step, metric) for point in history)
        return num_lost, num_doubled, num_wrong


class WriterProcess:
    """Process that runs `write`, seen from outside."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, "-m", "jobs.bench.tracking", *map(str, args)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout

    def wait_until_ready(self) -> None:
        """Waits for the end of imports."""
        if self._stdout.readline() != "ready\n":
            raise RunFailed("the process that records ended before it began")

    def start(self) -> None:
        """Starts the recording."""
        print("go", file=self._stdin, flush=True)

    def wait_for(self, step: int) -> int:
        """Waits until `step` is passed; returns the last step printed."""
        # Each line is the number of a recorded step.
        for line in self._stdout:
            if int(line) >= step:
                return int(line)
        raise RunFailed("the process that records ended early")

    def result(self) -> dict[str, Any]:
        """Waits for the end; returns the writer's last line."""
        out, _ = self.process.communicate()
        if self.process.returncode:
            raise RunFailed(f"the process that records ended with status {self.process.returncode}")
        return dict(json.loads(out.splitlines()[-1]))


def value_of(step: int, metric: int) -> float:
    """Recorded value, which a reader can compute again."""
    return step + metric / 100


def write(address: str, run_id: str, spool: str, first: int, last: int, pause_s: float, close_s: float) -> None:
    """Records METRICS metrics at each of the steps.

    It prints `ready`, waits for a line, prints every hundredth step, and at the end one JSON object: times of the calls
    and of bare writes of as many bytes in between, which show what any write takes on this machine.
    """
    tracker = Tracker(TrackingServer(address), run_id, spool=spool)
    print("ready", flush=True)
    sys.stdin.readline()
    log_s, bare_s = [], []
    # A bare write to a file beside each call, for comparison.
    line = b"x" * _LINE_BYTES
    begin = time.perf_counter()
    with tempfile.NamedTemporaryFile() as bare:
        for step in range(first, last + 1):
            values = {f"train/m{metric:02d}": value_of(step, metric) for metric in range(METRICS)}
            start = time.perf_counter()
            tracker.log_metrics(step, values)
            log_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            os.write(bare.fileno(), line)
            bare_s.append(time.perf_counter() - start)
            if step % 100 == 0:
                print(step, flush=True)
            if pause_s:
                time.sleep(pause_s)
    unsent = tracker.close(close_s)
    print(json.dumps({"log_s": log_s, "bare_s": bare_s, "sent_s": time.perf_counter() - begin, "left": unsent}))


if __name__ == "__main__":
    address, run_id, spool, first, last, pause_s, close_s = sys.argv[1:]
    write(address, run_id, spool, int(first), int(last), float(pause_s), float(close_s))
