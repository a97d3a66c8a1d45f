"""Sections on arithmetic: Adam, steps, compiling, launches, memory, inference."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from isnet.training.distributed import LocalReducer
from isnet.training.memory import step_footprint, step_launches
from isnet.training.players import Players
from jobs.bench.common import Timing, in_turns, median, median_ratio
from jobs.bench.on_gpu.cards import peak_tflops
from jobs.bench.on_gpu.scale import Scale
from jobs.bench.step import LEAN, REFERENCE, make_step, operations, our_gan, our_settings, peak_mib
from jobs.config import ISNetConfig, load_isnet_config
from jobs.presets import preset_names
from jobs.train.memory import on_meta_device
from jobs.train.networks import build_players
from trainplane.train.guard.gradient_check import GradientCheck
from trainplane.train.world import World


def adam(scale: Scale) -> dict[str, Any]:
    """Checks fused Adam and the guard's switch."""
    task = _Watched(our_gan(scale.case), scale.device)
    check = GradientCheck(task, world=World())  # type: ignore[arg-type]
    fused = [bool(optimizer.defaults["fused"]) for optimizer in task.optimizers().values()]
    weight = next(task.players.generator.parameters())
    moved = []
    for limit in (0.0, float("inf")):
        before = weight.detach().clone()
        check.set_limits(dict.fromkeys(task.optimizers(), limit))
        check.start()
        _run(task.players, scale, seed=0)
        moved.append(not torch.equal(before, weight))
    return {"fused": all(fused), "blocked_stands": not moved[0], "next_moves": moved[1], "ok": moved == [False, True]}


class _Watched:
    """Parts of a task that the guard reads."""

    def __init__(self, players: Players, device: torch.device) -> None:
        self.players, self.device = players, device

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimisers by network."""
        return self.players.optimizers()


def steps(scale: Scale) -> dict[str, Any]:
    """Times our step in turns with the author's."""
    ways = [REFERENCE, LEAN, *our_settings(scale.device.type)]
    runs = {way: _finishing(make_step(scale.case, way), scale) for way in ways}
    if scale.device.type == "cuda":
        runs["reference, lean, bf16"] = _under_autocast(_finishing(make_step(scale.case, LEAN), scale))
    timings = in_turns(runs, rounds=scale.rounds, warmup=3 if scale.device.type == "cuda" else 1)
    work = operations(scale.case)
    rows = {way: _row(timings[REFERENCE], each, work, scale) for way, each in timings.items()}
    return {"size": scale.case.size, "batch": scale.case.batch, "tflop_a_step": work / 1e12, "ways": rows, "ok": True}


def _row(reference: list[Timing], timings: list[Timing], work: float, scale: Scale) -> dict[str, Any]:
    seconds = median(timings)
    peak = peak_tflops(scale.card)
    achieved = work / seconds / 1e12
    return {
        "step_ms": 1000 * seconds,
        "pictures_per_s": scale.case.batch / seconds,
        "faster_than_reference": median_ratio(reference, timings),
        "tflops": achieved,
        "share_of_card": achieved / peak if peak else None,
    }


def compiling(scale: Scale) -> dict[str, Any]:
    """Counts graphs, breaks and compilations of a compiled step."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    way: dict[str, Any] = {"precision": "bf16", "channels_last": True} if scale.device.type == "cuda" else {}
    gan = our_gan(scale.case, compile=True, **way)
    if scale.device.type != "cuda":
        # Without a compiler of C++ the graphs are still traced, guarded and counted.
        for network in (gan.generator, gan.perceptual):
            if network is not None:
                network.compile(backend="aot_eager")
    graphs = []
    for seed in range(5):
        _run(gan, scale, seed=seed)
        graphs.append(int(counters["stats"]["unique_graphs"]))
    breaks = dict(counters["graph_break"])
    return {
        "graphs": graphs[-1],
        "breaks": sum(breaks.values()),
        "reasons": list(breaks)[:3],
        "graphs_after_step_3": graphs[-1] - graphs[2],
        "ok": not breaks and graphs[-1] == graphs[2],
    }


def kernels(scale: Scale) -> dict[str, Any]:
    """Counts launches of `places2`, and profiles a step's worst kernels."""
    config = load_isnet_config("places2", [])
    counter = step_launches(on_meta_device(config), size=config.data.size, micro_batch=config.train.global_batch)
    on_gpu = scale.device.type == "cuda"
    way = "bf16, channels_last" if on_gpu else "fp32"
    step = _finishing(make_step(scale.case, way), scale)
    step()
    step()
    activities = [ProfilerActivity.CUDA, ProfilerActivity.CPU] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiler:
        step()
    times = sorted(
        (
            (event.key[:90], event.self_device_time_total if on_gpu else event.self_cpu_time_total, event.count)
            for event in profiler.key_averages()
            if not on_gpu or "CUDA" in str(event.device_type)
        ),
        key=lambda row: -row[1],
    )
    total = sum(row[1] for row in times) or 1.0
    worst = [{"kernel": key, "ms": us / 1000, "calls": count, "share": us / total} for key, us, count in times[:10]]
    return {
        "launches_of_places2": counter.total,
        "by_operator": dict(counter.by_operator.most_common(10)),
        "kernels_profiled": sum(row[2] for row in times),
        "worst": worst,
        "ok": counter.total <= 1220,
    }


