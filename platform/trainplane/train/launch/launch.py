"""Starts a run's ranks, and retries after failures.

One rank runs in this process, several under Ray Train, which starts a group of fixed size and detects a worker's death.
It never resumes or resizes: every attempt has a new Ray run name and resumes from our own checkpoints. The number of
ranks of an elastic run is computed here (`batch_size`): Ray would also pick one that does not divide the global batch,
and it resizes without letting the ranks save.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

from trainplane.cluster.ray_session import dead_processes, in_ray_job, ray_session, scratch_folder
from trainplane.errors import RunFailed
from trainplane.notify.event import Notice
from trainplane.store_wait import STORE_WAITS
from trainplane.train.batch_size import split_batch
from trainplane.train.config import TrainConfig
from trainplane.train.errors import CodeFailed, NodeFailed, OutOfMemory, Stalled
from trainplane.train.launch.error_kinds import ErrorKind, first_line, kind_of
from trainplane.train.launch.failure_policy import Cause, NodeBlame, RetryDecision, cause_of, decide_retry
from trainplane.train.loop import run
from trainplane.train.spec import Outcome, Progress, Report, TrainJob, keep_going

log = logging.getLogger(__name__)

# Causes that people are told about; a stall has been told already.
_EVENTS = {Cause.LOST: "run.retried", Cause.HARDWARE: "node.blamed"}


@dataclass
class Usage:
    """Time of all attempts."""

    seconds: float = 0.0
    rank_seconds: float = 0.0  # Times the ranks of each attempt

    @contextmanager
    def of(self, ranks: int) -> Iterator[None]:
        """Counts the block as an attempt of `ranks` ranks."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds += (passed := time.monotonic() - started)
            self.rank_seconds += ranks * passed


Attempt = Callable[[TrainJob, NodeBlame, Usage], Outcome]
"""Trains once: the run, the nodes to avoid, and where its time is counted."""


def train(
    job: TrainJob,
    config: TrainConfig,
    *,
    progress: Progress,
    interrupted: Callable[[], bool] = lambda: False,
    distributed: bool | None = None,
    report: Report = keep_going,
) -> Outcome:
    """Trains a run to its end, with retries.

    Args:
        job: The run.
        config: Section `train`.
        progress: Display of the progress.
        interrupted: True makes all ranks save and stop.
        distributed: True uses Ray Train; None: for more than one worker, or inside a Ray job.
        report: Called after each validation; returns whether to continue.
    """
    # One rank needs no cluster, unless this process is a job of one.
    if distributed is None:
        distributed = config.max_workers > 1 or in_ray_job()
    if not distributed:

        def here(job: TrainJob, blame: NodeBlame, usage: Usage) -> Outcome:
            try:
                with usage.of(1):
                    return run(job, progress=progress, report=report, interrupted=interrupted)
            except RuntimeError as error:
                # The device stays lost for this process, so another attempt here would fail alike.
                if kind_of(error) is not ErrorKind.HARDWARE:
                    raise
                raise RunFailed(
                    f"this machine's GPU or its driver failed ({first_line(error)}); run the same command again, it "
                    "resumes from the last checkpoint; use another machine if it fails again"
                ) from error

        return train_with_retries(job, config, here, progress, interrupted)
    # The driver reads checkpoints between attempts.
    with (
        STORE_WAITS.listening(lambda wait: progress.emit(str(wait)), interrupted),
        _cluster(config, progress, interrupted, report) as attempt,
    ):
        return train_with_retries(job, config, attempt, progress, interrupted)


