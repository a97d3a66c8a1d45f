"""`isnet bench overhead`: what `isnet train` costs beside a bare torch loop of the same step and pictures.

    train    what the command does: guard, records to MLflow, progress, clock; one rank, in this process
    bare     torch's own DataLoader over the same pictures in memory, the task's step, losses printed as often
    loop     our loader, the task's step and nothing else, seeded as the run is: it ends on the same weights, and what
             `train` takes beside it is the loop's alone

Each way starts anew in every round; its first steps are not counted. Validation and checkpoints come at their own
cadence and are not part of a step: neither is compared (`isnet bench checkpoint`). At one rank DistributedDataParallel
sums nothing, so the bare loop goes without it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from isnet.gan import LocalReducer
from jobs.bench.common import Clock, Taken, machine, median, median_ratio, taken_in_turns
from jobs.cli.main import emit
from jobs.cli.progress import Bar
from jobs.config import ISNetConfig, load_run_config
from jobs.isnet_task import ISNetTask
from trainplane.cluster.context import Context, local
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem, pack
from trainplane.data.read.fetch import read_samples
from trainplane.data.types import Batch
from trainplane.train import setup
from trainplane.train.checkpoint import state as states
from trainplane.train.launch.launch import train as launch
from trainplane.train.setup import prepared_run
from trainplane.train.world import World

TARGET = 0.97
PICTURES = 128
WARM_STEPS = 5
CLOCKS: tuple[Clock, ...] = ("wall", "cpu")


@dataclass
class Course:
    """What every way goes through: a configuration on packed pictures, in a home of its own."""

    config: ISNetConfig
    context: Context
    dataset: Dataset
    warm: int
    digests: dict[str, str]
    steps_shares: list[float]


class Stopwatch(Bar):
    """The bar that users see, and the times at the end of the first steps and of the last."""

    def __init__(self, warm: int) -> None:
        super().__init__()
        self._warm = warm
        self.times: list[tuple[float, float]] = []

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        super().update(step, steps, pictures_per_s, metrics)
        self.step(step, steps)

    def step(self, done: int, steps: int) -> None:
        if done in (self._warm, steps):
            self.times.append((time.perf_counter(), time.process_time()))

    def taken(self) -> Taken:
        (wall, cpu), (wall_end, cpu_end) = self.times
        return Taken(wall_end - wall, cpu_end - cpu)


def overhead(args: argparse.Namespace) -> int:
    """`isnet bench overhead`."""
    overrides = [
        "data.train=bench",
        "data.val=null",
        f"data.loader_workers={args.loader_workers}",
        "train.workers=1",
        "train.use_gpu=auto",
        f"train.steps={WARM_STEPS + args.steps}",
        f"train.checkpoint_every={WARM_STEPS + args.steps}",
        f"train.threads={args.threads}",
    ]
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder:
        context = local(Path(folder))
        dataset = pack(pictures(PICTURES), context.dataset("bench"), name="bench", split="train", how={})
        course = Course(
            load_run_config(args.preset, [*overrides, *args.overrides]), context, dataset, WARM_STEPS, {}, []
        )
        torch.set_num_threads(args.threads)
        ways: dict[str, Callable[[], Taken]] = {
            "train": partial(by_train, course),
            "bare": partial(by_bare, course),
            "loop": partial(by_loop, course),
        }
        taken = taken_in_turns(ways, rounds=args.rounds, warmup=1)
    if course.digests["train"] != course.digests["loop"]:
        raise AssertionError("the loop's bare twin ended on other weights: they do not compute the same")
    counted = args.steps * course.config.train.global_batch
    figures = [
        figure(
            f"pictures/s of isnet train to those of {words}, by {'wall' if clock == 'wall' else 'processor'} time",
            taken[other],
            taken["train"],
            clock,
        )
        for other, words in (("bare", "a bare torch loop"), ("loop", "the same loop bare, with our loader"))
        for clock in CLOCKS
    ]
    figures.append(share_figure(course.steps_shares))
    report = {
        "machine": machine(),
        "preset": args.preset,
        "steps": args.steps,
        "rounds": args.rounds,
        "same_weights": True,
        "pictures_per_s": {name: round(counted / median(rows), 2) for name, rows in taken.items()},
        "pictures_per_cpu_s": {name: round(counted / median(rows, clock="cpu"), 2) for name, rows in taken.items()},
        "figures": figures,
    }
    emit(args, report, text(report))
    return 0 if all(row["met"] for row in figures) else 1


def steps_share(seconds: Mapping[str, float]) -> float:
    """What of a run's time is its steps, by its own clock, without what comes at a cadence of its own."""
    return seconds["step"] / (seconds["wall"] - seconds.get("checkpoint", 0.0) - seconds.get("validate", 0.0))


