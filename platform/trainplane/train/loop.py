"""The one visible loop: data, the task's step, record, validate, checkpoint.

It runs the same in a Ray Train worker, in a one-worker trial of a search, and plainly in this process: what differs is
the `World` it is handed and who listens to its progress. A run that finds a checkpoint of its own goes on from there.
Not covered: how ranks are started (`launch`), what is learnt (the task), when things are due (`agenda`), what happens
to a step that would do harm (`guard`, `sentry`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict

import torch
from torch import Tensor

from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.data.types import Batch
from trainplane.storage import open_store
from trainplane.storage.s3.retry import RETRIES
from trainplane.task import Task, load_task
from trainplane.tracking.tracker import Recorder
from trainplane.train import setup
from trainplane.train.batch_size import arithmetic
from trainplane.train.checkpoint import state as states
from trainplane.train.checkpoint.async_writer import Writer
from trainplane.train.checkpoint.resume import forget_after, load_newest
from trainplane.train.checkpoint.retention import Rules, check_metric
from trainplane.train.errors import OutOfMemory, out_of_memory
from trainplane.train.guard.fault_dump import keep_batch
from trainplane.train.guard.monitor import RollBack, Sentry
from trainplane.train.guard.policy import GuardState, Observation
from trainplane.train.metrics import EpochMeans, reduced
from trainplane.train.run_config import RunConfig
from trainplane.train.schedule import Rates
from trainplane.train.spec import Job, Outcome, Progress, Report, Silent, keep_going
from trainplane.train.timing import Clock
from trainplane.train.triggers import Agenda, Mailbox
from trainplane.train.validation import HeldOut
from trainplane.train.world import World


def run(
    job: Job,
    *,
    world: World | None = None,
    progress: Progress | None = None,
    report: Report = keep_going,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until the configured step, from the newest good checkpoint of this run if there is one.

    Told to stop (`interrupted`, on any rank), all ranks save where they stand and raise `KeyboardInterrupt`.
    """
    world, progress = world or World.current(), progress or Silent()
    task_class = load_task(job.config["task"])
    config: RunConfig = build(task_class.Config, job.config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    mailbox, told = Mailbox(world), list[str]()
    amended: GuardState | None = None
    with closing(setup.tracker_of(job, world)) as tracker:
        while True:
            trainer = _Trainer(job, config, task_class, world, tracker, progress, told)
            try:
                return trainer.run(mailbox, report, interrupted, amended)
            except RollBack as back:
                # Going back is going on from an older checkpoint: one way through the code serves both.
                mailbox.settle()
                trainer.forget_after(back.to)
                amended = back.state
            except Exception:
                # Whatever it was goes on upwards: a checkpoint on its way is good all the same, so it is waited for.
                trainer.writer.wait()
                trainer.commit()
                raise
            finally:
                trainer.loader.close()


class _Trainer:
    """The loop and what it carries from step to step."""

    def __init__(
        self,
        job: Job,
        config: RunConfig,
        task_class: type[Task],
        world: World,
        tracker: Recorder,
        progress: Progress,
        told: list[str],
    ) -> None:
        self.job, self.config, self.world = job, config, world
        self.tracker, self.progress, self.told, self.clock = tracker, progress, told, Clock()
        # Ranks start alike, whether or not a checkpoint then overwrites it all.
        torch.manual_seed(config.train.seed)
        self.task = task_class(config, setup.device_of(config))
        # Before a checkpoint brings the rates of some later step.
        self.rates = Rates(config.train.schedule, self.task.optimizers())
        self.dataset = Dataset.open(job.train_data, cache=config.data.cache, expected_digest=job.train_digest)
        self.loader = setup.loader_of(self.dataset, config, task_class, world)
        self.writer = Writer(open_store(job.checkpoints), Rules.of(config.train))
        self.epoch = EpochMeans()
        self.recorded: dict[str, float] = {}
        self.pictures = 0

    def run(
        self, mailbox: Mailbox, report: Report, interrupted: Callable[[], bool], amended: GuardState | None
    ) -> Outcome:
        steps, world, clock, task = self._steps, self.world, self.clock, self.task
        first = done = self._restore(amended)
        held_out = HeldOut(self.job.val_data, self.config, world, expected_digest=self.job.val_digest)
        metrics = held_out.measure(task, self.tracker, done=done) if done == 0 or done >= steps else {}
        if done == 0:
            check_metric(self.writer.rules, metrics)
        agenda = Agenda(
            self.config.train,
            world=world,
            steps_per_epoch=self.loader.steps_per_epoch,
            mailbox=mailbox,
            interrupted=interrupted,
            last=steps,
        )
        batches = self.loader.batches(start=done, stop=steps)
        going, started = done < steps, time.monotonic()
        if metrics:
            going = self._goes_on(done, metrics, report) and going

        while going:
            # Data: this rank's share of the global batch, the same pictures whatever the number of ranks.
            with clock.phase("data"):
                index, batch = next(batches)

            # The task's turn: both players, from the same weights. The guard may forbid them to move.
            with clock.phase("step"):
                if done == first:
                    self._check(batch)
                shares = self._step(index, batch)
            done = index + 1
            self.pictures += self.config.train.global_batch
            due = agenda.after(done)

            # Record: ranks add up their shares only when the result is wanted, and the guard judges what it saw.
            if due.record:
                with clock.phase("step"):
                    self._wait_for_device()
                with clock.phase("record"):
                    self._record(done, shares)
            rate = (done - first) * self.config.train.global_batch / (time.monotonic() - started)
            self.progress.update(done, steps, rate, {**self.recorded, **metrics})

            # Validate: the same held-out pictures every time.
            if due.validate:
                with clock.phase("validate"):
                    metrics = held_out.measure(task, self.tracker, done=done)
                    going = self._goes_on(done, metrics, report)
            going = going and done < steps

            # Checkpoint: staged here, stored behind our back.
            if not going or due.halt or due.checkpoint:
                with clock.phase("checkpoint"):
                    self._checkpoint(done, metrics if due.validate else {})
            if due.halt and going:
                self._saved()
                raise KeyboardInterrupt

        mailbox.settle()
        return self._finish(done, first, metrics, started)

    @property
    def _steps(self) -> int:
        """The step to stop at."""
        return min(self.job.until or self.config.train.steps, self.config.train.steps)

    def _goes_on(self, done: int, metrics: dict[str, float], report: Report) -> bool:
        """Tell what a validation found; whether training goes on is for the first rank to say."""
        wanted = report(done, metrics) if self.world.is_first else True
        name = self.job.stop_at_nan
        lost = name is not None and not math.isfinite(metrics.get(name, 0.0))
        return bool(self.world.agree(int(wanted and not lost), self.task.device))

    def _restore(self, amended: GuardState | None) -> int:
        """Load the newest good checkpoint, if there is one, and set the guard. Returns the step to go on from."""
        if self.world.is_first:
            self.writer.begin()
        must_match = {"dataset_digest": self.dataset.digest, "order_hash": self.loader.order_hash}
        found = load_newest(self.task, self.writer.store, config=self.config, must_match=must_match, world=self.world)
        step = found.checkpoint.step if found else 0
        guarded, micro_batch = GuardState(), self.job.micro_batch
        if found is not None:
            self.epoch = EpochMeans(**found.meta["epoch"])
            self.writer.go_on_from(found.checkpoint)
            guarded = GuardState.from_json(found.meta["guard"])
            micro_batch = micro_batch or found.meta["micro_batch"]
            self._think_in(found.meta.get("threads"))
        self.tracker.set_tags({"trainplane.threads": str(torch.get_num_threads())})
        self.tracker.go_on_from(step, found.unsent if found else b"")
        self.tracker.watch(self._counters)
        if self.config.train.micro_batch != "auto":
            micro_batch = self.config.train.micro_batch
        self.cut = arithmetic(
            global_batch=self.config.train.global_batch, ranks=self.world.size, micro_batch=micro_batch
        )
        self.sentry = Sentry(
            self.config.guard,
            self.task,
            self.world,
            self.rates,
            self._tell,
            self._keep,
            self._last_good,
            guarded.with_amendments_of(amended, step=step) if amended else guarded,
        )
        for damaged in found.damaged if found else ():
            self._tell(step, f"{damaged}; went on from step {step}")
        return step

    def _think_in(self, threads: int | None) -> None:
        """Keep the number of threads that the run began with: it decides how sums are cut, and so their last bits."""
        if threads and not self.config.train.threads:
            torch.set_num_threads(threads)

    def _counters(self) -> dict[str, float]:
        """What the record of the machine shows of the loop: seconds waited, pictures and retries, all growing."""
        waited = {f"{name}_share": self.clock.seconds.get(name, 0.0) for name in ("data", "checkpoint")}
        return {**waited, "pictures_per_s": float(self.pictures), "store_retries_per_s": float(RETRIES.value)}

    def _check(self, batch: Batch) -> None:
        """Let the task try itself on the first micro-batch, before any step counts."""
        fell_back = self.task.self_check(next(self._micro_batches(batch)), reduce=self.world)
        if fell_back:
            self._tell(0, fell_back)

    def _step(self, index: int, batch: Batch) -> dict[str, Tensor]:
        """One step under the guard; its metrics, or none where the batch is passed over."""
        if not self.sentry.before(index):
            return {}
        # Its randomness depends on step and rank alone.
        torch.manual_seed(setup.step_seed(self.config.train.seed, index, self.world.rank))
        try:
            micro_batches = list(self._micro_batches(batch))
            shares = self.task.step(micro_batches, global_batch=self.cut.global_batch, reduce=self.world)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            shares = None
        if shares is None:
            # Raised out here: the error above holds on to every tensor of the step.
            raise OutOfMemory(
                f"memory ran out in step {index + 1} on rank {self.world.rank} ({self.cut}); "
                "set train.micro_batch=auto, or a smaller one",
                self.cut.micro_batch,
                self.cut.share,
            )
        self.sentry.after(index, shares)
        return shares

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        for begin in range(0, self.cut.share, self.cut.micro_batch):
            yield {
                name: value[begin : begin + self.cut.micro_batch].to(self.task.device, non_blocking=True)
                for name, value in batch.items()
            }

    def _record(self, done: int, shares: dict[str, Tensor]) -> None:
        values = reduced(shares, self.world)
        self.sentry.judge(done, values)
        per_epoch = self.loader.steps_per_epoch
        self.recorded = {f"train/{name}": value for name, value in values.items()}
        self.tracker.log_metrics(done, {**self.recorded, **self.rates.shown(), "epoch": done / per_epoch})
        self.commit()
        means = self.epoch.add(done, values, per_epoch)
        self.tracker.log_metrics(done, {f"epoch/{name}": value for name, value in means.items()})

    def _checkpoint(self, done: int, metrics: dict[str, float]) -> None:
        self.sentry.approve_state(done)
        if not self.world.is_first:
            return
        meta = {
            "config": self.config.model_dump(mode="json"),
            "config_digest": self.config.digest(),
            "dataset_digest": self.dataset.digest,
            "order_hash": self.loader.order_hash,
            "epoch": asdict(self.epoch),
            "guard": self.sentry.to_json(),
            "micro_batch": self.cut.micro_batch,
            "threads": torch.get_num_threads(),
        }
        state = states.capture(self.task, step=done)
        self.writer.save(state, meta=meta, unsent=self.tracker.unsent(), metrics=metrics)

    def _last_good(self) -> int:
        """The step of the newest checkpoint in the store, once what is on its way has arrived."""
        self.writer.wait()
        return self.writer.last.step if self.writer.last else 0

    def _saved(self) -> None:
        """Wait, on every rank, until the last checkpoint is in the store."""
        if self.world.is_first:
            self.writer.finish()
            self.commit()
        self.world.barrier()

    def commit(self) -> None:
        """Tell the record how far checkpoints are stored: points up to there stand."""
        if self.writer.last:
            self.tracker.commit(self.writer.last.step)

    def forget_after(self, step: int) -> None:
        """Take away the checkpoints beyond `step`; all ranks wait until they are gone."""
        if self.world.is_first:
            self.writer.wait()
            forget_after(self.writer.store, step)
        self.world.barrier()

    def _tell(self, done: int, sentence: str, faults: int | None = None) -> None:
        """Say it on the terminal and in the run."""
        if not self.world.is_first:
            return
        self.told.append(sentence)
        self.progress.tell(sentence)
        self.tracker.set_tags({"trainplane.told": sentence[:500]})
        self.tracker.log_text(f"told/step-{done:08d}.txt", sentence + "\n")
        if faults is not None:
            self.tracker.log_metrics(done, {"guard/faults": faults})

    def _keep(self, fault: Observation) -> str:
        order = self.dataset.order(seed=self.config.train.seed, global_batch=self.config.train.global_batch)
        again = setup.loader_of(self.dataset, self.config, type(self.task), self.world)
        return keep_batch(self.writer.store, fault, loader=again, dataset=self.dataset, order=order, world=self.world)

    def _wait_for_device(self) -> None:
        """The time until the device has caught up belongs to the steps; recording waits for it anyway."""
        if self.task.device.type == "cuda":
            torch.cuda.synchronize(self.task.device)

    def _finish(self, done: int, first: int, metrics: dict[str, float], started: float) -> Outcome:
        with self.clock.phase("checkpoint"):
            last = self.writer.finish() if self.world.is_first else None
            self.commit()
        # The last checkpoint is waited for: its time is part of the whole, as it is of what checkpoints took.
        wall_s = time.monotonic() - started
        parts = {f"step/{name}": seconds for name, seconds in self.task.timings().items()}
        seconds = {**self.clock.seconds, **parts, "wall": wall_s}
        pictures = (done - first) * self.config.train.global_batch
        rate = pictures / wall_s if pictures else 0.0
        if done > first:
            self.tracker.log_metrics(
                done, {f"time/{name}_s": value for name, value in seconds.items()} | {"time/pictures_per_s": rate}
            )
        unsent = self.tracker.close(timeout_s=30.0)
        return Outcome(
            status="finished" if done >= self._steps else "stopped",
            step=done,
            metrics=metrics,
            checkpoint=f"{self.writer.store.address}/{last.key}" if last else "",
            state_digest=last.state_digest if last else "",
            seconds=seconds,
            pictures_per_s=rate,
            unsent=unsent,
            damage=[str(damage) for damage in self.loader.damage],
            told=self.told,
        )
