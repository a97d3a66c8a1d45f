"""The one visible loop: data, the task's step, record, validate, checkpoint.

It runs the same in a Ray Train worker, in a one-worker trial of a search, and plainly in this process: what differs is
the `World` it is handed and who listens to its progress. A run that finds a checkpoint of its own goes on from there.
Not covered: how ranks are started (`launch`), what is learnt (the task).
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from trainplane.config import RunConfig, build
from trainplane.data.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.task import Batch, Sample, Task, load_task
from trainplane.tracking.tracker import NullTracker, Recorder, Tracker
from trainplane.train import checkpoint as checkpoints
from trainplane.train import state as states
from trainplane.train.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know, as plain values that travel to it.

    config -- the resolved configuration; train_data, val_data, checkpoints -- addresses
    tracking -- tracking address, run id and spool folder; none trains without recording
    """

    config: dict[str, Any]
    train_data: str
    val_data: str | None
    checkpoints: str
    tracking: TrackingTarget | None = None


@dataclass(frozen=True)
class TrackingTarget:
    """Where rank 0 records."""

    uri: str
    run_id: str
    spool: str


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as reported by rank 0."""

    status: str
    step: int
    metrics: dict[str, float]
    checkpoint: str
    state_digest: str
    seconds: dict[str, float]
    pictures_per_s: float
    unsent: int = 0
    damage: list[str] = field(default_factory=list)


class Progress(Protocol):
    """Whoever shows how far a run is. Called by rank 0 after every step; must return at once."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None: ...


class Silent:
    """Nobody watches."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Show nothing."""


Report = Callable[[int, dict[str, float]], bool]
"""Told (step, metrics) at each validation; answers whether training should go on."""


def keep_going(step: int, metrics: dict[str, float]) -> bool:
    """The report of a run that nobody stops early."""
    return True


