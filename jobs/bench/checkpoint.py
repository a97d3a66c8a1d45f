"""Measures the training time that a checkpoint costs: `isnet bench checkpoint`.

About two minutes on two quiet cores; `checkpoint_stalls` says how.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median
from typing import Any

from jobs.bench.checkpoint_stalls import stalls
from jobs.bench.common import machine
from jobs.bench.overhead import pictures
from jobs.cli.main import emit
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.data.pack.pack import pack
from trainplane.storage import ensure_bucket

INTERVAL_S = 300.0
MOST = 0.02
BUCKET = "s3://bench-checkpoint"


def checkpoint(args: argparse.Namespace) -> int:
    """`isnet bench checkpoint`."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder, store() as endpoint:
        data = f"{folder}/data"
        pack(pictures(32), data, name="bench", split="train", how={})
        stall = stalls(data, f"{BUCKET}/stalls", endpoint, interval_s=args.interval, count=args.checkpoints)
    figures = _stall_figures(stall)
    emit(args, {"machine": machine(), **stall, "figures": figures}, "\n".join(map(_line, figures)))
    return 1 if any(row["met"] is False for row in figures) else 0


@contextmanager
def store() -> Iterator[str]:
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


def _stall_figures(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    def of(name: str) -> float:
        return float(median(row[name] for row in found["checkpoints"]))

    lost = median(row["stood_still_s"] + row["slowed_s"] for row in found["checkpoints"])
    return [
        _figure("state", found["state_mib"], "MiB"),
        _figure("until it was stored", of("stored_s"), "s"),
        _figure("training stood still for the copy", of("stood_still_s"), "s"),
        _figure("steps took longer while it was on the way, in all", of("slowed_s"), "s"),
        _figure("the same in processor time", of("processor_s"), "s"),
        _figure("time lost, of an interval of five minutes", lost / INTERVAL_S, "share", most=MOST),
    ]


def _figure(name: str, value: float, unit: str, *, most: float | None = None) -> dict[str, Any]:
    met = None if most is None else value <= most
    target = None if most is None else f"≤ {most}"
    return {"name": name, "value": round(value, 4), "unit": unit, "target": target, "met": met}


def _line(figure: Mapping[str, Any]) -> str:
    verdict = "" if figure["met"] is None else f"   {figure['target']}: {'yes' if figure['met'] else 'NO'}"
    return f"{figure['name']:<52} {figure['value']:>10} {figure['unit']}{verdict}"
