"""`isnet bench cluster`: a local stack's costs, and its queue.

It starts a stack in a temporary folder (never the user's) and removes it again. Most jobs wait in the queue of the
cluster's head; each prints the time at which it started. Not covered: real networks, nodes that come and go.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from jobs.bench.common import Figure, figure, report, slope, smooth_photos
from trainplane.cluster import context_file
from trainplane.cluster.context import resolve
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs.submit import submit
from trainplane.cluster.stack.stack import Stack
from trainplane.environ import preserved_variables
from trainplane.errors import RunFailed

_UP_TARGET_S = 60.0
# A training that is over at once: four tiny pictures a step, three steps.
_TRAIN = [f"data.{name}" for name in ("size=32", "resize=48", "train=bench", "val=bench")]
_TRAIN += [f"train.{name}" for name in ("workers=1", "steps=3", "global_batch=4", "log_every=1")]
_TRAIN += ["tracking.gallery=0", "model.width=4"]


def cluster(args: argparse.Namespace) -> int:
    """`isnet bench cluster`."""
    figures: list[Figure] = []
    # The stack lives in this folder: a user's own stack is not touched.
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name, _inside(Path(name)):
        stack = Stack(resolve("local").home / "stack")
        try:
            # Up twice: the second start finds databases and buckets as they were left.
            figures.append(figure("stack up, first time", _seconds(lambda: _up(stack, args.store)), "s", _UP_TARGET_S))
            figures += _memory(stack)
            figures.append(figure("stack down", _seconds(lambda: stack.down(wipe=False, emit=_print)), "s"))
            figures.append(figure("stack up again", _seconds(lambda: _up(stack, args.store)), "s", _UP_TARGET_S))
            figures.append(figure("submit to the first training step", _first_step(Path(name)), "s"))
            # Jobs of the queue need no code: their working folder is empty.
            (empty := Path(name) / "empty").mkdir()
            figures += _queue(stack, args.jobs, empty)
        finally:
            # Also after a failure: nothing of the stack may stay.
            seconds = _seconds(lambda: stack.down(wipe=True, emit=_print))
        figures.append(figure("stack down and wiped", seconds, "s"))
    report(args, figures, store=args.store or "default", jobs=args.jobs)
    return 0


def _print(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _seconds(action: Callable[[], object]) -> float:
    start = time.monotonic()
    action()
    return time.monotonic() - start


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    # Changes to `folder`, without the user's context and home.
    names = ("ISNET_CONTEXT", "ISNET_HOME")
    with preserved_variables(*names), chdir(folder):
        for name in names:
            os.environ.pop(name, None)
        yield


def _up(stack: Stack, store: str | None) -> None:
    stack.up(store=store, timeout_s=600.0, emit=_print)
    context_file.write(context_file.config_file(Path.cwd()), *stack.context())


def _memory(stack: Stack) -> Iterator[Figure]:
    # Each part needs a while to come to rest. Pages that its processes share count once for each of them.
    time.sleep(10)
    for part in stack.status():
        yield figure(f"memory at rest, {part.name}", part.rss_bytes / 2**20, "MiB RSS")


def _first_step(folder: Path) -> float:
    # Seconds from submitting a training to its first step.
    photos = smooth_photos(folder)
    command = [sys.executable, "-m", "jobs.cli"]
    # The training needs a dataset on the stack's store.
    pack = [*command, "data", "pack", str(photos), "bench", "--context", "stack", "--parallel", "0"]
    subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
    start = time.monotonic()
    submit_train = [*command, "submit", "--context", "stack", "train", "demo", *_TRAIN]
    with subprocess.Popen(submit_train, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as submitted:
        lines, took_s = [], None
        # The log is read to its end, so that the job's exit status is known.
        for line in submitted.stdout or ():
            lines.append(line)
            if took_s is None and re.search(r"step \d+/3", line):
                took_s = time.monotonic() - start
    if submitted.returncode != 0 or took_s is None:
        raise RunFailed(f"the job ended with {submitted.returncode}: {''.join(lines)[-800:]}")
    return took_s


def _queue(stack: Stack, count: int, empty: Path) -> Iterator[Figure]:
    # Submits `count` jobs; measures their order and the head's memory.
    context = resolve("stack")
    context.activate()
    connection = client.connect(context)
    places = int(status.cluster_resources(connection).drivers)
    job: dict[str, Any] = {
        "entrypoint": f"{sys.executable} -c 'import time; print(\"began\", time.time())'",
        "packages": [],
        "working_dir": empty,
        "environment": {},
        "again": False,
    }
    memory = [_head_mib(stack)]
    start = time.monotonic()
    # The same work under as many names: jobs are told apart by them.
    names = [submit(context, ["bench", f"{number:04d}"], **job)[0] for number in range(count)]
    submitted_s = time.monotonic() - start
    while any(not state.is_over for state in status.job_states(connection) if state.job in names):
        # A queue that stands still must not hold the bench forever: a minute for each job is plenty.
        if time.monotonic() - start > 60 + 60 * count:
            break
        memory.append(_head_mib(stack))
        time.sleep(2)
    ended_s = time.monotonic() - start
    # The last drivers' processes end a moment after their jobs.
    time.sleep(10)
    growth = _head_mib(stack) - memory[0]
    statuses = {state.job: state.status for state in status.job_states(connection)}
    lost_jobs = [name for name in names if statuses.get(name) != "SUCCEEDED"]
    starts = [_start_time(connection.get_job_logs(name)) for name in names if name not in lost_jobs]
    yield figure("jobs in the line", count, "jobs")
    yield figure("of them lost or failed", len(lost_jobs), "jobs", 0)
    yield figure("places for drivers", places, "drivers")
    yield figure("began before one that many or more ahead", _overtakings(starts, places), "jobs", 0)
    yield figure("began before any earlier one", _overtakings(starts, 1), "jobs")
    yield figure("accepting a job", submitted_s / count, "s/job")
    yield figure("a job, while others wait", ended_s / count, "s/job")
    yield figure("the head's memory before", memory[0], "MiB RSS")
    yield figure("the head's memory, at most", max(memory), "MiB RSS")
    yield figure("the head's memory, growth over the queue", growth, "MiB RSS")
    # The first half holds the growth of a head that has just started.
    yield figure("the head's memory, slope in the second half", slope(memory[len(memory) // 2 :]), "MiB/2 s")


def _head_mib(stack: Stack) -> float:
    return next(part.rss_bytes for part in stack.status() if part.name == "head") / 2**20


def _start_time(log: str) -> float:
    match = re.search(r"began ([\d.]+)", log)
    return float(match.group(1)) if match else 0.0


def _overtakings(starts: Sequence[float], places: int) -> int:
    # Number of starts before a job `places` or more ahead.
    # As many jobs as there are places start beside each other, so fewer than that apart they may change order.
    latest, count = 0.0, 0
    for number in range(places, len(starts)):
        latest = max(latest, starts[number - places])
        count += starts[number] < latest
    return count
