"""`isnet bench overhead`: `isnet train` against a bare torch loop.

    train    all that the command does: guard, records to MLflow, progress, clock; one rank, in this process
    bare     torch's own DataLoader over the same pictures in memory, the task's step, losses printed as often
    loop     our loader, the task's step and nothing else, seeded as the run is: it ends on the same weights, and the
             time that `train` takes beyond it is the training loop's alone

Each way starts from the beginning in every round; its first steps are not counted. Validation and checkpoints come at
their own cadence and are not part of a step: neither is compared (`isnet bench checkpoint`). At one rank
DistributedDataParallel sums nothing, so the bare loop goes without it.
"""

from __future__ import annotations

import argparse
import io
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from jobs.bench.common import (
    Clock,
    Figure,
    Timing,
    figure,
    figures_text,
    machine_line,
    median,
    quotients,
    report,
    results_in_turns,
)
from jobs.cli.progress import Bar
from jobs.config import ISNetConfig, load_isnet_config
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
CLOCKS: dict[Clock, str] = {"wall": "wall", "cpu": "processor"}


@dataclass
class Workload:
    """Configuration and pictures of every way, and its results."""

    config: ISNetConfig
    context: Context
    dataset: Dataset
    digests: dict[str, str] = field(default_factory=dict)
    steps_shares: list[float] = field(default_factory=list)


class TimedBar(Bar):
    """Users' progress bar; times the counted steps."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[Timing] = []

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Shows the progress and records the time."""
        super().update(step, steps, pictures_per_s, metrics)
        self.record(step, steps)

    def record(self, step: int, steps: int) -> None:
        """Records the time where counting starts and ends."""
        if step in (WARM_STEPS, steps):
            self._times.append(Timing(time.perf_counter(), time.process_time()))

    def timing(self) -> Timing:
        """Time of the counted steps."""
        start, end = self._times
        return Timing(end.wall - start.wall, end.cpu - start.cpu)


def overhead(args: argparse.Namespace) -> int:
    """`isnet bench overhead`."""
    # One run without validation, and with its only checkpoint at the end.
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
        # Few pictures: they stay in the caches of all ways alike.
        dataset = pack(pictures(PICTURES), context.dataset("bench"), name="bench", split="train", how={})
        workload = Workload(load_isnet_config(args.preset, [*overrides, *args.overrides]), context, dataset)
        torch.set_num_threads(args.threads)
        ways = {"train": partial(by_train, workload), "bare": partial(by_bare, workload)}
        timings = results_in_turns({**ways, "loop": partial(by_loop, workload)}, rounds=args.rounds, warmup=1)
    # The comparison is worth nothing unless both did the same work.
    if workload.digests["train"] != workload.digests["loop"]:
        raise AssertionError("the loop's bare twin ended on other weights: they do not compute the same")
    figures = [
        ratio_figure(
            f"pictures/s of isnet train to those of {words}, by {unit} time", timings[way], timings["train"], clock
        )
        for way, words in (("bare", "a bare torch loop"), ("loop", "the same loop bare, with our loader"))
        for clock, unit in CLOCKS.items()
    ]
    # Two phases of one run feel the same load, so a busy machine blurs this figure least.
    name = "steps' share of isnet train's time, by its own clock"
    figures.append(spread_figure(name, workload.steps_shares, "share"))
    # Pictures of the counted steps of one run.
    counted = args.steps * workload.config.train.global_batch
    details = {
        "preset": args.preset,
        "steps": args.steps,
        "rounds": args.rounds,
        "same_weights": True,
        "pictures_per_s": {name: round(counted / median(runs), 2) for name, runs in timings.items()},
        "pictures_per_cpu_s": {name: round(counted / median(runs, clock="cpu"), 2) for name, runs in timings.items()},
    }
    return report(args, figures, text(details, figures), **details)


def steps_share(seconds: Mapping[str, float]) -> float:
    """Share of steps in a run, without checkpoints and validation."""
    return seconds["step"] / (seconds["wall"] - seconds.get("checkpoint", 0.0) - seconds.get("validate", 0.0))


def spread_figure(name: str, values: Sequence[float], unit: str) -> Figure:
    """Figure of the median over rounds, with their range."""
    # The range says how far the rounds lie apart.
    row = figure(name, statistics.median(values), unit, f"≥ {TARGET}")
    return {**row, "range": [round(min(values), 3), round(max(values), 3)]}


