"""`isnet bench serve`: registered model against checkpoint, job against loop.

Cold load to the first picture: a fresh process that opens the model and fills one picture, registered version and
checkpoint in turns, both on this machine's disk. Batch: the same pictures through `inpaint_batch` and through a plain
loop over the same opened model. The imports come before every cold figure and are reported beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from isnet.images.save import encode_photo
from isnet.inpaint import inpaint
from jobs.bench.common import Figure, figure, median_quotient, report, results_in_turns, smooth_photos, write_holes
from jobs.evaluation.models import open_model
from jobs.inference import batch as inpaint_batch
from jobs.inference.planning import Options, plan
from trainplane.cluster.context import Context, resolve
from trainplane.errors import RunFailed

# The program of a fresh process; prints the seconds of imports and of loading with one picture.
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
    """`isnet bench serve`."""
    context = resolve(args.context)
    # The fresh processes get the context by its name.
    context.activate()
    figures = [*cold(args.model, args.run, context.name, rounds=args.rounds), *batch(args.model, context, args)]
    return report(args, figures)


def cold(model: str, run: str, context: str, *, rounds: int) -> list[Figure]:
    """Measures the seconds from imports to the first picture."""
    # The warm-up fills the disk's cache, and that of registered models.
    ways = {address: partial(_cold, address, context) for address in (model, run)}
    seconds = results_in_turns(ways, rounds=rounds, warmup=1)
    imports = statistics.median(import_s for runs in seconds.values() for import_s, _ in runs)
    registered, checkpoint = ([load_s for _, load_s in seconds[address]] for address in (model, run))
    ratio = median_quotient(registered, checkpoint)
    return [
        figure("registered model, cold, to the first picture", statistics.median(registered), "s"),
        figure("training checkpoint, cold, to the first picture", statistics.median(checkpoint), "s"),
        figure("registered against checkpoint", ratio, "of its time", target=1.0, met=ratio < 1.0),
        figure("imports before either", imports, "s"),
    ]


def _cold(address: str, context: str) -> tuple[float, float]:
    command = [sys.executable, "-c", _COLD, address, context]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{address} cannot be opened in a fresh process: {done.stderr.strip()[-500:]}")
    import_s, load_s = json.loads(done.stdout.strip().splitlines()[-1])
    return import_s, load_s


def batch(address: str, context: Context, args: argparse.Namespace) -> list[Figure]:
    """Measures a job and a loop over the same files."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name:
        folder = Path(name)
        smooth_photos(folder, count=args.pictures, height=args.side, width=args.side, suffix="jpg")
        write_holes(folder / "masks", args.pictures, args.side)
        # Both write to fresh folders, so that nothing is skipped as done.
        ratios, rates = [], []
        for turn in range(args.rounds):
            loop = _loop(address, context, folder, folder / f"loop-{turn}")
            job = _job(address, context, folder, folder / f"job-{turn}", args.tasks)
            rates.append((args.pictures / loop, args.pictures / job))
            ratios.append(loop / job)
    loop_rate, job_rate = map(statistics.median, zip(*rates, strict=True))
    return [
        figure("plain loop", loop_rate, "pictures/s"),
        figure(f"batch job, {args.tasks or 'no'} Ray tasks", job_rate, "pictures/s"),
        figure("batch job against the plain loop", statistics.median(ratios), "times its rate"),
    ]


def _loop(address: str, context: Context, folder: Path, out: Path) -> float:
    # Written as a user would by hand: open, fill, write, one after the other.
    out.mkdir()
    start = time.perf_counter()
    model = open_model(address, context)
    for path in sorted((folder / "photos").iterdir()):
        result = inpaint(path, folder / "masks" / f"{path.stem}.png", model=model.filler, refine="auto")
        (out / path.name).write_bytes(encode_photo(result.photo, path.suffix)[0])
    return time.perf_counter() - start


def _job(address: str, context: Context, folder: Path, out: Path, tasks: int) -> float:
    start = time.perf_counter()
    folders = (str(folder / "photos"), str(folder / "masks"), str(out))
    job = plan(*folders, model=address, options=Options())
    inpaint_batch.run(job, context, tasks=tasks)
    return time.perf_counter() - start
