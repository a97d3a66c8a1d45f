"""`isnet bench loader`: our loader against its peers and against bare decoding, on this machine.

    isnet bench loader --json --photos DIR --mds-python PATH

Every reader is a process of its own that reads the same pictures, each in its own packing, from one S3 server (the
bench's own on loopback, or with `--store s3://BUCKET/PREFIX` the one that AWS_ENDPOINT_URL names), makes the same crop
of them with its own decoder, and measures itself; the readers take turns. Told for each set of pictures and number of
workers: pictures per second, pictures per processor second of the reading processes, the ratio to the best peer, the
ratio to bare decoding of the same bytes in memory, and the time to the first batch at the start and in the middle of
an epoch. Not covered: several machines; training.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from jobs.bench.common import machine
from jobs.bench.loader_sets import (
    SIZE,
    PictureSet,
    environment,
    pack_for_peer,
    pack_for_us,
    photo_sets,
    synthetic_sets,
)
from jobs.cli.main import emit
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.data.order import Order
from trainplane.environ import with_variables
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.storage import ensure_bucket, open_store

LOCAL_BUCKET = "s3://bench"
BATCH = 32
WARMUP = 8  # batches
TRAIN_RESIZE = 288
PEERS = ("webdataset", "mosaicml-streaming", "litdata")

Runs: TypeAlias = dict[str, dict[str, list[dict[str, float]]]]
"""What was measured by reader and kind, round after round. Kinds: "0", "1", "2" workers, "start", "middle"."""


@dataclass(frozen=True)
class Way:
    """A reader's program, the interpreter that runs it, and what it is told beside the set."""

    program: str
    python: str
    options: Mapping[str, Any]


