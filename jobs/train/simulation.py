"""Simulates a run on more GPUs than are here.

The share of a rank stays that of the preset, so the global batch grows with the ranks. Bytes, memory and arithmetic
come from the preset; how fast a GPU does it comes from `isnet bench gpu` or is assumed, and the output says which. The
model is `trainplane.simulation.run_model`. Nothing is started.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isnet.training.memory import step_operations
from jobs.cli.format import duration, size
from jobs.config import ISNetConfig, load_isnet_config
from jobs.train.memory import ALLOCATOR, GPU_CONTEXT, on_meta_device, step_bytes
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.simulation.run_model import Fleet, Parts, Simulated, faults, grown, simulate
from trainplane.train.config import Cadence

# Sizes that are shown beside the one that was typed.
SIZES = (8, 64, 1024)


def simulated_run(args: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Simulates a run; returns its JSON and its text."""
    config = load_isnet_config(args.preset, args.overrides)
    train = config.train
    nodes = args.nodes or math.ceil(args.gpus / 8)
    if nodes > args.gpus:
        raise UserError(
            f"--nodes {nodes} and --gpus {args.gpus}: a node needs a GPU; give at most {args.gpus} nodes, or more GPUs"
        )
    share = train.global_batch // train.max_workers
    parts, origin = _parts(args, config, share)
    pictures = args.pictures or train.steps * train.global_batch
    fleet = Fleet(ranks=args.gpus, nodes=nodes, price_per_rank_hour=train.price_per_hour or 0.0)
    fleets = {count: grown(fleet, count) for count in SIZES} | {args.gpus: fleet}
    results = [_simulated(parts, fleets[ranks], share, pictures) for ranks in sorted(fleets)]
    chosen = next(result for result in results if result.ranks == args.gpus)
    # Memory depends on the share alone.
    footprint = step_bytes(config, ranks=train.max_workers, on_gpu=True)
    memory = round(ALLOCATOR * footprint.peak) + GPU_CONTEXT
    payload = {
        "preset": args.preset,
        "pictures": pictures,
        "pictures_a_rank": share,
        "memory_bytes_a_rank": memory,
        "step_time_from": origin,
        "parts": asdict(parts),
        "runs": [_finite(asdict(result)) for result in results],
        "faults": faults(parts, chosen),
    }
    return payload, _text(payload, results, chosen, parts)


def _simulated(parts: Parts, fleet: Fleet, share: int, pictures: int) -> Simulated:
    batch = share * fleet.ranks
    return simulate(parts, fleet, global_batch=batch, steps=max(1, math.ceil(pictures / batch)))


def _parts(args: argparse.Namespace, config: ISNetConfig, share: int) -> tuple[Parts, str]:
    footprint = step_bytes(config, ranks=config.train.max_workers, on_gpu=True)
    generator, *others = on_meta_device(config).modules().items()
    trained = [generator, *(item for item in others if item[0] != "ema")]
    gradients = sum(p.nbytes for _, module in trained for p in module.parameters() if p.requires_grad)
    picture_s, origin = _picture_s(args, config)
    every = Cadence.of(config.train.checkpoint_every)
    step_s = share * picture_s
    checkpoint_s = every.amount if every.unit == "seconds" else step_s * (every.steps(10**6) or 1)
    parts = Parts(
        picture_s=picture_s,
        gradient_bytes=gradients,
        link=1e9 * args.link,
        network=1e9 * args.network,
        # Buckets of D and of most of G are sent while VGG and G go backward (docs/LOG.md): about half of a step.
        overlap=0.5,
        decoded_per_s=args.decode * max(1, config.data.loader_workers),
        picture_bytes=round(1000 * args.picture_kb),
        store_bytes_per_s=1e9 * args.store,
        host_bytes_per_s=1e9 * args.host,
        store_requests_per_s=args.requests,
        state_bytes=footprint.state,
        checkpoint_s=checkpoint_s,
        start_s=args.start,
        failures_per_node_hour=1 / args.node_hours,
    )
    return parts, origin


def _picture_s(args: argparse.Namespace, config: ISNetConfig) -> tuple[float, str]:
    operations = step_operations(on_meta_device(config), size=config.data.size)
    if args.bench is None:
        seconds = operations / (1e12 * args.tflops)
        return seconds, f"{operations / 1e12:.2f} TFLOP a picture at {args.tflops:g} TFLOP/s, which is assumed"
    try:
        ways = json.loads(Path(args.bench).read_text(encoding="utf-8"))["sections"]["steps"]["ways"]
        achieved = max(float(row["tflops"]) for name, row in ways.items() if not name.startswith("reference"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--bench {args.bench}: no step times are in it ({error}); give the bench-gpu.json of "
            f"`{command_line('bench', 'gpu')}`"
        ) from error
    return operations / (
        1e12 * achieved
    ), f"{operations / 1e12:.2f} TFLOP a picture at {achieved:.3g} TFLOP/s, measured"


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    # JSON has no infinity; a run that never ends has no time.
    return {name: None if value == math.inf else value for name, value in values.items()}


def _text(payload: dict[str, Any], results: list[Simulated], chosen: Simulated, parts: Parts) -> str:
    columns = (
        f"{'ranks':>6} {'nodes':>6} {'step ms':>9} {'sum ms':>8} {'pictures/s':>11} {'scaling':>8} {'time':>10} "
        f"{'cost':>10} {'failures':>9} {'GB/s':>6} {'GET/s':>7}  bottleneck"
    )
    sizes = f"memory {size(payload['memory_bytes_a_rank'])} a rank, gradients {size(parts.gradient_bytes)}, "
    lines = [
        f"simulated, not run: {payload['pictures']:,} pictures, {payload['pictures_a_rank']} a rank and step",
        f"step time from {payload['step_time_from']}",
        sizes + f"a checkpoint {size(parts.state_bytes)} in {chosen.upload_s:.0f} s",
        "",
        columns,
    ]
    for row in results:
        time = duration(row.total_s) if math.isfinite(row.total_s) else "never"
        lines.append(
            f"{row.ranks:6} {row.nodes:6} {1000 * row.step_s:9.1f} {1000 * row.exposed_sum_s:8.1f} "
            f"{row.pictures_per_s:11,.0f} {row.efficiency:8.0%} {time:>10} {row.cost:10,.0f} {row.failures:9.1f} "
            f"{row.store_bytes_per_s / 1e9:6.2f} {row.store_requests_per_s:7.0f}  {row.bottleneck}"
        )
    lines += ["", f"a start takes {chosen.start_s:.0f} s, and so does each restart"]
    return "\n".join([*lines, *payload["faults"]])