def run(
    job: Job,
    *,
    world: World | None = None,
    progress: Progress | None = None,
    report: Report = keep_going,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the configured step, from the newest good checkpoint of this run if there is one."""
    world = world or World.current()
    progress = progress or Silent()
    task_class = load_task(job.config["task"])
    config: RunConfig = build(task_class.Config, job.config)
    device = _device(config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)

    # Ranks start alike, whether or not a checkpoint then overwrites it all.
    torch.manual_seed(config.train.seed)
    task = task_class(config, device)
    dataset = Dataset.open(job.train_data)
    with (
        closing(_loader(dataset, config, task_class, world)) as loader,
        closing(_tracker(job, world)) as tracker,
    ):
        trainer = _Trainer(job, config, task, dataset, loader, tracker, world, progress, report, interrupted)
        return trainer.run()


@dataclass
class _Trainer:
    """The loop and what it carries from step to step."""

    job: Job
    config: RunConfig
    task: Task
    dataset: Dataset
    loader: Loader
    tracker: Recorder
    world: World
    progress: Progress
    report: Report
    interrupted: Callable[[], bool]
    clock: Clock = field(default_factory=lambda: Clock())
    epoch: EpochMeans = field(default_factory=lambda: EpochMeans())

    def run(self) -> Outcome:
        steps, world, clock = self.config.train.steps, self.world, self.clock
        writer = checkpoints.Writer(open_store(self.job.checkpoints), keep=self.config.train.keep_checkpoints)
        first = done = self._restore(writer)
        samples = self._validation_samples()
        metrics: dict[str, float] = self._validate(samples, done) if done in (0, steps) else {}
        going = done < steps
        started = time.monotonic()
        batches = self.loader.batches(start=done, stop=steps)

        while going:
            # Data: this rank's share of the global batch, the same pictures whatever the number of ranks.
            with clock.phase("data"):
                index, batch = next(batches)

            # The task's turn: both players, from the same weights. Its randomness depends on step and rank alone.
            with clock.phase("step"):
                torch.manual_seed(_step_seed(self.config.train.seed, index, world.rank))
                shares = self.task.step(
                    list(self._micro_batches(batch)), global_batch=self.config.train.global_batch, reduce=world
                )
            done = index + 1
            last = done == steps

            # Record: ranks add up their shares only when the result is wanted.
            if last or done % self.config.train.log_every == 0 or done % self.loader.steps_per_epoch == 0:
                with clock.phase("record"):
                    self._record(done, shares)
            rate = (done - first) * self.config.train.global_batch / (time.monotonic() - started)
            self.progress.update(done, steps, rate, metrics)

            # Validate: the same held-out pictures every time.
            if last or done % self.config.train.validate_every == 0:
                with clock.phase("validate"):
                    metrics = self._validate(samples, done)
                    wanted = self.report(done, metrics) if world.is_first else True
                    going = bool(world.agree(int(wanted), self.task.device))
            going = going and not last
            # Ranks in other processes are interrupted by whoever started them.
            halted = world.size == 1 and self.interrupted()

            # Checkpoint: staged here, stored behind our back.
            if not going or halted or done % self.config.train.checkpoint_every == 0:
                with clock.phase("checkpoint"):
                    self._checkpoint(writer, done)
            if halted:
                writer.finish()
                raise KeyboardInterrupt

        return self._finish(writer, done, first, metrics, time.monotonic() - started)

    def _restore(self, writer: checkpoints.Writer) -> int:
        """Load the newest good checkpoint into the task; rank 0 chooses it for all. Returns the step to go on from."""
        found = checkpoints.newest_good(writer.store) if self.world.is_first else None
        step = self.world.agree(found.checkpoint.step if found else 0, self.task.device)
        if step == 0:
            return 0
        if found is None:
            chosen = next(c for c in checkpoints.committed(writer.store) if c.step == step)
            found = checkpoints.read(writer.store, chosen)
        checkpoint, state, meta = found.checkpoint, found.state, found.meta
        for name, ours in (("dataset_digest", self.dataset.digest), ("order_hash", self.loader.order_hash)):
            if meta[name] != ours:
                raise UserError(
                    f"checkpoint {writer.store.address}/{checkpoint.key} was made with {name} {meta[name]}, "
                    f"and this run has {ours}; give it the same data, seed and batch, or start anew with --fresh"
                )
        if step > self.config.train.steps:
            raise UserError(
                f"this run stands at step {step} already, beyond train.steps={self.config.train.steps}; "
                "ask for more steps, or start anew with --fresh"
            )
        self.epoch = EpochMeans(**meta["epoch"])
        self.tracker.adopt(found.unsent)
        states.restore(self.task, state, source=f"{writer.store.address}/{checkpoint.key}")
        writer.last = checkpoint
        log.info("resumed at step %d from %s", step, writer.store.address)
        return step

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        share = self.config.train.global_batch // self.world.size
        size = min(self.config.train.micro_batch or share, share)
        for start in range(0, share, size):
            yield {
                name: value[start : start + size].to(self.task.device, non_blocking=True)
                for name, value in batch.items()
            }

    def _record(self, done: int, shares: Mapping[str, Tensor]) -> None:
        names = sorted(shares)
        total = torch.stack([shares[name].detach().double() for name in names])
        self.world.sum_([total])
        values = dict(zip(names, total.tolist(), strict=True))
        per_epoch = self.loader.steps_per_epoch
        self.tracker.log_metrics(
            done, {f"train/{name}": value for name, value in values.items()} | {"epoch": done / per_epoch}
        )
        for name, value in self.epoch.add(done, values, per_epoch).items():
            self.tracker.log_metrics(done, {f"epoch/{name}": value})

    def _validation_samples(self) -> list[tuple[int, Sample]]:
        """This rank's share of the held-out samples, verified and kept in memory.

        Those of the gallery are all rank 0's, which records.
        """
        if self.job.val_data is None:
            return []
        dataset = Dataset.open(self.job.val_data)
        count = min(dataset.num_samples, self.config.data.val_samples)
        shown = min(self.config.tracking.gallery, count)
        rest = range(shown + self.world.rank, count, self.world.size)
        indices = [*(range(shown) if self.world.is_first else ()), *rest]
        return list(zip(indices, dataset.read_samples(indices), strict=True))

    def _validate(self, samples: list[tuple[int, Sample]], done: int) -> dict[str, float]:
        if self.job.val_data is None:
            return {}
        gallery = range(self.config.tracking.gallery)
        found = self.task.validate(samples, reduce=self.world, gallery=gallery)
        metrics = {f"val/{name}": value for name, value in found.metrics.items()}
        self.tracker.log_metrics(done, metrics)
        for picture in found.pictures:
            self.tracker.log_picture(picture.name, picture.pixels, done)
        return metrics

    def _checkpoint(self, writer: checkpoints.Writer, done: int) -> None:
        if not self.world.is_first:
            return
        meta = {
            "config": self.config.model_dump(mode="json"),
            "config_digest": self.config.digest(),
            "dataset_digest": self.dataset.digest,
            "order_hash": self.loader.order_hash,
            "epoch": asdict(self.epoch),
        }
        writer.save(states.capture(self.task, step=done), meta=meta, unsent=self.tracker.unsent())

    def _finish(
        self, writer: checkpoints.Writer, done: int, first: int, metrics: dict[str, float], wall_s: float
    ) -> Outcome:
        with self.clock.phase("checkpoint"):
            last = writer.finish() if self.world.is_first else None
        seconds = {**self.clock.seconds, "wall": wall_s}
        pictures = (done - first) * self.config.train.global_batch
        rate = pictures / wall_s if pictures else 0.0
        if done > first:
            self.tracker.log_metrics(
                done, {f"time/{name}_s": value for name, value in seconds.items()} | {"time/pictures_per_s": rate}
            )
        unsent = self.tracker.close(timeout_s=30.0)
        return Outcome(
            status="finished" if done == self.config.train.steps else "stopped",
            step=done,
            metrics=metrics,
            checkpoint=f"{writer.store.address}/{last.key}" if last else "",
            state_digest=last.state_digest if last else "",
            seconds=seconds,
            pictures_per_s=rate,
            unsent=unsent,
            damage=[str(damage) for damage in self.loader.damage],
        )


@dataclass
class Clock:
    """Where the time goes: seconds by phase, as seen by this rank's main thread."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - started


@dataclass
class EpochMeans:
    """Means over the recorded steps of the current epoch; part of a checkpoint, so that a resume changes nothing."""

    totals: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, done: int, values: Mapping[str, float], steps_per_epoch: int) -> dict[str, float]:
        """Take in one recorded step. Returns the means of the epoch when `done` is the last step recorded in it."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value
        self.count += 1
        if done % steps_per_epoch:
            return {}
        means = {name: total / self.count for name, total in self.totals.items()}
        self.totals, self.count = {}, 0
        return means


def _loader(dataset: Dataset, config: RunConfig, task_class: type[Task], world: World) -> Loader:
    return Loader(
        dataset,
        transform=task_class.transform_of(config),
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=world.rank,
        world=world.size,
        workers=config.data.loader_workers,
        prefetch=config.data.prefetch,
        on_damage=config.data.on_damage,
        damage_budget=config.data.damage_budget,
    )


def _tracker(job: Job, world: World) -> Recorder:
    """Rank 0 records; the others have a tracker that does nothing, so that no call site asks who it is."""
    if job.tracking is None or not world.is_first:
        return NullTracker()
    return Tracker(job.tracking.uri, job.tracking.run_id, spool=job.tracking.spool)


def _device(config: RunConfig) -> torch.device:
    wants = config.train.use_gpu
    if wants is True and not torch.cuda.is_available():
        raise UserError("train.use_gpu=true and this machine has no GPU; set train.use_gpu=auto or false")
    return torch.device("cuda" if wants and torch.cuda.is_available() else "cpu")


def _step_seed(seed: int, index: int, rank: int) -> int:
    """A generator seed that differs for every (seed, step, rank): splitmix64's finaliser over the three."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) & ((1 << 63) - 1)
