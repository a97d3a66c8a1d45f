"""What a checkpoint of the full state takes from training, for `isnet bench checkpoint`.

The full network (four blocks, width 32, discriminator, Adam of both, EMA) trains on few pixels, because the state is
what costs; checkpoints go to a local S3 server over a line of 20 MB/s, at a cadence by the clock. Steps with one on the
way and steps without any follow each other in one run, and what is lost is told from their difference: the copy, for
which training stands still, and what the steps take longer while digests and upload want the processor, too.

Not covered: steps on a GPU, beside which a checkpoint has processors to itself, and copying the state off it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any

from jobs.bench.checkpoint_task import BEGUN, bench_job
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.errors import RunFailed
from trainplane.storage import open_store
from trainplane.train.checkpoint.store import MANIFEST, committed
from trainplane.train.loop import run
from trainplane.train.spec import NullProgress

UPLOAD_BYTES_PER_S = 20e6
FULL = ("model.blocks=4", "model.width=32", "model.discriminator_width=64", "train.ema=0.999", "train.global_batch=1")


class Enough(Exception):
    """All checkpoints that were to be measured have been."""


@dataclass
class Times(NullProgress):
    """When steps ended, by wall and by processor; ends the run once `over` says so."""

    over: Any
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())
        if self.over():
            raise Enough


class Arrivals:
    """Watches a run's folder from the side: when the checkpoint of each step was there."""

    def __init__(self, place: str) -> None:
        self.at: dict[int, float] = {}
        self._place = place
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Arrivals:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        store = open_store(self._place)
        while not self._end.wait(0.5):
            for entry in store.list("step-"):
                if entry.key.endswith(f"/{MANIFEST}"):
                    self.at.setdefault(int(entry.key[len("step-") : entry.key.index("/")]), time.perf_counter())


@contextmanager
def _slow_line(endpoint: str) -> Iterator[str]:
    """A proxy that takes uploads at the rate of a line, in a process of its own: its work is not the training's."""
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


def stalls(data: str, place: str, endpoint: str, *, interval_s: float, count: int) -> dict[str, Any]:
    """`count` checkpoints of the full state, so many seconds apart: what each took from the steps around it."""
    every = f"train.checkpoint_every={interval_s:g}s"
    job = bench_job(data, place, *FULL, "train.steps=1000000", every, "train.keep_checkpoints=99")
    BEGUN.clear()
    with Arrivals(place) as arrivals, _slow_line(endpoint) as slow:

        def over() -> bool:
            seen = sorted(arrivals.at.values())
            # The steps without a checkpoint that follow the last one are as many seconds as it took.
            return len(seen) >= count and time.perf_counter() - seen[count - 1] > interval_s / 2

        times = Times(over)
        os.environ["AWS_ENDPOINT_URL"] = slow
        try:
            with suppress(Enough):
                run(job, progress=times)
        finally:
            os.environ["AWS_ENDPOINT_URL"] = endpoint
    store = open_store(place)
    steps = [checkpoint.step for checkpoint in committed(store)][:count]
    state_bytes = sum(entry.size for entry in store.list(f"step-{steps[0]:08d}/"))
    rows = [_row(times, step, arrivals.at[step], until) for step, until in pairwise([*steps, len(times.wall)])]
    return {"state_mib": round(state_bytes / 2**20, 1), "interval_s": interval_s, "checkpoints": rows}


def _row(times: Times, step: int, arrived: float, until: int) -> dict[str, float]:
    """One checkpoint after `step`, there at `arrived`; steps up to `until` have none or this one on the way."""
    # BEGUN[n] is when step n + 1 began: after the checkpoint of step n, and after its data were there.
    pauses = [BEGUN[n] - times.wall[n - 1] for n in range(step, until)]
    stood_still = pauses[0] - median(pauses[1:])
    # Step n + 1 took from the end of step n to its own; the first one after a checkpoint has the copy in it.
    during = [n for n in range(step + 1, until) if times.wall[n] <= arrived]
    after = [n for n in range(step + 1, until) if times.wall[n - 1] > arrived]
    if len(during) < 3 or len(after) < 3:
        raise RunFailed(
            f"{len(during)} steps with a checkpoint on the way and {len(after)} without are too few to compare; "
            "give a larger --interval"
        )

    def taken(series: list[float], numbers: list[int]) -> float:
        return fmean(series[n] - series[n - 1] for n in numbers)

    return {
        "stored_s": arrived - times.wall[step - 1],
        "stood_still_s": stood_still,
        "slowed_s": len(during) * (taken(times.wall, during) - taken(times.wall, after)),
        "processor_s": len(during) * (taken(times.cpu, during) - taken(times.cpu, after)),
        "step_s": taken(times.wall, after),
        "steps": float(len(during)),
    }
