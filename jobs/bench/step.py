"""`isnet bench step`: our step against the released code's.

Compared at each size, from the same weights, on the same pictures and holes, with the whole of Eq. 2:

    step       the reference (jobs/bench/reference.py, eager float32), the same without its waste, ours in float32,
               ours in bfloat16 where the processor computes in it
    curves     the losses of many steps from the same start, so that speed is not bought with another result
    memory     peak of a process that does nothing else: `python -m jobs.bench.step SIZE BATCH BLOCKS DEVICE WAY`
    inference  one picture: the reference in evaluation mode, ours with spectral norm folded, and prepared for a CPU

On a GPU ours runs in bfloat16, channels_last and compiled as well, and the achieved arithmetic is reported.
Not covered: data, ranks, records (they are not part of a step).
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import isnet
from isnet.gan import GAN, GanSettings, LocalReducer
from isnet.inference.fast_conv import prepare_for_inference
from isnet.masks import irregular, valid_1HW
from isnet.perceptual import Perceptual
from isnet.spectral_norm import fold_spectral_norm
from jobs.bench import reference
from jobs.bench.common import Timing, in_turns, machine, machine_line, median, median_ratio, peak_bytes
from jobs.cli.main import emit
from trainplane.errors import UserError

# The released code's. A first step then moves every raw weight by a tenth of itself.
RATE = 1e-4
# A tenth of it: at the released rate the first steps leap, and any rounding becomes another curve. The lean reference
# differs from the reference in rounding and D's singular vectors alone; its distance is the yardstick.
CURVE_RATE = 1e-5
CURVE_TERMS = ("l1", "perceptual", "style", "feature_matching", "discriminator")
REFERENCE, LEAN = "reference", "reference, lean"
Step = Callable[[int], dict[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Case:
    """One size to measure, with its batch and device."""

    size: int
    batch: int
    blocks: int
    device: str

    def pictures(self, seed: int) -> tuple[Tensor, Tensor]:
        """Random pictures, (B, 3, H, W), and their holes."""
        # Smooth, with edges of a fine pattern.
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.rand(self.batch, 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=self.size, mode="bicubic").clamp(0, 1)
        fine = torch.rand(self.batch, 3, self.size, self.size, generator=generator)
        rng = np.random.default_rng(seed)
        holes = np.stack([valid_1HW(irregular(self.size, self.size, rng)) for _ in range(self.batch)])
        return (0.9 * smooth + 0.1 * fine).to(self.device), torch.from_numpy(holes).to(self.device)


def our_gan(case: Case, *, rate: float = RATE, **settings: Any) -> GAN:
    """Our GAN at the paper's settings, with fixed weights."""
    torch.manual_seed(0)
    return GAN(
        isnet.build("isnet", blocks=case.blocks),
        isnet.build("discriminator"),
        GanSettings(lr_g=rate, lr_d=0.1 * rate, **settings),
        perceptual=Perceptual("random"),
        device=case.device,
    )


def reference_step(case: Case, *, rate: float = RATE, lean: bool = False) -> reference.ReferenceStep:
    """The released code's step from the same weights."""
    start = our_gan(case)
    generator, discriminator = reference.ReferenceGenerator(case.blocks), reference.ReferenceDiscriminator()
    reference.copy_weights(start.generator, generator)
    reference.copy_weights(start.discriminator, discriminator)
    # The same VGG, with random weights: only its arithmetic is compared.
    vgg = Perceptual("random").to(case.device)
    return reference.ReferenceStep(generator.to(case.device), discriminator.to(case.device), vgg, rate=rate, lean=lean)


def our_settings(device: str) -> dict[str, dict[str, Any]]:
    """Settings of our ways, by name."""
    ways: dict[str, dict[str, Any]] = {"fp32": {}}
    # On a CPU bfloat16 is a way only where the processor computes in it.
    if device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        ways["bf16"] = {"precision": "bf16"}
        ways["bf16, channels_last"] = {"precision": "bf16", "channels_last": True}
    if device == "cuda":
        ways["bf16, channels_last, compile"] = {"precision": "bf16", "channels_last": True, "compile": True}
    return ways


def make_step(case: Case, way: str, *, rate: float = RATE) -> Step:
    """Step of a way, without waiting for a GPU."""
    if way in (REFERENCE, LEAN):
        step = reference_step(case, rate=rate, lean=way == LEAN)
        return lambda seed: step(*case.pictures(seed))
    gan = our_gan(case, rate=rate, **our_settings(case.device)[way])
    return lambda seed: gan.step([case.pictures(seed)], global_batch=case.batch, reduce=LocalReducer())


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
    report["sizes"] = [measure(case, rounds=args.rounds) for case in cases]
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
    """Pictures a step where the user gives none."""
    # The released default on a GPU; on a CPU about as many pixels at every size, at least two pictures.
    return 8 if device == "cuda" or size <= 64 else 4 if size <= 128 else 2