def memory(scale: Scale) -> dict[str, Any]:
    """Compares the computed peak of memory with the measured one."""
    with torch.device("meta"):
        players = our_gan(scale.case.__class__(scale.case.size, scale.case.batch, scale.case.blocks, "meta"))
    on_gpu = scale.device.type == "cuda"
    planned = step_footprint(players, size=scale.case.size, micro_batch=scale.case.batch, on_gpu=on_gpu).peak / 2**20
    measured = peak_mib(scale.case, "fp32")
    ratio = measured / planned
    # On a processor the allocator and the convolutions' scratch space are part of the measurement: 1.3 at 32 px.
    least, most = (0.85, 1.15) if on_gpu else (0.5, 2.0)
    return {
        "planned_mib": planned,
        "measured_mib": measured,
        "measured_to_planned": ratio,
        "ok": least <= ratio <= most,
    }


def methods(scale: Scale) -> dict[str, Any]:
    """Takes two steps of `places2` and of every method."""
    names = [
        name for name in ("places2", "edgeconnect", "pconv", "glcic", "ca", "lama", "aot_gan") if name in preset_names()
    ]
    rows: dict[str, Any] = {}
    for name in names:
        layer = "" if scale.device.type == "cuda" and name == "places2" else "+laptop"
        try:
            rows[name] = _two_steps(load_isnet_config(f"{name}{layer}", ["loss.perceptual_weights=random"]), scale)
        except (RuntimeError, ValueError) as error:
            rows[name] = {"ok": False, "error": str(error).partition("\n")[0][:200]}
    return {"methods": rows, "ok": all(row["ok"] for row in rows.values())}


def _two_steps(config: ISNetConfig, scale: Scale) -> dict[str, Any]:
    torch.manual_seed(0)
    players = build_players(config, scale.device)
    batch = players.example_batch(config.train.global_batch, config.data.size)
    batch[1][..., : config.data.size // 4, : config.data.size // 3] = 0
    rows = [players.step([batch], global_batch=config.train.global_batch, reduce=LocalReducer()) for _ in range(2)]
    finite = all(bool(value.isfinite()) for row in rows for value in row.values())
    return {"ok": finite, "metrics": {name: float(value) for name, value in rows[-1].items()}}


def inference(scale: Scale) -> dict[str, Any]:
    """Counts pictures a second, and peaks of memory, by batch."""
    from isnet.inference.fast_conv import prepare_for_inference
    from isnet.spectral_norm import fold_spectral_norm

    network = our_gan(scale.case).generator.eval()
    on_gpu = scale.device.type == "cuda"
    ready = fold_spectral_norm(network) if on_gpu else prepare_for_inference(network)
    rows: dict[str, Any] = {}
    for batch in scale.batches:
        image, mask = scale.of_batch(batch).pictures(0)

        def run(image: torch.Tensor = image, mask: torch.Tensor = mask) -> None:
            with torch.no_grad(), torch.autocast(scale.device.type, torch.bfloat16, enabled=on_gpu):
                ready(image, mask)
            scale.wait()

        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        timings = in_turns({"ours": run}, rounds=scale.rounds, warmup=2 if on_gpu else 1)["ours"]
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else None
        rows[str(batch)] = {"pictures_per_s": batch / median(timings), "peak_mib": peak}
    return {"size": scale.case.size, "batches": rows, "ok": True}


def _run(players: Players, scale: Scale, *, seed: int) -> None:
    players.step([scale.case.pictures(seed)], global_batch=scale.case.batch, reduce=LocalReducer())


def _finishing(step: Callable[[int], Any], scale: Scale) -> Callable[[], None]:
    seeds = itertools.count()

    def run() -> None:
        step(next(seeds) % 4)
        scale.wait()

    return run


def _under_autocast(run: Callable[[], None]) -> Callable[[], None]:
    def inside() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            run()

    return inside