class Reader:
    """A reader's process under way."""

    def __init__(self, way: Way, spec: Mapping[str, Any], log: Path) -> None:
        self._log = log
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(
                [way.python, "-m", f"jobs.bench.readers.{way.program}", json.dumps({**spec, **way.options})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment(),
            )
        self.facts = self._answer()

    def measure(self, **request: int) -> dict[str, float]:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            text = self._log.read_text(errors="replace").strip()
            raise RunFailed(f"a reader ended: {error_line(text, last=True)}")
        return dict(json.loads(line))


def loader(args: argparse.Namespace) -> int:
    """`isnet bench loader`."""
    if args.store and not (args.store.startswith("s3://") and "AWS_ENDPOINT_URL" in os.environ):
        raise UserError(
            f"--store {args.store}: need s3://BUCKET or s3://BUCKET/PREFIX on the server that AWS_ENDPOINT_URL names; "
            "set it, or leave --store out for a server of the bench's own"
        )
    sets = synthetic_sets(samples=args.samples)
    if args.photos:
        sets = photo_sets(Path(args.photos), samples=args.samples) + sets
    if args.only:
        sets = [one for one in sets if one.name in args.only.split(",")]
    for one in sets:
        check_enough(one.name, args.pictures, samples=one.samples, sample_bytes=one.mean_bytes)
    report: dict[str, Any] = {"machine": machine(), "batch": BATCH, "crop": SIZE, "left_out": {}, "sets": []}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isnet-bench-")))
        bucket = stack.enter_context(_store(args.store, scratch))
        report["store"] = args.store or "a server of its own"
        for pictures in sets:
            row = _measured_set(pictures, args, scratch, bucket, report["left_out"])
            report["sets"].append(row)
            print(_text_of_set(row), file=sys.stderr, flush=True)
    report["figures"] = [figure for row in report["sets"] for figure in _figures(row)]
    emit(args, report, _text(report))
    return 0


@contextmanager
def _store(address: str | None, scratch: Path) -> Iterator[str]:
    """Where the sets are packed: below an address of the environment's store, emptied afterwards, or a local server."""
    if address is None:
        with local_s3(log=scratch / "s3.log") as variables, with_variables(variables):
            ensure_bucket(LOCAL_BUCKET)
            yield LOCAL_BUCKET
        return
    # A place of its own, so that emptying it afterwards takes nothing else.
    place = open_store(address).child(f"isnet-bench-{os.getpid()}")
    try:
        yield place.address
    finally:
        for entry in list(place.list()):
            place.delete(entry.key)


def _measured_set(
    pictures: PictureSet, args: argparse.Namespace, scratch: Path, bucket: str, left_out: dict[str, str]
) -> dict[str, Any]:
    ours, mds = sys.executable, args.mds_python or sys.executable
    pack_for_us(pictures, bucket)
    ways = {
        "ours": Way("ours", ours, {}),
        "webdataset": Way("tars", ours, {}),
        "webdataset with our decoder": Way("tars", ours, {"decoder": "ours"}),
        "bare": Way("bare", ours, {}),
        "ours, training": Way("ours", ours, {"train": True}),
        "bare, training": Way("bare", ours, {"train": True}),
    }
    for name, program, python in (("mosaicml-streaming", "mds", mds), ("litdata", "chunks", ours)):
        try:
            pack_for_peer(program, python, pictures, bucket, scratch)
            ways[name] = Way(program, python, {})
        except RunFailed as error:
            left_out[name] = str(error)
    spec = {
        **pictures.places,
        "size": SIZE,
        "resize": pictures.resize,
        "train_resize": TRAIN_RESIZE,
        "batch": BATCH,
        "seed": 10,
    }
    with ExitStack() as stack:
        readers: dict[str, Reader] = {}
        for name, way in ways.items():
            try:
                readers[name] = Reader(way, spec, scratch / f"{way.program}.log")
                stack.callback(readers[name].close)
            except RunFailed as error:
                left_out[name] = str(error)
        runs, ended = _in_turns(readers, args, samples=pictures.samples, sample_bytes=pictures.mean_bytes)
        left_out |= {f"{name} on {pictures.name}": why for name, why in ended.items()}
    rows = {name: _row(taken) for name, taken in runs.items()}
    return {
        "set": pictures.name,
        "pictures": len(pictures.pictures),
        "samples": pictures.samples,
        "mean_bytes": pictures.mean_bytes,
        "resize": pictures.resize,
        "whole_windows": measured_batches(args.pictures, samples=pictures.samples, sample_bytes=pictures.mean_bytes)[1],
        "versions": {name: reader.facts for name, reader in readers.items() if reader.facts},
        "readers": rows,
        **_ratios(runs),
    }


def _in_turns(
    readers: Mapping[str, Reader], args: argparse.Namespace, *, samples: int, sample_bytes: int
) -> tuple[Runs, dict[str, str]]:
    """Let the readers measure themselves in turns, every second round in reverse order.

    Gives also the peers whose readers failed on the way, and why; nothing of them is among the runs.
    """
    runs: Runs = {name: {} for name in readers}
    ended: dict[str, str] = {}
    batches, _ = measured_batches(args.pictures, samples=samples, sample_bytes=sample_bytes)
    steady = {"warmup": WARMUP, "batches": batches, "start": 0}
    middle = {"warmup": 1, "batches": 1, "start": samples // 2 // BATCH * BATCH}

    def turn(name: str, requests: Mapping[str, dict[str, int]], *, record: bool) -> None:
        try:
            for kind, request in requests.items():
                taken = readers[name].measure(**request)
                if record:
                    runs[name].setdefault(kind, []).append(taken)
        except RunFailed as error:
            if name not in PEERS:
                raise
            ended[name] = str(error)
            del runs[name]

    for name in readers:
        # Once unrecorded: what a process does once in its life is no part of a rate.
        first = middle | {"start": 0, "workers": 0 if name.startswith("bare") else 1}
        turn(name, {"first": first}, record=False)
    for number in range(args.rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            turn(name, _requests(name, steady, middle), record=True)
    if not runs.keys() & set(PEERS):
        raise RunFailed(f"no peer could be measured: {ended}; install some by the extra `bench`")
    return runs, ended


def check_enough(name: str, pictures: int, *, samples: int, sample_bytes: int) -> None:
    """A `UserError` where an epoch of the set ends before a reader has warmed up and been measured."""
    needed = BATCH * (WARMUP + measured_batches(pictures, samples=samples, sample_bytes=sample_bytes)[0])
    if needed > samples:
        raise UserError(
            f"set {name} has {samples} samples, and warming up and measuring take {needed}; "
            "give more --samples (of large pictures there are a quarter), or fewer --pictures"
        )


def measured_batches(pictures: int, *, samples: int, sample_bytes: int) -> tuple[int, bool]:
    """Batches to measure for about so many pictures, and whether they are whole windows of our order.

    What is measured after a warm-up has its share of requests where it is as long as windows are. It is made so where
    an epoch has room for it.
    """
    order = Order(
        digest="", shard_sizes=[max(samples, BATCH)], seed=0, global_batch=BATCH, sample_bytes=max(1, sample_bytes)
    )
    whole = -(-pictures // (BATCH * order.window)) * order.window
    if WARMUP + whole <= order.steps_per_epoch:
        return whole, True
    return max(4, pictures // BATCH), False


def _requests(name: str, steady: dict[str, int], middle: dict[str, int]) -> dict[str, dict[str, int]]:
    if name.startswith("bare"):
        return {"0": steady | {"workers": 0}}
    counts = (0, 1, 2) if name.startswith("ours") else (1, 2)
    requests = {str(workers): steady | {"workers": workers} for workers in counts}
    if name in ("ours", *PEERS):
        requests |= {"start": middle | {"workers": 1, "start": 0}, "middle": middle | {"workers": 1}}
    return requests


def _row(taken: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians over the rounds."""
    row: dict[str, Any] = {
        kind: {
            f"pictures_per_{unit}": statistics.median(run["pictures"] / run[clock] for run in runs)
            for unit, clock in (("s", "wall_s"), ("cpu_s", "cpu_s"))
        }
        for kind, runs in taken.items()
        if kind.isdigit()
    }
    if "middle" in taken:
        start, middle = ([run["first_batch_s"] for run in taken[kind]] for kind in ("start", "middle"))
        row["resume"] = {
            "start_s": statistics.median(start),
            "middle_s": statistics.median(middle),
            "ratio": _median_ratio(middle, start),
        }
    return row


def _ratios(runs: Runs) -> dict[str, Any]:
    """Medians over the rounds of ours to others: what is divided was measured in the same round."""

    def rates(name: str, kind: str, clock: str) -> list[float]:
        return [run["pictures"] / run[clock] for run in runs[name][kind]]

    peers = [name for name in PEERS if name in runs]

    def best_peer(kind: str, clock: str) -> list[float]:
        return [max(values) for values in zip(*(rates(name, kind, clock) for name in peers), strict=True)]

    ratios: dict[str, Any] = {}
    for kind, clock in itertools.product(("1", "2"), ("wall", "cpu")):
        ours = rates("ours", kind, f"{clock}_s")
        others = {"to_best_peer": best_peer(kind, f"{clock}_s")}
        others["to_webdataset_with_our_decoder"] = rates("webdataset with our decoder", kind, f"{clock}_s")
        for name, values in others.items():
            ratios.setdefault(name, {})[f"{kind} {clock}"] = _median_ratio(ours, values)
    for kind in ("0", "1", "2"):
        for name, view in (("to_bare", ""), ("to_bare_training", ", training")):
            ours, bare = rates(f"ours{view}", kind, "cpu_s"), rates(f"bare{view}", "0", "cpu_s")
            ratios.setdefault(name, {})[kind] = _median_ratio(ours, bare)
    return ratios


def _median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(of, to, strict=True))


def _figures(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The targets of the loader: {name, value, unit, target, met}."""
    large = row["set"].endswith("-large")
    for key, value in row["to_best_peer"].items():
        yield _figure(f"{row['set']}: to the best peer, {key}", value, 2.0 if large else 1.2)
    for kind in ("to_bare", "to_bare_training"):
        for workers, value in row[kind].items():
            yield _figure(f"{row['set']}: {kind.replace('_', ' ')}, {workers} workers, cpu", value, 0.9)
    resume = row["readers"]["ours"]["resume"]["ratio"]
    yield _figure(f"{row['set']}: first batch in mid epoch to that at the start", resume, 1.2, at_most=True)


def _figure(name: str, value: float, target: float, *, at_most: bool = False) -> dict[str, Any]:
    met = value <= target if at_most else value >= target
    return {"name": name, "value": round(value, 3), "unit": "ratio", "target": target, "met": met}


def _text(report: dict[str, Any]) -> str:
    lines = [
        f"{'met ' if figure['met'] else 'MISS'} {figure['name']}: {figure['value']} (target {figure['target']})"
        for figure in report["figures"]
    ]
    return "\n".join(lines + [f"left out: {name}: {why}" for name, why in report["left_out"].items()])


def _text_of_set(row: dict[str, Any]) -> str:
    lines = [f"{row['set']}: {row['pictures']} pictures of {row['mean_bytes']} bytes, {row['samples']} samples"]
    if not row["whole_windows"]:
        lines.append("  measured within a window: the requests of ours are mostly before; take more --samples")
    for name, kinds in row["readers"].items():
        told = [
            f"{kind}: {one['pictures_per_s']:.0f}/s {one['pictures_per_cpu_s']:.0f}/cpu-s"
            for kind, one in kinds.items()
            if kind != "resume"
        ]
        if "resume" in kinds:
            told.append(f"first batch {kinds['resume']['start_s']:.2f} s, mid {kinds['resume']['middle_s']:.2f} s")
        lines.append(f"  {name:28s} {'; '.join(told)}")
    return "\n".join(lines)