def ratio_figure(name: str, of: Sequence[Timing], to: Sequence[Timing], clock: Clock) -> Figure:
    """Figure of the quotients of neighbours."""
    return spread_figure(name, quotients([run.by(clock) for run in of], [run.by(clock) for run in to]), "×")


def by_train(workload: Workload) -> Timing:
    """Trains as the command does: `prepared_run`, then `launch`."""
    bar, config = TimedBar(), workload.config
    # `fresh`: each round must train from the beginning.
    with prepared_run(config, workload.context, fresh=True) as prepared:
        outcome = launch(prepared.job, config.train, progress=bar, distributed=False)
    workload.digests["train"] = outcome.state_digest
    workload.steps_shares.append(steps_share(outcome.seconds))
    return bar.timing()


def by_loop(workload: Workload) -> Timing:
    """Trains with our loader and the task's step alone."""
    config, bar = workload.config, TimedBar()
    steps = config.train.steps
    # Seeded as the run is, so that both end on the same weights.
    torch.manual_seed(config.train.seed)
    task = ISNetTask(config, setup.device_of(config))
    with setup.loader_of(workload.dataset, config, ISNetTask, World()) as loader:
        for index, batch in loader.batches(start=0, stop=steps):
            # As the training loop seeds each step of rank 0.
            torch.manual_seed(setup.step_seed(config.train.seed, index, 0))
            _step(task, batch, config, index + 1)
            bar.record(index + 1, steps)
    workload.digests["loop"] = states.capture(task, step=steps).digest()
    return bar.timing()


def by_bare(workload: Workload) -> Timing:
    """Trains as one would write it with torch alone."""
    config, bar = workload.config, TimedBar()
    steps, workers = config.train.steps, config.data.loader_workers
    torch.manual_seed(config.train.seed)
    task = ISNetTask(config, setup.device_of(config))
    dataset = InMemoryPictures(read_samples(workload.dataset, range(workload.dataset.num_samples)), config)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_size=config.train.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    # One epoch after the other, until all steps are done.
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    for step, batch in enumerate(itertools.islice(epochs, steps), start=1):
        _step(task, batch, config, step)
        bar.record(step, steps)
    return bar.timing()


def _step(task: ISNetTask, batch: Batch, config: ISNetConfig, step: int) -> None:
    train = config.train
    # Micro-batches as the run makes them.
    moved = {name: value.to(task.device, non_blocking=True) for name, value in batch.items()}
    micro = train.fixed_micro or train.global_batch
    parts = [
        {name: value[first : first + micro] for name, value in moved.items()}
        for first in range(0, train.global_batch, micro)
    ]
    losses = task.step(parts, global_batch=train.global_batch, reduce=World())
    # Losses are read from the device and printed at the run's cadence.
    if isinstance(train.log_every, int) and step % train.log_every == 0:
        line = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(f"step {step}: {line}", file=sys.stderr)


class InMemoryPictures(TorchDataset[Batch]):
    """Encoded pictures, transformed on access as in a run."""

    def __init__(self, samples: Sequence[Mapping[str, bytes]], config: ISNetConfig) -> None:
        self._samples = list(samples)
        self._transform = ISNetTask.transform_of(config)

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng(int(torch.randint(1 << 62, ())))
        return self._transform(self._samples[index], rng)


def pictures(count: int) -> Any:
    """Generates smooth JPEG pictures of 160 × 120 px."""
    for number in range(count):
        rng = np.random.default_rng(number)
        # A few random colours, enlarged smoothly.
        coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield PackItem(f"{number:05d}.jpg", file.getvalue(), "jpg", {})


def text(details: Mapping[str, Any], figures: Sequence[Figure]) -> str:
    """Report for people."""
    lines = [machine_line(), f"{details['preset']}, {details['steps']} steps a run, {details['rounds']} rounds"]
    for name, rate in details["pictures_per_s"].items():
        lines.append(f"  {name:8} {rate:8.1f} pictures/s {details['pictures_per_cpu_s'][name]:8.1f} by processor time")
    return "\n".join([*lines, figures_text(figures)])
