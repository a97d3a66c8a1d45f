"""`isnet bench loader`: our loader against peers and bare decoding.

    isnet bench loader --json --photos DIR --mds-python PATH

Every reader is a separate process that reads the same pictures, each in its own packing, from one S3 server (the
bench's own on loopback, or with `--store s3://BUCKET/PREFIX` the one that AWS_ENDPOINT_URL names), makes the same
crop of them, and measures itself; the readers take turns. Peers run twice: as they come, and with our decoder.
Reported for each set of pictures and number of workers: pictures per second, pictures per processor second of the
reading processes, the ratio to the best peer, the ratio to bare decoding of the same bytes in memory, and the time to
the first batch at the start and in the middle of an epoch. Not covered: several machines; training.
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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from jobs.bench.common import Figure, figure, figures_text, median_quotient, report
from jobs.bench.loader_sets import SIZE, PictureSet, environment, pack_for_peer, pack_for_us, photo_sets, synthetic_sets
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
OUR_DECODER = " with our decoder"

# Measurements by reader and kind, round after round. Kinds: "0", "1", "2" workers, "start", "middle".
Runs: TypeAlias = dict[str, dict[str, list[dict[str, float]]]]


class Reader:
    """Running process of a reader program."""

    def __init__(self, python: str, module: str, spec: Mapping[str, Any], log: Path) -> None:
        self._log = log
        command = [python, "-m", f"jobs.bench.readers.{module}", json.dumps(spec)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with open(log, "ab") as errors:
            self._process = subprocess.Popen(command, stderr=errors, env=environment(), **pipes)
        # The first line is not an answer, but the reader's versions.
        self.facts = self._answer()

    def measure(self, **request: int) -> dict[str, float]:
        """Sends one request of serving.py, and returns its answer."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        """Ends the process; kills it after 20 seconds."""
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
        # A closed pipe: the reason is at the end of the log.
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
        sets = [pictures for pictures in sets if pictures.name in args.only.split(",")]
    # Checked before anything is packed, which takes minutes.
    for pictures in sets:
        check_enough(pictures.name, args.pictures, samples=pictures.samples, sample_bytes=pictures.mean_bytes)
    left_out: dict[str, str] = {}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="isnet-bench-")))
        bucket = stack.enter_context(_store(args.store, scratch))
        for pictures in sets:
            rows.append(_measured_set(pictures, args, scratch, bucket, left_out))
            print(_text_of_set(rows[-1]), file=sys.stderr, flush=True)
    figures = [row for measured in rows for row in _figures(measured)]
    text = "\n".join([figures_text(figures), *(f"left out: {name}: {why}" for name, why in left_out.items())])
    settings = {"batch": BATCH, "crop": SIZE, "store": args.store or "a server of its own"}
    report(args, figures, text, **settings, left_out=left_out, sets=rows)
    return 0


@contextmanager
def _store(address: str | None, scratch: Path) -> Iterator[str]:
    # Yields the address below which the sets are packed.
    if address is None:
        with local_s3(log=scratch / "s3.log") as variables, with_variables(variables):
            ensure_bucket(LOCAL_BUCKET)
            yield LOCAL_BUCKET
        return
    # A separate prefix, so that emptying it afterwards deletes nothing else.
    store = open_store(address).child(f"isnet-bench-{os.getpid()}")
    try:
        yield store.address
    finally:
        for entry in list(store.list()):
            store.delete(entry.key)


def _measured_set(
    pictures: PictureSet, args: argparse.Namespace, scratch: Path, bucket: str, left_out: dict[str, str]
) -> dict[str, Any]:
    pack_for_us(pictures, bucket)
    # Name: module in jobs/bench/readers, and its own settings.
    programs: dict[str, tuple[str, dict[str, Any]]] = {
        "ours": ("ours", {}),
        "webdataset": ("tars", {}),
        f"webdataset{OUR_DECODER}": ("tars", {"decoder": "ours"}),
        "bare": ("bare", {}),
        "ours, training": ("ours", {"train": True}),
        "bare, training": ("bare", {"train": True}),
    }
    pythons = {"mds": args.mds_python or sys.executable}
    # A peer that is not installed or cannot pack is left out, with its reason; the others go on.
    for name, module in (("mosaicml-streaming", "mds"), ("litdata", "chunks")):
        try:
            pack_for_peer(module, pythons.get(module, sys.executable), pictures, bucket, scratch)
            programs |= {name: (module, {}), f"{name}{OUR_DECODER}": (module, {"decoder": "ours"})}
        except RunFailed as error:
            left_out[name] = str(error)
    sizes = {"size": SIZE, "resize": pictures.resize, "train_resize": TRAIN_RESIZE, "batch": BATCH, "seed": 10}
    spec = {**pictures.places, **sizes}
    with ExitStack() as stack:
        readers: dict[str, Reader] = {}
        for name, (module, settings) in programs.items():
            try:
                python, log = pythons.get(module, sys.executable), scratch / f"{module}.log"
                readers[name] = Reader(python, module, {**spec, **settings}, log)
                stack.callback(readers[name].close)
            except RunFailed as error:
                left_out[name] = str(error)
        runs, ended = _in_turns(readers, args, samples=pictures.samples, sample_bytes=pictures.mean_bytes)
        left_out |= {f"{name} on {pictures.name}": why for name, why in ended.items()}
    return {
        "set": pictures.name,
        "pictures": len(pictures.pictures),
        "samples": pictures.samples,
        "mean_bytes": pictures.mean_bytes,
        "resize": pictures.resize,
        "whole_windows": measured_batches(args.pictures, samples=pictures.samples, sample_bytes=pictures.mean_bytes)[1],
        "versions": {name: reader.facts for name, reader in readers.items() if reader.facts},
        "readers": {name: _medians(measured) for name, measured in runs.items()},
        **_ratios(runs),
    }


def _in_turns(
    readers: Mapping[str, Reader], args: argparse.Namespace, *, samples: int, sample_bytes: int
) -> tuple[Runs, dict[str, str]]:
    # Lets the readers measure themselves in turns, `--rounds` times.
    # Returns their runs, and the peers whose readers failed with the reason; nothing of these is in the runs.
    runs: Runs = {name: {} for name in readers}
    ended: dict[str, str] = {}
    batches, _ = measured_batches(args.pictures, samples=samples, sample_bytes=sample_bytes)
    # A rate of a running stream from the start, and the first batch from the middle of an epoch.
    steady = {"warmup": WARMUP, "batches": batches, "start": 0}
    middle = {"warmup": 1, "batches": 1, "start": samples // 2 // BATCH * BATCH}

    def turn(name: str, requests: Mapping[str, dict[str, int]], *, record: bool) -> None:
        try:
            for kind, request in requests.items():
                measured = readers[name].measure(**request)
                if record:
                    runs[name].setdefault(kind, []).append(measured)
        except RunFailed as error:
            # Without ours there is nothing to compare; a peer may fail.
            if name.removesuffix(OUR_DECODER) not in PEERS:
                raise
            ended[name] = str(error)
            del runs[name]

    for name in readers:
        # Once unrecorded: what a process does once in its life is no part of a rate.
        first = middle | {"start": 0, "workers": 0 if name.startswith("bare") else 1}
        turn(name, {"first": first}, record=False)
    for number in range(args.rounds):
        # Every second round in reverse order, so that a drift of the load falls on all alike.
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            turn(name, _requests(name, steady, middle), record=True)
    if not runs.keys() & set(PEERS):
        raise RunFailed(f"no peer could be measured: {ended}; install some by the extra `bench`")
    return runs, ended


def check_enough(name: str, pictures: int, *, samples: int, sample_bytes: int) -> None:
    """Refuses a set that is too short to measure."""
    needed = BATCH * (WARMUP + measured_batches(pictures, samples=samples, sample_bytes=sample_bytes)[0])
    if needed > samples:
        raise UserError(
            f"set {name} has {samples} samples, and warming up and measuring take {needed}; "
            "give more --samples (of large pictures there are a quarter), or fewer --pictures"
        )


def measured_batches(pictures: int, *, samples: int, sample_bytes: int) -> tuple[int, bool]:
    """Batches for about `pictures`, and whether they fill whole windows.

    Our loader requests a window of its order at once, so only whole windows hold their share of requests. The number is
    rounded up to them where an epoch has room.
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
    # The time to a first batch at the start and in mid epoch.
    if name in ("ours", *PEERS):
        requests |= {"start": middle | {"workers": 1, "start": 0}, "middle": middle | {"workers": 1}}
    return requests


