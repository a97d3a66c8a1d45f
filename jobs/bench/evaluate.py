"""`isnet bench evaluate`: an evaluation against a plain loop.

Both fill the same holes with the same model and measure the same metrics. The loop reads files, one after the other;
the evaluation reads a packed dataset, here or in Ray tasks. Opening the model counts for both, packing for neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from isnet.metrics import Definition, measure
from jobs.api.datasets import pack
from jobs.bench.common import Figure, figure, report, smooth_photos, write_holes
from jobs.evaluation.evaluation import Protocol, make_protocol, measure_model
from jobs.evaluation.models import open_model
from trainplane.cluster.context import Context, resolve

_DEFINITION: Definition = "isnet"


def evaluate(args: argparse.Namespace) -> int:
    """`isnet bench evaluate`."""
    context = resolve(args.context)
    context.activate()
    sizes = {"pictures": args.pictures, "side": args.side, "rounds": args.rounds, "tasks": args.tasks}
    return report(args, compare(args.model, context, **sizes))


def compare(address: str, context: Context, *, pictures: int, side: int, rounds: int, tasks: int) -> list[Figure]:
    """Measures both ways in turns."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as name:
        folder = Path(name)
        smooth_photos(folder, count=pictures, height=side, width=side, suffix="jpg")
        write_holes(folder / "masks", pictures, side)
        pack(folder / "photos", str(folder / "packed"), context=context)
        pack(folder / "masks", str(folder / "packed-masks"), kind="masks", context=context)
        protocol = make_protocol(
            context, str(folder / "packed"), masks=str(folder / "packed-masks"), size=side, definition=_DEFINITION
        )
        ratios, rates = [], []
        for _ in range(rounds):
            loop = _loop(address, context, folder)
            evaluation = _evaluation(address, context, protocol, tasks)
            rates.append((pictures / loop, pictures / evaluation))
            ratios.append(loop / evaluation)
    loop_rate, evaluation_rate = map(statistics.median, zip(*rates, strict=True))
    target = 1.7 if tasks > 1 else 0.9
    ratio = statistics.median(ratios)
    return [
        figure("plain loop", loop_rate, "pictures/s"),
        figure(f"evaluation, {tasks or 'no'} Ray tasks", evaluation_rate, "pictures/s"),
        figure("evaluation against the plain loop", ratio, "times its rate", target, met=ratio >= target),
    ]


def _loop(address: str, context: Context, folder: Path) -> float:
    """Runs a loop as a user would write it; seconds."""
    start = time.perf_counter()
    model = open_model(address, context)
    for path in sorted((folder / "photos").iterdir()):
        with Image.open(path) as photo, Image.open(folder / "masks" / f"{path.stem}.png") as mask:
            truth_HW3 = np.asarray(photo.convert("RGB"), np.float32) / np.float32(255)
            hole_HW = np.asarray(mask.convert("L")) > 127
        predicted_HW3 = model.filler.predict(truth_HW3, hole_HW)
        pred_13HW, truth_13HW = (
            torch.from_numpy(rgb_HW3.transpose(2, 0, 1))[None] for rgb_HW3 in (predicted_HW3, truth_HW3)
        )
        mask_11HW = torch.from_numpy(~hole_HW)[None, None].float()
        measure(pred_13HW, truth_13HW, mask_11HW, definition=_DEFINITION)
    return time.perf_counter() - start


def _evaluation(address: str, context: Context, protocol: Protocol, tasks: int) -> float:
    start = time.perf_counter()
    measure_model(open_model(address, context), protocol, context=context, tasks=tasks)
    return time.perf_counter() - start
