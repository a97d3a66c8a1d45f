"""Measures the training time that a checkpoint costs.

The full network (four blocks, width 32, discriminator, Adam of both, EMA) trains on few pixels, because the state is
what costs. Checkpoints go to a local S3 server over a line of 20 MB/s, at a cadence by the clock. Steps during an
upload and steps without one alternate in one run; the cost is their difference: the copy, for which training stands
still, and the longer steps while digests and upload also need the processor. About two minutes on two quiet cores.

Not covered: steps on a GPU, beside which a checkpoint has processors to itself, and copying the state off it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from jobs.bench.common import Figure, figure, only_store, report
from jobs.bench.overhead import pictures
from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from trainplane.cluster.stack.moto_server import die_with_parent, local_s3
from trainplane.data.pack.pack import pack
from trainplane.errors import RunFailed
from trainplane.storage import ensure_bucket, open_store
from trainplane.train.checkpoint.store import MANIFEST, committed
from trainplane.train.loop import run
from trainplane.train.spec import NullProgress, TrainJob

BUCKET = "s3://bench-checkpoint"
# The target is stated for checkpoints five minutes apart, whatever cadence is measured.
INTERVAL_S, MAX_SHARE = 300.0, 0.02
UPLOAD_BYTES_PER_S = 20e6
FULL = ("model.blocks=4", "model.width=32", "model.discriminator_width=64", "train.ema=0.999", "train.global_batch=1")
COMMON = (
    "data.train=bench",
    "data.val=null",
    "data.size=32",
    "data.resize=40",
    # Neither has a state, and both cost time.
    "loss.perceptual=0",
    "loss.style=0",
    "train.workers=1",
    "train.threads=1",
    "train.log_every=50",
)
# Start times of the steps of the current run. The loop creates the task itself, so they cannot be handed in.
STEP_STARTS: list[float] = []


class StampedTask(ISNetTask):
    """The task, recording when its steps start."""

    def step(self, *args: Any, **settings: Any) -> Any:
        """Records the time, then runs the step."""
        STEP_STARTS.append(time.perf_counter())
        return super().step(*args, **settings)


def bench_job(data: str, run_dir: str, *overrides: str) -> TrainJob:
    """Job on a packed dataset, without a record in MLflow."""
    config = load_run_config("demo", [*COMMON, *overrides]).model_dump(mode="json")
    return TrainJob({**config, "task": f"{__name__}:{StampedTask.__name__}"}, data, None, run_dir)


def checkpoint(args: argparse.Namespace) -> int:
    """`isnet bench checkpoint`."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder, store() as endpoint:
        # The data are on the disk, so that only checkpoints use the store.
        data = f"{folder}/data"
        pack(pictures(32), data, name="bench", split="train", how={})
        costs = checkpoint_costs(data, f"{BUCKET}/stalls", endpoint, interval_s=args.interval, count=args.checkpoints)
    return report(args, _figures(costs), **costs)


@contextmanager
def store() -> Iterator[str]:
    """Yields the endpoint of a local S3 server."""
    with local_s3() as variables, only_store(variables):
        ensure_bucket(BUCKET)
        yield variables["AWS_ENDPOINT_URL"]


def _figures(costs: Mapping[str, Any]) -> list[Figure]:
    def median_of(name: str) -> float:
        return float(median(row[name] for row in costs["checkpoints"]))

    # Standing still and slower steps both cost time.
    lost_s = median(row["stood_still_s"] + row["slowed_s"] for row in costs["checkpoints"])
    return [
        figure("state", costs["state_mib"], "MiB"),
        figure("until it was stored", median_of("stored_s"), "s"),
        figure("training stood still for the copy", median_of("stood_still_s"), "s"),
        figure("steps took longer while it was on the way, in all", median_of("slowed_s"), "s"),
        figure("the same in processor time", median_of("processor_s"), "s"),
        figure("time lost, of an interval of five minutes", lost_s / INTERVAL_S, "share", f"≤ {MAX_SHARE}"),
    ]


class Enough(Exception):
    """All checkpoints to measure are measured."""


@dataclass
class StepTimes(NullProgress):
    """End times of steps; stops the run when `is_over()`."""

    is_over: Callable[[], bool]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Records the end of one step."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        if self.is_over():
            # The run has no end of its own in reach: its steps are a million.
            raise Enough


