"""Training loop: data, step, record, validate, checkpoint.

The same loop runs in a Ray Train worker, a trial of a search and this process; only `World` and the progress differ. It
resumes from the run's newest checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from trainplane.config.load import build
from trainplane.data.training_data import reopen_training_data
from trainplane.data.types import Batch
from trainplane.numerics import set_numerics
from trainplane.observe.run_observer import RunObserver
from trainplane.storage import open_store
from trainplane.storage.s3.retry import RETRIES
from trainplane.store_wait import store_wait_s
from trainplane.task import Task, load_task
from trainplane.tracking.system_metrics import Gauges
from trainplane.tracking.tracker import Recorder
from trainplane.train import setup
from trainplane.train.checkpoint import state as states
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.resume import drop_checkpoints_after, load_newest
from trainplane.train.checkpoint.retention import RetentionRules, check_metric
from trainplane.train.damage_log import DamageLog
from trainplane.train.dashboard import Dashboard
from trainplane.train.ending import Ending, flush, flushing
from trainplane.train.errors import OutOfMemory, out_of_memory
from trainplane.train.guard.fault_dump import dump_batch
from trainplane.train.guard.monitor import GuardMonitor, RollBack
from trainplane.train.guard.policy import GuardState, Observation
from trainplane.train.launch.wait_log import report_waits, waits_told
from trainplane.train.pulse import PULSE
from trainplane.train.run_config import RunConfig
from trainplane.train.schedule import LrSchedule
from trainplane.train.spec import NullProgress, Outcome, Progress, Report, TrainJob, keep_going
from trainplane.train.start.prepare import begin_at_start
from trainplane.train.timing import PhaseTimer
from trainplane.train.triggers import FlagExchange, Triggers
from trainplane.train.validation import ValidationSets
from trainplane.train.world import World, sum_over_ranks


def run(
    job: TrainJob,
    *,
    world: World | None = None,
    progress: Progress | None = None,
    report: Report = keep_going,
    interrupted: Callable[[], bool] = lambda: False,
    other_nodes: Gauges = dict,
) -> Outcome:
    """Trains until the last step, from the newest good checkpoint.

    Args:
        job: The run.
        world: This process's rank; None: that of torch's process group.
        progress: Display of the progress; None: no display.
        report: Called on rank 0 after each validation; returns whether to continue.
        interrupted: Asked after each step. True on any rank makes all save and raise `KeyboardInterrupt`.
        other_nodes: Usage of the nodes beside rank 0's, for the system metrics.
    """
    # The task's class defines the configuration of the run.
    world, progress = world or World.current(), progress or NullProgress()
    task_class = load_task(job.config["task"])
    config: RunConfig = build(task_class.Config, job.config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    set_numerics(config.train)
    flags = FlagExchange(world, timeout_s=config.train.collective_timeout_s + store_wait_s())
    messages, damage = list[str](), DamageLog()
    amended: GuardState | None = None
    flushed = flushing(setup.tracker_of(job, world), config.train)
    with flushed as tracker, waits_told(world, progress, tracker, interrupted):
        while True:
            trainer = _Trainer(job, config, task_class, world, tracker, progress, messages, damage, other_nodes)
            try:
                return trainer.run(flags, report, interrupted, amended)
            except RollBack as rollback:
                # A roll-back is a resume from an older checkpoint, through the same code.
                flags.wait()
                trainer.drop_checkpoints_after(rollback.to)
                amended = rollback.state
            except Exception:
                # The checkpoint in progress is good whatever the error is, so wait for it before the error is raised.
                trainer.writer.wait()
                trainer.commit()
                raise
            finally:
                trainer.loader.close()
                trainer.observer.close()
            # Before the next one is built: two large models may not fit.
            collect = setup.collector_of(trainer.task)
            del trainer
            collect()


class _Trainer:
    """The loop and its state from step to step."""

    def __init__(
        self,
        job: TrainJob,
        config: RunConfig,
        task_class: type[Task],
        world: World,
        tracker: Recorder,
        progress: Progress,
        messages: list[str],
        damage: DamageLog,
        other_nodes: Gauges,
    ) -> None:
        self.job, self.config, self.world, self.damage = job, config, world, damage
        self.other_nodes = other_nodes
        self.tracker, self.progress, self.messages, self.clock = tracker, progress, messages, PhaseTimer()
        self.observer = RunObserver(job, config.train, world, tracker=tracker, progress=progress, messages=messages)
        self._emit = self.observer.emit
        # All ranks start with the same weights; a checkpoint may overwrite them.
        torch.manual_seed(config.train.seed)
        self.task = task_class(config, setup.device_of(config))
        # Reads the configured rates, so it is made before a checkpoint sets those of a later step.
        self.rates = LrSchedule(config.train.schedule, self.task.optimizers())
        addresses, batch = (job.train_data, job.train_digest, job.mix), config.train.global_batch
        self.data = reopen_training_data(addresses, global_batch=batch, cache=config.data.cache)
        self.loader = setup.loader_of(self.data, config, task_class, world)
        self.writer = CheckpointWriter(open_store(job.checkpoints), RetentionRules.of(config.train))
        self.recorded: dict[str, float] = {}
        self.dashboard = Dashboard(tracker, task_class.headlines(config))
        self.samples = 0

    def run(
        self, flags: FlagExchange, report: Report, interrupted: Callable[[], bool], amended: GuardState | None
    ) -> Outcome:
        """Trains until the last step, or a report stops it."""
        steps, world, clock, task = self._steps, self.world, self.clock, self.task
        # Resume; validate before the first step, and where there is nothing left to train.
        first = done = self._restore(amended)
        held_out = ValidationSets(self.job, self.config, world)
        going = done < steps and not self.ending.reason
        metrics = held_out.measure(task, self.tracker, done=done) if done == 0 or not going else {}
        self.dashboard.log(done, metrics)
        if done == 0:
            check_metric(self.writer.rules, metrics)
            self.ending.validated(done, metrics)
        triggers = Triggers(
            self.config.train,
            world=world,
            steps_per_epoch=self.loader.steps_per_epoch,
            flags=flags,
            interrupted=interrupted,
            last=steps,
            is_out_of_time=lambda: self.ending.is_due,
        )
        batches = self.loader.batches(start=done, stop=steps)
        started = time.monotonic()
        if metrics:
            going = self._report(done, metrics, report) and going

        while going:
            # Data: this rank's share of the global batch, which has the same samples at any number of ranks.
            PULSE.begin(done + 1)
            self.observer.before_step(done + 1)
            with clock.phase("data"):
                index, batch = next(batches)

            # Step: the task updates its weights, unless the guard blocks the step.
            with clock.phase("step"):
                if done == first:
                    self._self_check(batch)
                shares = self._step(index, batch)
            done = index + 1
            self.observer.after_step(done)
            self.samples += self.config.train.global_batch
            due = triggers.after(done)
            report_waits(due.waited, done, self._emit, world, task.device)

            # Record: only now are the shares summed over ranks, and the guard decides about the steps since last time.
            rate = (done - first) * self.config.train.global_batch / (time.monotonic() - started)
            if due.record:
                # Recording would wait for the device anyway, but this time belongs to the steps.
                with clock.phase("step"):
                    if task.device.type == "cuda":
                        torch.cuda.synchronize(task.device)
                with clock.phase("record"):
                    self._record(done, shares, rate)
            self.progress.update(done, steps, rate, {**self.recorded, **metrics})

            # Validate: the same held-out samples every time.
            if due.validate:
                with clock.phase("validate"):
                    metrics = held_out.measure(task, self.tracker, done=done)
                    self.dashboard.log(done, metrics)
                    self.ending.validated(done, metrics)
                    going = self._report(done, metrics, report)
            if due.out_of_time:
                self.ending.out_of_time()
            going = going and done < steps and not self.ending.reason

            # Checkpoint: copied here, stored by a background thread.
            if not going or due.halt or due.checkpoint:
                with clock.phase("checkpoint"):
                    self._checkpoint(done, metrics if due.validate else {})
            if due.halt and going:
                self._wait_until_saved()
                raise KeyboardInterrupt

        flags.wait()
        if self.ending.reason and done < steps:
            self._emit(done, f"ends at step {done} of {steps}: {self.ending.reason}")
        return self._finish(done, first, metrics, started)

    @property
    def _steps(self) -> int:
        return min(self.job.until or self.config.train.steps, self.config.train.steps)

    def _report(self, done: int, metrics: dict[str, float], report: Report) -> bool:
        """Reports a validation; rank 0 decides whether to continue."""
        continues = report(done, metrics) if self.world.is_first else True
        name = self.job.stop_at_nan
        is_nan = name is not None and not math.isfinite(metrics.get(name, 0.0))
        return bool(self.world.agree(int(continues and not is_nan), self.task.device))

    def _restore(self, amended: GuardState | None) -> int:
        # Loads the newest good checkpoint and sets up the guard. Returns the step of the checkpoint, 0 without one.
        if self.world.is_first:
            self.writer.start()
        must_match = {"dataset_digest": self.data.digest, "order_hash": self.loader.order_hash}
        loaded = load_newest(self.task, self.writer.store, config=self.config, must_match=must_match, world=self.world)
        step = loaded.checkpoint.step if loaded else 0
        # The loop's own state, from the checkpoint's `meta`.
        meta = loaded.meta if loaded else {}
        guard_state = GuardState.from_json(meta["guard"]) if loaded else GuardState()
        self.ending = Ending(self.config.train, meta.get("ending"))
        self.damage.begin_attempt(meta.get("damage", ()))
        if loaded is not None:
            self.writer.resume_from(loaded.checkpoint)
            setup.restore_threads(self.config, meta.get("threads"))
        self.tracker.set_tags({**setup.task_tags(self.task), "trainplane.threads": str(torch.get_num_threads())})
        self.tracker.resume_from(step, loaded.unsent if loaded else b"")
        self.tracker.monitor(self._counters, self.other_nodes)
        self.split, self.memory_limit = setup.split_of(self.config, self.job.micro_batch, meta, self.world, self.task)
        self.guard = GuardMonitor(
            self.config.guard,
            self.task,
            self.world,
            self.rates,
            self._emit,
            self._dump_batch,
            self._last_good,
            guard_state.with_amendments_of(amended, step=step) if amended else guard_state,
            self.config.train.clip_norm,
        )
        for damaged in loaded.damaged if loaded else ():
            self._emit(step, f"{damaged}; resumed at step {step}")
        if loaded is None and self.config.train.start_from is not None:
            self._emit(0, begin_at_start(self.task, self.writer.store, self.config))
        return step

    def _counters(self) -> dict[str, float]:
        """Growing counters for the system metrics, which show their rates."""
        waits = {f"{name}_share": self.clock.seconds.get(name, 0.0) for name in ("data", "checkpoint")}
        return {**waits, "pictures_per_s": float(self.samples), "store_retries_per_s": float(RETRIES.value)}

    def _self_check(self, batch: Batch) -> None:
        """Runs the task's self-check on the first micro-batch."""
        if fallback := self.task.self_check(next(self._micro_batches(batch)), reduce=self.world):
            self._emit(0, fallback)

    def _step(self, index: int, batch: Batch) -> dict[str, Tensor]:
        # Runs one step under the guard. Returns this rank's shares of the metrics; none where the guard skips the
        # batch.
        if not self.guard.before(index):
            return {}
        # The step's random numbers depend on step and rank alone.
        torch.manual_seed(setup.step_seed(self.config.train.seed, index, self.world.rank))
        try:
            micro_batches = list(self._micro_batches(batch))
            shares = self.task.step(micro_batches, global_batch=self.split.global_batch, reduce=self.world)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            shares = None
        if shares is None:
            # Raised outside the handler, because torch's error references every tensor of the step.
            raise OutOfMemory.in_step(index + 1, rank=self.world.rank, split=self.split)
        self.guard.after(index, shares)
        return shares

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        size = self.split.micro_batch
        for start in range(0, self.split.share, size):
            yield {
                name: value[start : start + size].to(self.task.device, non_blocking=True)
                for name, value in batch.items()
            }

    def _record(self, done: int, shares: dict[str, Tensor], rate: float) -> None:
        values = sum_over_ranks(shares, self.world)
        # The guard decides first: it may raise, and then the values must not be recorded.
        self.guard.evaluate(done, values)
        per_epoch = self.loader.steps_per_epoch
        self.recorded = {f"train/{name}": value for name, value in values.items()}
        self.tracker.log_metrics(done, {**self.recorded, **self.rates.metrics(), "epoch": done / per_epoch})
        self.dashboard.log(done, self.recorded, samples=self.samples)
        self.commit()
        self._collect_damage(done)
        saved, warning = self.writer.last.step if self.writer.last else 0, self.ending.warning()
        self.observer.recorded(done, samples_per_s=rate, seconds=self.clock.seconds, saved=saved, warning=warning)

    def _collect_damage(self, done: int) -> None:
        """Records what any rank has replaced; called on all ranks."""
        # With on_damage=fail the first damaged sample ends the run, so there is nothing to count.
        if self.config.data.on_damage == "quarantine":
            message = self.damage.collect(self.loader.damage, world=self.world, device=self.task.device)
            if message is not None:
                self._emit(done, message)
                self.damage.record(self.tracker, step=done)

    def _checkpoint(self, done: int, metrics: dict[str, float]) -> None:
        # A state that is not finite is never stored.
        self.guard.check_state(done)
        self._collect_damage(done)
        if not self.world.is_first:
            return
        # Everything beside tensors and counters that a resumed run needs, or checks.
        meta = {
            "config": self.config.model_dump(mode="json"),
            "config_digest": self.config.digest(),
            "dataset_digest": self.data.digest,
            "order_hash": self.loader.order_hash,
            "guard": self.guard.to_json(),
            "damage": self.damage.to_json(),
            "ending": self.ending.to_json(),
            "micro_batch": self.split.micro_batch,
            "memory_limit": self.memory_limit,
            "threads": torch.get_num_threads(),
        }
        self.writer.save(states.capture(self.task, step=done), meta=meta, unsent=self.tracker.unsent(), metrics=metrics)

    def _last_good(self) -> int:
        """Step of the newest checkpoint, after the upload in progress."""
        self.writer.wait()
        return self.writer.last.step if self.writer.last else 0

    def _wait_until_saved(self) -> None:
        """Waits on every rank until the last checkpoint is stored."""
        if self.world.is_first:
            self.writer.finish()
            self.commit()
        self.world.barrier()

    def commit(self) -> None:
        """Marks recorded points up to the last checkpoint as final."""
        if self.writer.last:
            self.tracker.commit(self.writer.last.step)

    def drop_checkpoints_after(self, step: int) -> None:
        """Drops checkpoints beyond `step`; all ranks wait for it."""
        if self.world.is_first:
            self.writer.wait()
            drop_checkpoints_after(self.writer.store, step, check=self.writer.check)
        self.world.barrier()

    def _dump_batch(self, fault: Observation) -> str:
        loader = setup.loader_of(self.data, self.config, type(self.task), self.world)
        return dump_batch(self.writer.store, fault, loader=loader, data=self.data, world=self.world)

    def _finish(self, done: int, first: int, metrics: dict[str, float], started: float) -> Outcome:
        self.observer.finish(done)
        # Wait for the last checkpoint.
        with self.clock.phase("checkpoint"):
            last = self.writer.finish() if self.world.is_first else None
            self.commit()
        # Time by phase, and the speed of this attempt. Both include the wait for the last checkpoint.
        wall_s = time.monotonic() - started
        seconds = self.clock.with_parts(self.task.timings(), wall_s)
        rate = (done - first) * self.config.train.global_batch / wall_s
        if done > first:
            times = {f"time/{name}_s": value for name, value in seconds.items()}
            self.tracker.log_metrics(done, {**times, "time/pictures_per_s": rate})
        return Outcome(
            status="finished" if done >= self._steps or self.ending.reason else "stopped",
            step=done,
            metrics=metrics,
            checkpoint=f"{self.writer.store.address}/{last.key}" if last else "",
            state_digest=last.state_digest if last else "",
            seconds=seconds,
            pictures_per_s=rate,
            unsent=flush(self.tracker, self.config.train),
            damage=[str(damage) for damage in self.damage.samples],
            told=self.messages,
        )