def _medians(measured: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    row: dict[str, Any] = {
        kind: {
            f"pictures_per_{unit}": statistics.median(run["pictures"] / run[clock] for run in runs)
            for unit, clock in (("s", "wall_s"), ("cpu_s", "cpu_s"))
        }
        for kind, runs in measured.items()
        if kind.isdigit()
    }
    if "middle" in measured:
        start, middle = ([run["first_batch_s"] for run in measured[kind]] for kind in ("start", "middle"))
        row["resume"] = {
            "start_s": statistics.median(start),
            "middle_s": statistics.median(middle),
            "ratio": median_quotient(middle, start),
        }
    return row


def _ratios(runs: Runs) -> dict[str, Any]:
    # Medians of our rates to others' of the same round.
    def rates(name: str, kind: str, clock: str) -> list[float]:
        return [run["pictures"] / run[clock] for run in runs[name][kind]]

    def best_of(peers: list[str], kind: str, clock: str) -> list[float]:
        return [max(values) for values in zip(*(rates(name, kind, clock) for name in peers), strict=True)]

    # Only those that were measured to the end.
    as_they_come = [name for name in PEERS if name in runs]
    groups = {
        "to_best_peer": as_they_come + [name for name in runs if name.endswith(OUR_DECODER)],
        "to_best_peer_as_it_comes": as_they_come,
    }
    ratios: dict[str, Any] = {}
    # To the best of each round; the first group has the best decoder that each can have.
    for kind, clock in itertools.product(("1", "2"), ("wall", "cpu")):
        for name, peers in groups.items():
            if peers:
                quotient = median_quotient(rates("ours", kind, f"{clock}_s"), best_of(peers, kind, f"{clock}_s"))
                ratios.setdefault(name, {})[f"{kind} {clock}"] = quotient
    # To bare decoding, by processor time: several workers use more than one processor, bare decoding uses one.
    for kind in ("0", "1", "2"):
        for name, view in (("to_bare", ""), ("to_bare_training", ", training")):
            ours, bare = rates(f"ours{view}", kind, "cpu_s"), rates(f"bare{view}", "0", "cpu_s")
            ratios.setdefault(name, {})[kind] = median_quotient(ours, bare)
    return ratios


def _figures(row: dict[str, Any]) -> Iterator[Figure]:
    for key, value in row["to_best_peer"].items():
        name = f"{row['set']}: to the best peer with the best decoder, {key}"
        yield figure(name, value, "ratio", 1.2, met=value >= 1.2)
    for key, value in row.get("to_best_peer_as_it_comes", {}).items():
        yield figure(f"{row['set']}: to the best peer as it comes, {key}", value, "ratio")
    for kind in ("to_bare", "to_bare_training"):
        for workers, value in row[kind].items():
            name = f"{row['set']}: {kind.replace('_', ' ')}, {workers} workers, cpu"
            yield figure(name, value, "ratio", 0.9, met=value >= 0.9)
    resume = row["readers"]["ours"]["resume"]["ratio"]
    yield figure(f"{row['set']}: first batch in mid epoch to that at the start", resume, "ratio", 1.2)


def _text_of_set(row: dict[str, Any]) -> str:
    lines = [f"{row['set']}: {row['pictures']} pictures of {row['mean_bytes']} bytes, {row['samples']} samples"]
    if not row["whole_windows"]:
        lines.append("  measured within a window: the requests of ours are mostly before; take more --samples")
    for name, kinds in row["readers"].items():
        parts = [
            f"{kind}: {rates['pictures_per_s']:.0f}/s {rates['pictures_per_cpu_s']:.0f}/cpu-s"
            for kind, rates in kinds.items()
            if kind != "resume"
        ]
        if "resume" in kinds:
            parts.append(f"first batch {kinds['resume']['start_s']:.2f} s, mid {kinds['resume']['middle_s']:.2f} s")
        lines.append(f"  {name:28s} {'; '.join(parts)}")
    return "\n".join(lines)
