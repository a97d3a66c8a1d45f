"""`isnet bench cluster`: what a local stack costs, how long a job takes to its first step, whether a queue is kept.

It starts a stack of its own in a temporary folder (never the one that is there), and takes it away again. Jobs of the
queue stand in the line of the cluster's head, so that most of them wait; they write down when they began. Not covered:
real networks, nodes that come and go.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jobs.bench.common import machine, slope, smooth_photos
from jobs.cli.main import emit
from trainplane.cluster import context_file
from trainplane.cluster.context import resolve
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs.submit import submit
from trainplane.cluster.stack.stack import Stack
from trainplane.errors import RunFailed

_UP_TARGET_S = 60.0
_TRAIN = (
    "train.workers=1",
    "train.steps=3",
    "train.global_batch=4",
    "train.log_every=1",
    "data.size=32",
    "data.resize=48",
    "data.train=bench",
    "data.val=bench",
    "tracking.gallery=0",
    "model.width=4",
)


def cluster(args: argparse.Namespace) -> int:
    """`isnet bench cluster`."""
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name, _inside(Path(name)):
        stack = Stack(resolve("local").home / "stack")
        try:
            seconds = _timed(lambda: _up(stack, args.store))
            figures.append(_figure("stack up, first time", seconds, "s", most=_UP_TARGET_S))
            figures += _memory(stack)
            figures.append(_figure("stack down", _timed(lambda: stack.down(wipe=False, emit=_say)), "s"))
            seconds = _timed(lambda: _up(stack, args.store))
            figures.append(_figure("stack up again", seconds, "s", most=_UP_TARGET_S))
            figures.append(_figure("submit to the first training step", _first_step(Path(name)), "s"))
            (empty := Path(name) / "empty").mkdir()
            figures += _queue(stack, args.jobs, empty)
        finally:
            seconds = _timed(lambda: stack.down(wipe=True, emit=_say))
        figures.append(_figure("stack down and wiped", seconds, "s"))
    report = {"machine": machine(), "store": args.store or "default", "jobs": args.jobs, "figures": figures}
    emit(args, report, "\n".join(f"{one['name']:<44} {one['value']} {one['unit']}" for one in figures))
    return 0


def _figure(name: str, value: float, unit: str, *, most: float | None = None) -> dict[str, Any]:
    met = None if most is None else value <= most
    return {"name": name, "value": round(value, 2), "unit": unit, "target": most, "met": met}


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _timed(action: Any) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """With `folder` as current folder and home, and no other context."""
    before, kept = Path.cwd(), {name: os.environ.pop(name, None) for name in ("ISNET_CONTEXT", "ISNET_HOME")}
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.update({name: value for name, value in kept.items() if value is not None})


def _up(stack: Stack, store: str | None) -> None:
    stack.up(store=store, timeout_s=600.0, emit=_say)
    context_file.write(context_file.config_file(Path.cwd()), *stack.context())


def _memory(stack: Stack) -> Iterator[dict[str, Any]]:
    """Of each part once it has come to rest; pages that its processes share count once for each of them."""
    time.sleep(10)
    for part in stack.status():
        yield _figure(f"memory at rest, {part.name}", part.rss_bytes / 2**20, "MiB RSS")


def _first_step(folder: Path) -> float:
    """From the call of `isnet submit train` to the line of the first step in its log."""
    photos = smooth_photos(folder)
    command = [sys.executable, "-m", "jobs.cli"]
    pack = [*command, "data", "pack", str(photos), "bench", "--context", "stack", "--parallel", "0"]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    with subprocess.Popen(
        [*command, "submit", "--context", "stack", "train", "demo", *_TRAIN],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as submitted:
        said, took_s = [], None
        for line in submitted.stdout or ():
            said.append(line)
            if took_s is None and re.search(r"step \d+/3", line):
                took_s = time.monotonic() - begun
    if submitted.returncode != 0 or took_s is None:
        raise RunFailed(f"the job ended with {submitted.returncode}: {''.join(said)[-800:]}")
    return took_s


def _queue(stack: Stack, count: int, empty: Path) -> Iterator[dict[str, Any]]:
    """`count` jobs in the line: lost ones, order of their beginnings, and what the head holds."""
    context = resolve("stack")
    context.activate()
    connection = client.connect(context)
    places = int(status.cluster_resources(connection).drivers)
    entrypoint = f"{sys.executable} -c 'import time; print(\"began\", time.time())'"
    before = _head_mib(stack)
    begun = time.monotonic()
    # The same work under as many names.
    taken: dict[str, Any] = {
        "entrypoint": entrypoint,
        "packages": [],
        "working_dir": empty,
        "environment": {},
        "again": False,
    }
    names = [submit(context, ["bench", f"{number:04d}"], **taken)[0] for number in range(count)]
    submitted_s = time.monotonic() - begun
    held = [before]
    while any(not state.is_over for state in status.job_states(connection) if state.job in names):
        if time.monotonic() - begun > 60 + 60 * count:
            break
        held.append(_head_mib(stack))
        time.sleep(2)
    ended_s = time.monotonic() - begun
    # The last drivers' processes end a moment after their jobs.
    time.sleep(10)
    after = _head_mib(stack)
    ended = {state.job: state.status for state in status.job_states(connection)}
    lost = [name for name in names if ended.get(name) != "SUCCEEDED"]
    moments = [_began(connection.get_job_logs(name)) for name in names if name not in lost]
    yield _figure("jobs in the line", count, "jobs")
    yield _figure("of them lost or failed", len(lost), "jobs", most=0)
    yield _figure("places for drivers", places, "drivers")
    yield _figure("began before one that many or more ahead", _overtakings(moments, places), "jobs", most=0)
    yield _figure("began before any earlier one", _overtakings(moments, 1), "jobs")
    yield _figure("accepting a job", submitted_s / count, "s/job")
    yield _figure("a job, while others wait", ended_s / count, "s/job")
    yield _figure("the head's memory before", before, "MiB RSS")
    yield _figure("the head's memory, at most", max(held), "MiB RSS")
    yield _figure("the head's memory, growth over the queue", after - before, "MiB RSS")
    yield _figure("the head's memory, slope in the second half", slope(held[len(held) // 2 :]), "MiB/2 s")


def _head_mib(stack: Stack) -> float:
    return next(part.rss_bytes for part in stack.status() if part.name == "head") / 2**20


def _began(log: str) -> float:
    found = re.search(r"began ([\d.]+)", log)
    return float(found.group(1)) if found else 0.0


def _overtakings(moments: Sequence[float], places: int) -> int:
    """How many began before one that was submitted `places` or more before them.

    As many as there are places start beside each other, and whose start takes longer begins later.
    """
    latest, count = 0.0, 0
    for number in range(places, len(moments)):
        latest = max(latest, moments[number - places])
        count += moments[number] < latest
    return count