def share_figure(shares: Sequence[float]) -> dict[str, Any]:
    """The same of several runs: two phases of one run feel the same load, so a busy machine blurs it least."""
    value = statistics.median(shares)
    return {
        "name": "steps' share of isnet train's time, by its own clock",
        "value": round(value, 3),
        "range": [round(min(shares), 3), round(max(shares), 3)],
        "unit": "share",
        "target": f"≥ {TARGET}",
        "met": value >= TARGET,
    }


def figure(name: str, of: Sequence[Taken], to: Sequence[Taken], clock: Clock) -> dict[str, Any]:
    value = median_ratio(list(of), list(to), clock=clock)
    spread = sorted(a.by(clock) / b.by(clock) for a, b in zip(of, to, strict=True))
    return {
        "name": name,
        "value": round(value, 3),
        "range": [round(spread[0], 3), round(spread[-1], 3)],
        "unit": "×",
        "target": f"≥ {TARGET}",
        "met": value >= TARGET,
    }


def by_train(course: Course) -> Taken:
    """The command's own way: `prepared_run`, then `launch`."""
    watch = Stopwatch(course.warm)
    with prepared_run(course.config, course.context, fresh=True) as prepared:
        outcome = launch(prepared.job, course.config.train, progress=watch, distributed=False)
    course.digests["train"] = outcome.state_digest
    course.steps_shares.append(steps_share(outcome.seconds))
    return watch.taken()


def by_loop(course: Course) -> Taken:
    """Our loader and the step."""
    config, watch = course.config, Stopwatch(course.warm)
    steps = config.train.steps
    torch.manual_seed(config.train.seed)
    task = ISNetTask(config, setup.device_of(config))
    with setup.loader_of(course.dataset, config, ISNetTask, World()) as loader:
        for index, batch in loader.batches(start=0, stop=steps):
            torch.manual_seed(setup.step_seed(config.train.seed, index, 0))
            _step(task, batch, config, index + 1)
            watch.step(index + 1, steps)
    course.digests["loop"] = states.capture(task, step=steps).digest()
    return watch.taken()


def by_bare(course: Course) -> Taken:
    """As one would write it with torch alone."""
    config, watch = course.config, Stopwatch(course.warm)
    steps, workers = config.train.steps, config.data.loader_workers
    torch.manual_seed(config.train.seed)
    task = ISNetTask(config, setup.device_of(config))
    pictures = InMemory(read_samples(course.dataset, range(course.dataset.num_samples)), config)
    loader: DataLoader[Batch] = DataLoader(
        pictures,
        batch_size=config.train.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    done = 0
    while done < steps:
        for batch in loader:
            done += 1
            _step(task, batch, config, done)
            watch.step(done, steps)
            if done == steps:
                break
    return watch.taken()


def _step(task: ISNetTask, batch: Batch, config: ISNetConfig, done: int) -> None:
    """The task's step, and its losses read and printed at the run's cadence."""
    train = config.train
    moved = {name: value.to(task.device, non_blocking=True) for name, value in batch.items()}
    micro = train.fixed_micro or train.global_batch
    parts = [
        {name: value[begin : begin + micro] for name, value in moved.items()}
        for begin in range(0, train.global_batch, micro)
    ]
    losses = task.step(parts, global_batch=train.global_batch, reduce=LocalReducer())
    if isinstance(train.log_every, int) and done % train.log_every == 0:
        line = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(f"step {done}: {line}", file=sys.stderr)


class InMemory(TorchDataset[Batch]):
    """Encoded pictures; decoded, cut and masked when asked for, as in a run."""

    def __init__(self, samples: Sequence[Mapping[str, bytes]], config: ISNetConfig) -> None:
        self._samples = list(samples)
        self._transform = ISNetTask.transform_of(config)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        return self._transform(self._samples[index], rng)


def pictures(count: int) -> Any:
    """Smooth made pictures of 160 × 120 px as JPEG."""
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield PackItem(f"{number:05d}.jpg", file.getvalue(), "jpg", {})


def text(report: Mapping[str, Any]) -> str:
    where = report["machine"]
    lines = [f"{where['processor']}, {where['threads']} threads, load {where['load_1min']}, torch {where['torch']}"]
    lines.append(f"{report['preset']}, {report['steps']} steps a run, {report['rounds']} rounds")
    for name, rate in report["pictures_per_s"].items():
        lines.append(f"  {name:8} {rate:8.1f} pictures/s {report['pictures_per_cpu_s'][name]:8.1f} by processor time")
    for row in report["figures"]:
        low, high = row["range"]
        verdict = "yes" if row["met"] else "NO"
        lines.append(f"  {row['name']:72} {row['value']:.3f} ({low:.3f}–{high:.3f})  {row['target']}: {verdict}")
    return "\n".join(lines)