def train_with_retries(
    job: TrainJob,
    config: TrainConfig,
    attempt: Attempt,
    progress: Progress,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Repeats attempts until success or a final failure."""
    in_a_row: Counter[Cause] = Counter()
    blame, usage = NodeBlame(), Usage()
    reached = newest_step(job)
    while True:
        try:
            outcome = attempt(job, blame, usage)
            return replace(outcome, attempts_s=usage.seconds, rank_s=usage.rank_seconds)
        except RunFailed as failure:
            # Drop the traceback, which references the tensors of the attempt.
            error = failure.with_traceback(None)
        step, cause = _newest_step_if_readable(job, reached), cause_of(error)
        # A new checkpoint is progress: counting starts again.
        if step > reached:
            reached = step
            in_a_row.clear()
        in_a_row[cause] += 1
        blame = blame.adding(error) if isinstance(error, NodeFailed) else blame
        decision = decide_retry(
            error, cause=cause, in_a_row=in_a_row, auto_micro_batch=config.micro_batch == "auto", blame=blame
        )
        log.info("%s: %s", error, decision.reason)
        if not decision.retry:
            # Two nodes that fail at one step show a fault of the code.
            raise CodeFailed(f"{decision.reason}: {error}") if blame.is_of_code() else error
        if decision.micro_batch is not None:
            job = replace(job, micro_batch=decision.micro_batch)
        message = _retry_message(error, decision, max(step, 0), config)
        kind = _EVENTS.get(cause) if not isinstance(error, Stalled) else None
        progress.emit(Notice(message, kind) if kind else message)
        _wait(decision.wait_s, interrupted)


def _wait(seconds: float, interrupted: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    # In short sleeps, so that Ctrl-C ends it soon.
    while (remaining := until - time.monotonic()) > 0:
        if interrupted():
            raise KeyboardInterrupt
        time.sleep(min(remaining, 0.5))


def _retry_message(error: RunFailed, decision: RetryDecision, step: int, config: TrainConfig) -> str:
    """Message before another attempt, with a new batch split."""
    pause = f" in {decision.wait_s:.0f} s" if decision.wait_s else ""
    # For a lost worker or node the error says how it was lost, which helps to find out why.
    detail = f" ({error})" if cause_of(error) in (Cause.LOST, Cause.HARDWARE) else ""
    message = f"{decision.reason}{detail}; resuming at step {step}{pause}"
    if decision.micro_batch is None or not isinstance(error, OutOfMemory):
        return message
    ranks = config.global_batch // error.share
    split = split_batch(global_batch=config.global_batch, ranks=ranks, micro_batch=decision.micro_batch)
    return f"{message}: {split}"


@contextmanager
def _cluster(
    config: TrainConfig, progress: Progress, interrupted: Callable[[], bool], report: Report
) -> Iterator[Attempt]:
    # Provides attempts on a Ray cluster during the block. A private cluster that died is started again before the next
    # attempt.
    from trainplane.train.launch.capacity import ClusterCapacity
    from trainplane.train.launch.worker_group import WorkerGroup

    # One session and one scratch folder for all attempts.
    progress.emit("starting workers under Ray, which takes a while")
    with scratch_folder() as scratch, ExitStack() as cluster:
        ray = cluster.enter_context(ray_session())
        capacity = ClusterCapacity(ray, config)

        def attempt(job: TrainJob, blame: NodeBlame, usage: Usage) -> Outcome:
            # A private cluster that died since the last attempt.
            if dead_processes():
                cluster.close()
                cluster.enter_context(ray_session())
            # As many ranks as fit now, and how they split the batch.
            ranks = capacity.ranks(interrupted=interrupted, blame=blame, emit=progress.emit)
            split = split_batch(
                global_batch=config.global_batch, ranks=ranks, micro_batch=job.micro_batch or config.fixed_micro
            )
            if config.min_workers != config.max_workers:
                progress.emit(f"room for {ranks} of {config.min_workers} to {config.max_workers} workers: {split}")
            settings = {"job": asdict(job)}
            with usage.of(ranks):
                return WorkerGroup(ray, config, capacity, ranks, scratch).train(settings, progress, interrupted, report)

        yield attempt


def newest_step(job: TrainJob) -> int:
    """Step of the run's newest checkpoint, else -1."""
    from trainplane.storage import open_store
    from trainplane.train.checkpoint.store import newest_first

    newest = next(newest_first(open_store(job.checkpoints)), None)
    return newest.step if newest else -1


def is_done(job: TrainJob, steps: int) -> bool:
    """True if the last step has a good checkpoint."""
    from trainplane.storage import open_store
    from trainplane.train.checkpoint.store import newest_good

    if newest_step(job) < steps:
        return False
    newest = newest_good(open_store(job.checkpoints))
    return newest is not None and newest.checkpoint.step >= steps


def _newest_step_if_readable(job: TrainJob, before: int) -> int:
    """As `newest_step`; `before` where the store does not answer."""
    try:
        return newest_step(job)
    except RunFailed as error:
        log.warning("%s", error)
        return before
