"""`isnet bench checkpoint`: what a checkpoint takes from training, and what readers see while storing it fails.

The first part trains the full network (four blocks, width 32, discriminator, Adam of both, EMA) on few pixels, because
the state is what costs. Checkpoints go to a local S3 server at 20 MB/s and are stored after half of the steps between
them, so that steps with one on the way and steps without any follow each other.
The second part trains a small network whose checkpoints are refused in three of ten cases and whose other requests to
store fail in three of ten, until a reader in a process of its own has looked often enough.

Not covered: steps on a GPU, beside which a checkpoint has processors to itself, and copying the state off it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from jobs.bench.overhead import pictures
from jobs.bench.pairs import machine
from jobs.cli import emit
from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from trainplane.cluster.fault_proxy import FaultProxy
from trainplane.cluster.object_store import die_with_parent, local_s3
from trainplane.data.pack import pack
from trainplane.errors import RunFailed
from trainplane.storage import ensure_bucket, open_store
from trainplane.train.job import Job, Silent
from trainplane.train.loop import run

UPLOAD_BYTES_PER_S = 20e6
INTERVAL_S = 300.0
MOST = 0.02
FAILING_EVERY = 2
BUCKET = "s3://bench-checkpoint"
FULL = ("model.blocks=4", "model.width=32", "model.discriminator_width=64", "train.ema=0.999", "train.global_batch=1")
SMALL = ("model.width=4", "model.discriminator_width=8", "train.global_batch=2")
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
# When the steps of the run under way began.
BEGUN: list[float] = []


class Stamped(ISNetTask):
    """The task, which says when its steps begin."""

    def step(self, *args: Any, **settings: Any) -> Any:
        BEGUN.append(time.perf_counter())
        return super().step(*args, **settings)


@dataclass
class Times(Silent):
    """When steps ended, by wall and by processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def checkpoint(args: argparse.Namespace) -> int:
    """`isnet bench checkpoint`."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder, _store() as endpoint:
        data = f"{folder}/data"
        pack(pictures(32), data, name="bench", split="train", how={})
        stall = stalls(data, endpoint, every=args.every, count=args.checkpoints)
        failing = while_failing(data, endpoint, polls=args.polls)
    figures = _stall_figures(stall) + _failing_figures(failing, args.polls)
    emit(args, {"machine": machine(), **stall, "failing": failing, "figures": figures}, "\n".join(map(_line, figures)))
    return 1 if any(row["met"] is False for row in figures) else 0


@contextmanager
def _store() -> Iterator[str]:
    """A local S3 server, to which the environment leads in the block; its endpoint."""
    before = dict(os.environ)
    with local_s3() as environment:
        for name in [name for name in before if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(environment)
        try:
            ensure_bucket(BUCKET)
            yield environment["AWS_ENDPOINT_URL"]
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextmanager
def _slow_line(endpoint: str) -> Iterator[str]:
    """A proxy that takes uploads at the rate of a line, in a process of its own: its work is not the training's."""
    code = (
        "import sys, threading; from trainplane.cluster.fault_proxy import FaultProxy\n"
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


def _job(data: str, place: str, *words: str) -> Job:
    config = load_run_config("demo", [*COMMON, *words]).model_dump(mode="json")
    return Job({**config, "task": f"{__name__}:{Stamped.__name__}"}, data, None, place)


def stalls(data: str, endpoint: str, *, every: int, count: int) -> dict[str, Any]:
    """`count` checkpoints of the full state, `every` steps apart: what each took from the steps around it."""
    place = f"{BUCKET}/stalls"
    job = _job(data, place, *FULL, f"train.steps={(count + 1) * every}", f"train.checkpoint_every={every}")
    times, arrived = Times(), dict[int, float]()
    steps = [number * every for number in range(1, count + 1)]
    BEGUN.clear()

    def look() -> None:
        store = open_store(place)
        for step in steps:
            while not store.size(f"step-{step:08d}/manifest.json"):
                time.sleep(0.5)
            arrived[step] = time.perf_counter()

    with _slow_line(endpoint) as slow:
        os.environ["AWS_ENDPOINT_URL"] = slow
        threading.Thread(target=look, daemon=True).start()
        run(job, progress=times)
        os.environ["AWS_ENDPOINT_URL"] = endpoint
    store = open_store(place)
    state_bytes = sum(entry.size for entry in store.list(f"step-{steps[-1]:08d}/"))
    half = every // 2
    rows = []
    for step in steps:
        stored_s = arrived.get(step, math.inf) - times.wall[step - 1]
        if arrived.get(step, math.inf) > times.wall[step - 1 + half]:
            raise RunFailed(f"a checkpoint was not stored within {half} steps; give a larger --every than {every}")
        # BEGUN[n] is when step n + 1 began: after the checkpoint of step n, and after its data were there.
        pauses = [BEGUN[n] - times.wall[n - 1] for n in range(step, step + every)]
        rows.append(
            {
                "stood_still_s": pauses[0] - median(pauses[1:]),
                "processor_s": _taken(times.cpu, step - 1, half) - _taken(times.cpu, step - 1 + half, half),
                "wall_s": _taken(times.wall, step - 1, half) - _taken(times.wall, step - 1 + half, half),
                "step_s": _taken(times.wall, step - 1 + half, half) / half,
                "stored_s": stored_s,
            }
        )
    return {"state_mib": round(state_bytes / 2**20, 1), "every": every, "checkpoints": rows}


def _taken(times: list[float], start: int, steps: int) -> float:
    return times[start + steps] - times[start]


class Failing:
    """Refuses three of ten checkpoints, never two in a row, and spoils three of ten other requests to store."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.refused: set[int] = set()
        self.spoilt = self.requests = 0

    def __call__(self, method: str, path: str, number: int) -> str | None:
        found = re.search(r"/step-(\d+)/", path)
        if method not in ("PUT", "POST") or found is None:
            return None
        step = int(found[1])
        if step // FAILING_EVERY * 7 % 10 < 3:
            self.refused.add(step)
            return "denied"
        self.requests += 1
        if self._chance.random() >= 0.3:
            return None
        self.spoilt += 1
        return self._chance.choice(("500", "503", "reset"))


def while_failing(data: str, endpoint: str, *, polls: int) -> dict[str, Any]:
    """Train until a reader has looked `polls` times; what it met, and how far training came."""
    place = f"{BUCKET}/failing"
    job = _job(data, place, *SMALL, "train.steps=1000000", f"train.checkpoint_every={FAILING_EVERY}")
    times = Times()
    command = [sys.executable, "-m", "jobs.bench.checkpoint_reader", place, str(polls)]
    with FaultProxy(endpoint) as proxy:
        proxy.fault = failing = Failing(seed=0)
        # The reader goes to the server itself: it shall find what is there.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as reader:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            try:
                run(job, progress=times, interrupted=lambda: reader.poll() is not None)
            except (KeyboardInterrupt, RunFailed) as error:
                # Told to stop, it also stores where it stands, which the proxy may refuse.
                if reader.poll() is None:
                    reader.kill()
                    raise RunFailed(f"training ended while its checkpoints failed: {error}") from error
            finally:
                os.environ["AWS_ENDPOINT_URL"] = endpoint
            assert reader.stdout is not None
            seen = json.loads(reader.stdout.read())
    return {
        **seen,
        "steps": len(times.wall),
        "refused": len(failing.refused),
        "requests": failing.requests,
        "spoilt": failing.spoilt,
    }


def _stall_figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    def of(name: str) -> float:
        return float(median(row[name] for row in found["checkpoints"]))

    return [
        _figure("state", found["state_mib"], "MiB"),
        _figure("until it was stored", of("stored_s"), "s"),
        _figure("training stood still for a checkpoint", of("stood_still_s"), "s"),
        _figure("of an interval of five minutes", of("stood_still_s") / INTERVAL_S, "share", most=MOST),
        _figure("processor time of a checkpoint", of("processor_s"), "s"),
        _figure("of five minutes, where steps need the processor", of("processor_s") / INTERVAL_S, "share", most=MOST),
        _figure("wall time of the steps with one on the way, more than without", of("wall_s"), "s"),
    ]


def _failing_figures(found: Mapping[str, Any], polls: int) -> list[dict[str, Any]]:
    return [
        _figure("polls of a reader", found["polls"], "polls"),
        _figure("half checkpoints it met", found["half"], "polls", most=0),
        _figure("different whole checkpoints it met", found["different"], "checkpoints"),
        _figure("steps trained meanwhile", found["steps"], "steps"),
        _figure("checkpoints refused meanwhile", found["refused"], "checkpoints"),
        _figure("other requests to store that failed", found["spoilt"] / max(1, found["requests"]), "share"),
    ]


def _figure(name: str, value: float, unit: str, *, most: float | None = None) -> dict[str, Any]:
    met = None if most is None else value <= most
    target = None if most is None else f"≤ {most}"
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "met": met}


def _line(figure: Mapping[str, Any]) -> str:
    verdict = "" if figure["met"] is None else f"   {figure['target']}: {'yes' if figure['met'] else 'NO'}"
    return f"{figure['name']:<64} {figure['value']:>10} {figure['unit']}{verdict}"
