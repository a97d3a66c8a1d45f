"""Start a run's ranks: here for one, under Ray Train for more, and again after failures that are worth it.

Ray Train starts a group of fixed size with its process group, and notices when a worker dies. It never resumes and
never resizes by itself: every attempt has a fresh Ray run name, and where training goes on is read from our own
checkpoints. How many ranks an elastic run has is our own arithmetic (`batches`): Ray's would pick any number in the
range, those that do not divide the global batch, too, and it resizes without letting the ranks save.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace

from trainplane.cluster.ray_session import ended_parts, in_ray_job, ray_session, scratch_folder
from trainplane.errors import RunFailed
from trainplane.train.batch_size import arithmetic
from trainplane.train.config import TrainConfig
from trainplane.train.errors import OutOfMemory
from trainplane.train.launch.failure_policy import AfterFailure, Cause, after_failure, cause_of
from trainplane.train.loop import run
from trainplane.train.spec import Job, Outcome, Progress, Report, keep_going

log = logging.getLogger(__name__)

Attempt = Callable[[Job], Outcome]


def train(
    job: Job,
    config: TrainConfig,
    *,
    progress: Progress,
    interrupted: Callable[[], bool] = lambda: False,
    distributed: bool | None = None,
    report: Report = keep_going,
) -> Outcome:
    """Train `job` to its end. `distributed`: under Ray Train; by default with more than one worker or in a Ray job.

    `report` hears of every validation, and says whether to go on.
    """
    if distributed is None:
        distributed = config.max_workers > 1 or in_ray_job()
    if not distributed:

        def here(job: Job) -> Outcome:
            return run(job, progress=progress, report=report, interrupted=interrupted)

        return persist(job, config, here, progress, interrupted)
    with _cluster(config, progress, interrupted, report) as attempt:
        return persist(job, config, attempt, progress, interrupted)


def persist(
    job: Job,
    config: TrainConfig,
    attempt: Attempt,
    progress: Progress,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Attempt `job` until it is done, or a failure is not worth another attempt."""
    in_a_row: Counter[Cause] = Counter()
    reached = newest_step(job)
    while True:
        try:
            return attempt(job)
        except RunFailed as failure:
            # Without its traceback, which would hold on to the tensors of the attempt.
            error = failure.with_traceback(None)
        step, cause = _newest_step_if_readable(job, reached), cause_of(error)
        if step > reached:
            reached = step
            in_a_row.clear()
        in_a_row[cause] += 1
        decision = after_failure(error, cause=cause, in_a_row=in_a_row, auto_micro_batch=config.micro_batch == "auto")
        log.info("%s: %s", error, decision.reason)
        if not decision.again:
            raise error
        job = _amended(job, error, decision)
        progress.tell(_again(error, decision, max(step, 0), config))
        _wait(decision.wait_s, interrupted)


def _wait(seconds: float, interrupted: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if interrupted():
            raise KeyboardInterrupt
        time.sleep(min(left, 0.5))


def _amended(job: Job, error: RunFailed, decision: AfterFailure) -> Job:
    return job if decision.micro_batch is None else replace(job, micro_batch=decision.micro_batch)


def _again(error: RunFailed, decision: AfterFailure, step: int, config: TrainConfig) -> str:
    """What people read before another attempt, with the new arithmetic where it changed."""
    pause = f" in {decision.wait_s:.0f} s" if decision.wait_s else ""
    # How a worker was lost is for whoever has to find out why.
    why = f" ({error})" if cause_of(error) is Cause.LOST else ""
    told = f"{decision.reason}{why}; going on from step {step}{pause}"
    if decision.micro_batch is None or not isinstance(error, OutOfMemory):
        return told
    ranks = config.global_batch // error.share
    cut = arithmetic(global_batch=config.global_batch, ranks=ranks, micro_batch=decision.micro_batch)
    return f"{told}: {cut}"


@contextmanager
def _cluster(
    config: TrainConfig, progress: Progress, interrupted: Callable[[], bool], report: Report
) -> Iterator[Attempt]:
    """Attempts on a Ray cluster, which is ours for as long as this lasts; one that was lost is started anew."""
    from trainplane.train.launch.capacity import Room
    from trainplane.train.launch.worker_group import Group

    progress.tell("starting workers under Ray, which takes a while")
    with scratch_folder() as scratch, ExitStack() as cluster:
        ray = cluster.enter_context(ray_session())
        room = Room(ray, config)

        def attempt(job: Job) -> Outcome:
            if ended_parts():
                cluster.close()
                cluster.enter_context(ray_session())
            ranks = room.ranks(interrupted=interrupted)
            cut = arithmetic(
                global_batch=config.global_batch, ranks=ranks, micro_batch=job.micro_batch or config.fixed_micro
            )
            if config.min_workers != config.max_workers:
                progress.tell(f"room for {ranks} of {config.min_workers} to {config.max_workers} workers: {cut}")
            settings = {"job": asdict(job)}
            return Group(ray, config, room, ranks, scratch).train(settings, progress, interrupted, report)

        yield attempt


def newest_step(job: Job) -> int:
    """The step of the run's newest checkpoint, -1 where it has none. Its tensors are not read."""
    from trainplane.storage import open_store
    from trainplane.train.checkpoint.store import committed

    found = committed(open_store(job.checkpoints))
    return found[-1].step if found else -1


def is_done(job: Job, steps: int) -> bool:
    """Whether nothing is left to train: the run's last checkpoint is there, and its digests hold."""
    from trainplane.storage import open_store
    from trainplane.train.checkpoint.store import newest_good

    if newest_step(job) < steps:
        return False
    found = newest_good(open_store(job.checkpoints))
    return found is not None and found.checkpoint.step >= steps


def _newest_step_if_readable(job: Job, before: int) -> int:
    """As `newest_step`; what was known before, where the store does not answer."""
    try:
        return newest_step(job)
    except RunFailed as error:
        log.warning("%s", error)
        return before
