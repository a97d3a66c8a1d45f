"""`isnet bench step`: our training step and our inference against the released code's, on this machine, in turns.

What is compared at each size, from the same weights, on the same pictures and holes, with the whole of Eq. 2:

    step       the reference (jobs/bench/reference.py, eager float32), the same without its waste, ours in float32,
               ours in bfloat16 where the processor computes in it
    curves     the losses of many steps from the same start, so that speed is not bought with another result
    memory     peak of a process that does nothing else
    inference  one picture: the reference in evaluation mode, ours with spectral norm folded, and prepared for a CPU

On a GPU ours runs in bfloat16, channels_last and compiled as well, and the achieved arithmetic is told.
Not covered: data, ranks, records (they are not part of a step).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from isnet.inference.fast_conv import prepare_for_inference
from isnet.spectral_norm import fold_spectral_norm
from jobs.bench.common import in_turns, machine, median, median_ratio
from jobs.bench.step_memory import peak_mib
from jobs.bench.step_ways import LEAN, REFERENCE, Case, Step, make_step, our_gan, our_settings, reference_step
from jobs.cli.main import emit
from trainplane.errors import UserError

# A tenth of the released rate: at that itself the first steps leap, and any rounding becomes another curve. The lean
# reference differs from the reference in rounding and D's singular vectors alone; its distance is the yardstick.
CURVE_RATE = 1e-5
CURVE_TERMS = ("l1", "perceptual", "style", "feature_matching", "discriminator")


def step(args: argparse.Namespace) -> int:
    """`isnet bench step`."""
    device = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch sees no GPU here; leave --device out to measure on the CPU")
    sizes = _sizes(args.sizes)
    cases = [Case(size, args.batch or default_batch(size, device), args.blocks, device) for size in sizes]
    report: dict[str, Any] = {"machine": machine(), "blocks": args.blocks, "device": device, "sizes": []}
    if args.curve_steps:
        # Small batches: what is compared is arithmetic, not time.
        report["curves"] = curves(dataclasses.replace(cases[0], batch=2), steps=args.curve_steps)
    report["sizes"] = [measured(case, rounds=args.rounds) for case in cases]
    emit(args, report, _text(report))
    return 0


def _sizes(text: str) -> list[int]:
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UserError(f"--sizes {text!r}: need pixels separated by commas, such as 64,128,256") from error
    if bad := [size for size in sizes if size < 32 or size % 16]:
        raise UserError(f"--sizes: {bad[0]} px; need multiples of 16 from 32")
    return sizes


def default_batch(size: int, device: str) -> int:
    """The released default on a GPU; on a CPU about as many pixels at every size, at least two pictures."""
    return 8 if device == "cuda" or size <= 64 else 4 if size <= 128 else 2


def measured(case: Case, *, rounds: int) -> dict[str, Any]:
    """All figures of one size. Times are medians in seconds; `faster` and `memory` are relative to the reference.

    `…_cpu` compares processor time, which other programs on a shared machine blur less.
    """
    ways = [REFERENCE, LEAN, *our_settings(case.device)]
    steps = in_turns({way: _finished(make_step(case, way), case) for way in ways}, rounds=rounds)
    memory = {way: peak_mib(case, way) for way in ways if way != LEAN}
    # Milliseconds each: many more rounds than of a step.
    inference = in_turns(_inference_ways(case), rounds=8 * rounds, warmup=3)
    row: dict[str, Any] = {
        "size": case.size,
        "batch": case.batch,
        "step_s": {way: median(taken) for way, taken in steps.items()},
        "faster": {way: median_ratio(steps[REFERENCE], taken) for way, taken in steps.items()},
        "faster_cpu": {way: median_ratio(steps[REFERENCE], taken, clock="cpu") for way, taken in steps.items()},
        "memory_mib": memory,
        "memory": {way: peak / memory[REFERENCE] for way, peak in memory.items()},
        "inference_s": {way: median(taken) for way, taken in inference.items()},
        "inference_faster": {way: median_ratio(inference[REFERENCE], taken) for way, taken in inference.items()},
        "inference_faster_cpu": {
            way: median_ratio(inference[REFERENCE], taken, clock="cpu") for way, taken in inference.items()
        },
    }
    if case.device == "cuda":
        work = _operations(case)
        row["tflops"] = {way: work / median(taken) / 1e12 for way, taken in steps.items() if way != REFERENCE}
    return row


def _finished(step: Step, case: Case) -> Callable[[], None]:
    """A step whose time includes the work that it left on a GPU."""
    pictures = iter(range(10**9))

    def run() -> None:
        step(next(pictures))
        if case.device == "cuda":
            torch.cuda.synchronize()

    return run


def _operations(case: Case) -> float:
    """Multiplications and additions of one of our steps, counted by torch."""
    step = make_step(case, "fp32")
    with FlopCounterMode(display=False) as counter:
        step(0)
    return float(counter.get_total_flops())


def _inference_ways(case: Case) -> dict[str, Callable[[], None]]:
    network = our_gan(case).generator.eval()
    networks: dict[str, torch.nn.Module] = {
        REFERENCE: reference_step(case).generator.eval(),
        "folded": fold_spectral_norm(network),
        "prepared": prepare_for_inference(network),
    }
    image, mask = (part[:1] for part in case.pictures(0))

    @torch.no_grad()
    def run(network: torch.nn.Module) -> None:
        network(image, mask)
        if case.device == "cuda":
            torch.cuda.synchronize()

    return {name: functools.partial(run, network) for name, network in networks.items()}


def curves(case: Case, *, steps: int) -> dict[str, Any]:
    """Every way trained from the same start on the same pictures: each term at the first and over the last steps, and
    the largest distance of its curve from the reference's, as a share of what the reference's curve spans."""
    ways = {way: make_step(case, way, rate=CURVE_RATE) for way in (REFERENCE, LEAN, *our_settings(case.device))}
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number in range(steps):
        for way, one in ways.items():
            # Few batches, seen again and again, so that the losses fall.
            taken[way].append({name: float(value) for name, value in one(number % 4).items()})
    reference = taken[REFERENCE]
    return {
        "size": case.size,
        "steps": steps,
        "terms": {term: {way: _curve(term, rows, reference) for way, rows in taken.items()} for term in CURVE_TERMS},
    }


def _curve(term: str, rows: list[dict[str, float]], reference: list[dict[str, float]]) -> dict[str, float]:
    values, expected = _column(rows, term), _column(reference, term)
    last = max(1, len(rows) // 5)
    span = (expected.max() - expected.min()).clamp_min(1e-12)
    return {
        "first": float(values[0]),
        "last": float(values[-last:].mean()),
        "distance": float((values - expected).abs().max() / span),
    }


def _column(rows: list[dict[str, float]], term: str) -> Tensor:
    return torch.tensor([row[term] for row in rows], dtype=torch.float64)


def _text(report: dict[str, Any]) -> str:
    where = report["machine"]
    lines = [f"{where['processor']}, {where['threads']} threads, load {where['load_1min']}, torch {where['torch']}"]
    for row in report["sizes"]:
        lines += ["", f"{row['size']} px, batch {row['batch']}"]
        lines += [f"  {'step':32} {'seconds':>8} {'faster':>8} {'by CPU':>8} {'MiB':>8} {'memory':>8}"]
        for way, seconds in row["step_s"].items():
            memory = f"{row['memory_mib'][way]:8.0f} {row['memory'][way]:7.2f}×" if way in row["memory"] else ""
            lines.append(
                f"  {way:32} {seconds:8.2f} {row['faster'][way]:7.2f}× {row['faster_cpu'][way]:7.2f}× {memory}".rstrip()
            )
        lines += [f"  {'inference, one picture':32} {'ms':>8} {'faster':>8} {'by CPU':>8}"]
        for way, seconds in row["inference_s"].items():
            faster, by_cpu = row["inference_faster"][way], row["inference_faster_cpu"][way]
            lines.append(f"  {way:32} {1000 * seconds:8.1f} {faster:7.2f}× {by_cpu:7.2f}×")
        lines += [f"  {way:32} {value:8.1f} TFLOP/s" for way, value in row.get("tflops", {}).items()]
    if "curves" in report:
        lines += ["", f"losses over {report['curves']['steps']} steps at {report['curves']['size']} px"]
        lines += [f"  {'term':18} {'way':24} {'first':>10} {'last':>10} {'distance':>9}"]
        for term, ways in report["curves"]["terms"].items():
            for way, found in ways.items():
                lines.append(
                    f"  {term:18} {way:24} {found['first']:10.5f} {found['last']:10.5f} {100 * found['distance']:8.1f}%"
                )
    return "\n".join(lines)