@contextmanager
def _arrivals(run_dir: str) -> Iterator[dict[int, float]]:
    # Times at which each step's checkpoint appeared, by polling: half a second is fine enough, an upload takes many.
    arrived: dict[int, float] = {}
    store, end = open_store(run_dir), threading.Event()

    def poll() -> None:
        while not end.wait(0.5):
            for entry in store.list("step-"):
                # A checkpoint is there when its manifest is: it is written last.
                if entry.key.endswith(f"/{MANIFEST}"):
                    arrived.setdefault(int(entry.key[len("step-") : entry.key.index("/")]), time.perf_counter())

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield arrived
    finally:
        end.set()
        thread.join()


@contextmanager
def _slow_line(endpoint: str) -> Iterator[str]:
    # The proxy is a separate process: its work must not count as the training's.
    code = (
        "import sys, threading; from trainplane.testing.fault_proxy import FaultProxy\n"
        "proxy = FaultProxy(sys.argv[1], upload_bytes_per_s=float(sys.argv[2]))\n"
        "print(proxy.endpoint, flush=True); threading.Event().wait()"
    )
    command = [sys.executable, "-c", code, endpoint, str(UPLOAD_BYTES_PER_S)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def checkpoint_costs(data: str, run_dir: str, endpoint: str, *, interval_s: float, count: int) -> dict[str, Any]:
    """Costs of `count` checkpoints of the full state."""
    cadence = f"train.checkpoint_every={interval_s:g}s"
    job = bench_job(data, run_dir, *FULL, "train.steps=1000000", cadence, "train.keep_checkpoints=99")
    STEP_STARTS.clear()
    with _arrivals(run_dir) as arrived, _slow_line(endpoint) as slow:

        def is_over() -> bool:
            stored = sorted(arrived.values())
            # The steps without a checkpoint that follow the last one are as many seconds as it took.
            return len(stored) >= count and time.perf_counter() - stored[count - 1] > interval_s / 2

        # From here on the store is behind the slow line.
        times = StepTimes(is_over)
        os.environ["AWS_ENDPOINT_URL"] = slow
        try:
            with suppress(Enough):
                run(job, progress=times)
        finally:
            os.environ["AWS_ENDPOINT_URL"] = endpoint
    store = open_store(run_dir)
    steps = [checkpoint.step for checkpoint in committed(store)][:count]
    # All checkpoints are of one size: the state's.
    state_bytes = sum(entry.size for entry in store.list(f"step-{steps[0]:08d}/"))
    rows = [cost_of(times, step, arrived[step], until) for step, until in pairwise([*steps, len(times.wall)])]
    return {"state_mib": round(state_bytes / 2**20, 1), "interval_s": interval_s, "checkpoints": rows}


def cost_of(times: StepTimes, step: int, arrived: float, until: int) -> dict[str, float]:
    """Seconds that one checkpoint costs, stored at time `arrived`.

    The steps up to `until` have no other checkpoint on the way.
    """
    # STEP_STARTS[n] is when step n + 1 started: after the checkpoint of step n, and after its data were there.
    pauses = [STEP_STARTS[n] - times.wall[n - 1] for n in range(step, until)]
    stood_still = pauses[0] - median(pauses[1:])
    # Step n + 1 took from the end of step n to its own; the first one after a checkpoint has the copy in it.
    during = [n for n in range(step + 1, until) if times.wall[n] <= arrived]
    after = [n for n in range(step + 1, until) if times.wall[n - 1] > arrived]
    if len(during) < 3 or len(after) < 3:
        raise RunFailed(
            f"{len(during)} steps with a checkpoint on the way and {len(after)} without are too few to compare; "
            "give a larger --interval"
        )

    def mean_s(series: list[float], numbers: list[int]) -> float:
        return fmean(series[n] - series[n - 1] for n in numbers)

    return {
        "stored_s": arrived - times.wall[step - 1],
        "stood_still_s": stood_still,
        "slowed_s": len(during) * (mean_s(times.wall, during) - mean_s(times.wall, after)),
        "processor_s": len(during) * (mean_s(times.cpu, during) - mean_s(times.cpu, after)),
        "step_s": mean_s(times.wall, after),
        "steps": float(len(during)),
    }