def measure(case: Case, *, rounds: int) -> dict[str, Any]:
    """Measures one size: medians in seconds, ratios to the reference.

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
        "memory_mib": memory,
        "memory": {way: peak / memory[REFERENCE] for way, peak in memory.items()},
        **_compared("step_s", "faster", steps),
        **_compared("inference_s", "inference_faster", inference),
    }
    # Achieved arithmetic matters on a GPU alone; the reference's is the same work done more often.
    if case.device == "cuda":
        work = operations(case)
        row["tflops"] = {way: work / median(timings) / 1e12 for way, timings in steps.items() if way != REFERENCE}
    return row


def _compared(seconds: str, faster: str, ways: dict[str, list[Timing]]) -> dict[str, dict[str, float]]:
    first = ways[REFERENCE]
    return {
        seconds: {way: median(timings) for way, timings in ways.items()},
        faster: {way: median_ratio(first, timings) for way, timings in ways.items()},
        f"{faster}_cpu": {way: median_ratio(first, timings, clock="cpu") for way, timings in ways.items()},
    }


def _finished(step: Step, case: Case) -> Callable[[], None]:
    # The time of a step includes the work that it left on a GPU.
    seeds = itertools.count()

    def run() -> None:
        step(next(seeds))
        if case.device == "cuda":
            torch.cuda.synchronize()

    return run


def operations(case: Case) -> float:
    """Multiplications and additions of one of our steps."""
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
    # One picture, as a user fills one.
    image, mask = (part[:1] for part in case.pictures(0))

    @torch.no_grad()
    def run(network: torch.nn.Module) -> None:
        network(image, mask)
        if case.device == "cuda":
            torch.cuda.synchronize()

    return {name: functools.partial(run, network) for name, network in networks.items()}


def curves(case: Case, *, steps: int) -> dict[str, Any]:
    """Trains every way from one start on the same pictures.

    Returns each term at the first and over the last steps, and the largest distance of its curve from the reference's,
    as a share of the range of the reference's curve.
    """
    ways = {way: make_step(case, way, rate=CURVE_RATE) for way in (REFERENCE, LEAN, *our_settings(case.device))}
    losses: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for number, (way, run) in itertools.product(range(steps), ways.items()):
        # Few batches, repeated, so that the losses fall.
        losses[way].append({name: float(value) for name, value in run(number % 4).items()})
    terms = {term: {way: _curve(term, rows, losses[REFERENCE]) for way, rows in losses.items()} for term in CURVE_TERMS}
    return {"size": case.size, "steps": steps, "terms": terms}


def _curve(term: str, rows: Sequence[dict[str, float]], reference: Sequence[dict[str, float]]) -> dict[str, float]:
    values, expected = (torch.tensor([row[term] for row in curve], dtype=torch.float64) for curve in (rows, reference))
    # The last fifth of the steps.
    last = max(1, len(rows) // 5)
    span = (expected.max() - expected.min()).clamp_min(1e-12)
    return {
        "first": float(values[0]),
        "last": float(values[-last:].mean()),
        "distance": float((values - expected).abs().max() / span),
    }


def _text(report: dict[str, Any]) -> str:
    lines = [machine_line()]
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
            for way, curve in ways.items():
                values = f"{curve['first']:10.5f} {curve['last']:10.5f} {100 * curve['distance']:8.1f}%"
                lines.append(f"  {term:18} {way:24} {values}")
    return "\n".join(lines)


def peak_mib(case: Case, way: str) -> float:
    """Peak memory of two steps in a fresh process, MiB."""
    args = [str(case.size), str(case.batch), str(case.blocks), case.device, way]
    # Large blocks go back to the system when they are freed, so that what is resident is what is in use.
    malloc = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024), "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}
    command = [sys.executable, "-m", "jobs.bench.step", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **malloc})
    if done.returncode:
        raise RuntimeError(f"the measuring process of {way!r} ended with {done.returncode}: {done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


def _print_peak(size: str, batch: str, blocks: str, device: str, way: str) -> None:
    # A first convolution loads libraries into a process, which are no part of a step.
    torch.nn.functional.conv2d(torch.rand(1, 3, 32, 32), torch.rand(3, 3, 3, 3))
    before = psutil.Process().memory_info().rss
    step = make_step(Case(int(size), int(batch), int(blocks), device), way)
    for seed in range(2):
        step(seed)
    if device == "cuda":
        # On a GPU only what torch allocated there.
        torch.cuda.synchronize()
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print((peak_bytes() - before) / 2**20)


if __name__ == "__main__":
    _print_peak(*sys.argv[1:])
