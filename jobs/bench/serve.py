"""`isnet bench serve MODEL RUN`: a registered model against its training checkpoint, and a batch job against a loop.

Cold load to the first picture: a fresh process that opens the model and fills one picture, registered version and
checkpoint in turns, both on this machine's disk. Batch: the same pictures through `inpaint_batch` and through a plain
loop over the same opened model. The start of Python and its imports is in every cold figure and told beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from isnet.images.save import encode_photo
from isnet.inpaint import inpaint
from isnet.masks import irregular
from jobs.bench.common import machine
from jobs.cli.main import emit
from jobs.evaluation.models import open_model
from jobs.inference import batch as inpaint_batch
from trainplane.cluster.context import Context, resolve
from trainplane.errors import RunFailed

_COLD = """
import json, sys, time
began = time.perf_counter()
import numpy as np
from jobs.evaluation.models import open_model
from trainplane.cluster.context import resolve
imported = time.perf_counter()
context = resolve(sys.argv[2])
context.activate()
model = open_model(sys.argv[1], context)
hole = np.zeros((256, 256), bool)
hole[96:160, 96:160] = True
model.filler(np.full((256, 256, 3), 90, np.uint8), hole)
print(json.dumps([imported - began, time.perf_counter() - imported]))
"""


def serve(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    figures = [*cold(args.model, args.run, context.name, rounds=args.rounds), *batch(args.model, context, args)]
    lines = [f"{figure['name']}: {figure['value']:.3g} {figure['unit']}" for figure in figures]
    emit(args, {"machine": machine(), "figures": figures}, "\n".join(lines))
    return 1 if any(figure["met"] is False for figure in figures) else 0


def cold(model: str, run: str, context: str, *, rounds: int) -> list[dict[str, Any]]:
    """Seconds from an imported process to the first picture, in turns."""
    taken: dict[str, list[tuple[float, float]]] = {model: [], run: []}
    for turn in range(rounds + 1):
        for address in (model, run) if turn % 2 else (run, model):
            found = _cold(address, context)
            # The first turn fills the disk's cache, and that of registered models.
            if turn:
                taken[address].append(found)
    seconds = {address: statistics.median(one for _, one in found) for address, found in taken.items()}
    ratio = statistics.median(a / b for (_, a), (_, b) in zip(taken[model], taken[run], strict=True))
    imports = statistics.median(one for found in taken.values() for one, _ in found)
    return [
        _figure("registered model, cold, to the first picture", seconds[model], "s"),
        _figure("training checkpoint, cold, to the first picture", seconds[run], "s"),
        _figure("registered against checkpoint", ratio, "of its time", target=1.0, met=ratio < 1.0),
        _figure("imports before either", imports, "s"),
    ]


def _cold(address: str, context: str) -> tuple[float, float]:
    command = [sys.executable, "-c", _COLD, address, context]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{address} cannot be opened in a fresh process: {done.stderr.strip()[-500:]}")
    imports, rest = json.loads(done.stdout.strip().splitlines()[-1])
    return imports, rest


def batch(address: str, context: Context, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Pictures per second of a job and of a loop, over the same files, in turns."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name:
        folder = Path(name)
        _pictures(folder, args.pictures, args.side)
        ratios, rates = [], []
        for turn in range(args.rounds):
            loop = _loop(address, context, folder, folder / f"loop-{turn}")
            job = _job(address, context, folder, folder / f"job-{turn}", args.tasks)
            rates.append((args.pictures / loop, args.pictures / job))
            ratios.append(loop / job)
    return [
        _figure("plain loop", statistics.median(one for one, _ in rates), "pictures/s"),
        _figure(f"batch job, {args.tasks or 'no'} Ray tasks", statistics.median(one for _, one in rates), "pictures/s"),
        _figure("batch job against the plain loop", statistics.median(ratios), "times its rate"),
    ]


def _pictures(folder: Path, count: int, side: int) -> None:
    for place in ("in", "masks"):
        (folder / place).mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:side, 0:side]
    for number in range(count):
        waves = [127 + 120 * np.sin(x * a + y * b) for a, b in rng.uniform(0.01, 0.2, (3, 2))]
        picture = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
        picture.save(folder / "in" / f"{number:05d}.jpg", quality=90)
        hole = irregular(side, side, rng, ratio=(0.2, 0.3))
        Image.fromarray(hole).save(folder / "masks" / f"{number:05d}.png")


def _loop(address: str, context: Context, folder: Path, out: Path) -> float:
    """What somebody would write by hand: open, fill, write, one after the other."""
    out.mkdir()
    began = time.perf_counter()
    model = open_model(address, context)
    for path in sorted((folder / "in").iterdir()):
        result = inpaint(path, folder / "masks" / f"{path.stem}.png", model=model.filler)
        (out / path.name).write_bytes(encode_photo(result.photo, path.suffix)[0])
    return time.perf_counter() - began


def _job(address: str, context: Context, folder: Path, out: Path, tasks: int) -> float:
    began = time.perf_counter()
    places: Sequence[str] = [str(folder / "in"), str(folder / "masks"), str(out)]
    job = inpaint_batch.plan(*places, model=address, options=inpaint_batch.Options())
    inpaint_batch.run(job, context, tasks=tasks)
    return time.perf_counter() - began


def _figure(
    name: str, value: float, unit: str, *, target: float | None = None, met: bool | None = None
) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "target": target, "met": met}
