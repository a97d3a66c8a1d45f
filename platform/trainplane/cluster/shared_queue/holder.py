"""Acts on the queue: starts jobs, lets them give way.

Each process that follows a job or serves the queue tries to hold its lease; one of them does, and another takes over
within a minute when that one is gone. Everything it does is safe when it is done twice: an attempt has one id, which
Ray takes once. A job that gives way is stopped as `jobs stop` does it: it saves at the end of its step, waits again in
its old place, and goes on from there.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.jobs.client import connect
from trainplane.cluster.jobs.status import JobState, cluster_resources, job_states
from trainplane.cluster.jobs.submit import start_job
from trainplane.cluster.shared_queue.archive import fetch_folder
from trainplane.cluster.shared_queue.decide import Decision, decide
from trainplane.cluster.shared_queue.record import QueueJob
from trainplane.cluster.shared_queue.schedule import due_job
from trainplane.cluster.shared_queue.store import LEASE_TERM_S, SharedQueue
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.observe.sinks import Metrics, sinks_here
from trainplane.storage import StorageError

TICK_S = 2.0
# Longest time between the note of an attempt and the cluster's: the lease's term, and the upload of its files.
START_S = 2 * LEASE_TERM_S
_STATES = ("waiting", "running", "yielding")


def after_look(job: QueueJob, seen: JobState | None, now: float) -> QueueJob:
    """Next state of a job that holds room. Pure.

    Args:
        job: A running or yielding job.
        seen: Its last attempt on the cluster; None where the cluster does not know it.
        now: Seconds since the epoch.
    """
    if seen is None:
        # Whoever noted the attempt may be about to hand it over, and has perhaps lost the lease meanwhile.
        if abs(now - job.started) < START_S:
            return job
        # A head that was started again has forgotten its jobs, and they died with it.
        if job.is_cancelled:
            return replace(job, state="ended", status="STOPPED", exit=1, ended=now, message="it was cancelled")
        return replace(job, state="waiting", message="the cluster's head lost it; it goes on from its last checkpoint")
    if not seen.is_over:
        return job
    # It may have ended by itself before it was asked to.
    if job.state == "yielding" and seen.status != "SUCCEEDED" and not job.is_cancelled and _was_stopped(seen):
        return replace(job, state="waiting", message=f"{job.message}; it goes on when there is room")
    return replace(
        job, state="ended", status=seen.status, exit=seen.exit_status, ended=now, message=error_line(seen.message or "")
    )


def _was_stopped(seen: JobState) -> bool:
    # 130: the command saved and said so; a signal: it was too slow for that.
    return seen.status == "STOPPED" or seen.exit_status >= 128


class QueueHolder:
    """Holds the lease if it can, and acts."""

    def __init__(
        self, context: Context, queue: SharedQueue, *, emit: Callable[[str], None] = lambda text: None
    ) -> None:
        self._context, self._queue, self._emit = context, queue, emit
        self._lease = queue.lease()
        self._metrics = Metrics(sinks_here("queue"), {})
        self.decision = Decision((), {})

    def tick(self) -> bool:
        """Looks, decides and acts once; False while another one does."""
        if not self._lease.hold():
            return False
        connection = connect(self._context)
        now = time.time()
        states = {state.job: state for state in job_states(connection)}
        jobs = self._create_due(self._queue.jobs(), now)
        self._queue.remove_old(jobs)
        _stop_strays(connection, jobs, states)
        jobs = [job for job in jobs if job.state != "ended"]
        jobs = self._cancel(jobs, now)
        jobs = [self._look(connection, job, states, now) for job in jobs]
        jobs = [job for job in jobs if job.state != "ended"]
        self.decision = decide(jobs, capacity_of(connection), self._queue.quotas())
        by_id = {job.id: job for job in jobs}
        for action in self.decision.actions:
            # A start takes a while, and another one may have taken over.
            if not self._lease.hold():
                return False
            if action.kind == "start":
                by_id[action.job] = self._start(connection, by_id[action.job], now)
            else:
                by_id[action.job] = self._give_way(connection, by_id[action.job], by_id[action.to])
        self._show(list(by_id.values()), now)
        return True

    def close(self) -> None:
        """Lets another one take over at once."""
        self._metrics.close()
        self._lease.release()

    def _create_due(self, jobs: list[QueueJob], now: float) -> list[QueueJob]:
        ids = {job.id for job in jobs}
        for schedule in self._queue.schedules():
            job = due_job(schedule, now)
            if job is not None and job.id not in ids and self._queue.create(job):
                self._emit(f"schedule {schedule.name} submits job {job.id}")
                jobs = [*jobs, job]
        return jobs

    def _cancel(self, jobs: list[QueueJob], now: float) -> list[QueueJob]:
        wishes = set(self._queue.take_cancelled())
        changed = []
        for job in jobs:
            if job.id in wishes and not job.is_cancelled:
                if job.state == "waiting":
                    job = replace(job, state="ended", status="STOPPED", exit=1, ended=now, message="it was cancelled")
                # The look that follows stops it.
                job = replace(job, is_cancelled=True)
                self._queue.write(job)
            changed.append(job)
        ids = {job.id for job in jobs}
        for name in wishes:
            # A job may have come after the list, with its wish.
            late = None if name in ids else self._queue.find(name)
            if late is None or late.state == "ended":
                self._queue.forget_cancelled(name)
        return changed

    def _look(self, connection: Any, job: QueueJob, states: Mapping[str, JobState], now: float) -> QueueJob:
        if not job.holds_room:
            return job
        attempt = states.get(job.ray_job)
        after = after_look(job, attempt, now)
        if attempt is not None and not attempt.is_over and (job.state == "yielding" or job.is_cancelled):
            # Again and again: whoever noted it may have been killed before it asked, or the head did not hear it.
            _stop(connection, job)
        if after != job:
            self._queue.write(after)
            self._emit(f"job {job.id}: {after.state}{f', {after.status}' if after.status else ''}; {after.message}")
        return after

    def _start(self, connection: Any, job: QueueJob, now: float) -> QueueJob:
        # Recorded first: killed in between, the next holder finds an attempt that the cluster does not know.
        started = replace(job, state="running", attempts=job.attempts + 1, started=time.time(), message="")
        self._queue.write(started)
        template = job.template
        try:
            with tempfile.TemporaryDirectory(prefix="isnet-queue-") as name:
                root = Path(name)
                packages = [
                    fetch_folder(self._queue.store, digest, root / str(number) / package)
                    for number, (package, digest) in enumerate(template.packages)
                ]
                working_dir = fetch_folder(self._queue.store, template.working_dir, root / "job")
                start_job(
                    connection,
                    started.ray_job,
                    args=template.words,
                    entrypoint=template.entrypoint,
                    packages=packages,
                    working_dir=working_dir,
                    environment=template.environment,
                    cpus=template.cpus,
                    user=template.user,
                )
        except StorageError:
            # The store comes back, and the attempt is given up then.
            raise
        except (RunFailed, UserError) as error:
            failed = replace(started, state="ended", status="FAILED", exit=1, ended=now, message=str(error))
            self._queue.write(failed)
            return failed
        self._emit(f"job {job.id} starts{f' again, attempt {started.attempts}' if started.attempts > 1 else ''}")
        return started

    def _give_way(self, connection: Any, job: QueueJob, to: QueueJob) -> QueueJob:
        message = f"it gives way to {to.id} of {to.template.user}, priority {to.template.priority}"
        yielding = replace(job, state="yielding", message=message)
        self._queue.write(yielding)
        _stop(connection, job)
        self._emit(f"job {job.id}: {message}")
        return yielding

    def _show(self, jobs: list[QueueJob], now: float) -> None:
        for state in _STATES:
            self._metrics.show({"isnet_queue_jobs": float(sum(job.state == state for job in jobs))}, state=state)
        oldest = max((now - job.submitted for job in jobs if job.state == "waiting"), default=0.0)
        self._metrics.show({"isnet_queue_oldest_wait_seconds": oldest})
        self._metrics.flush()


def capacity_of(connection: Any) -> dict[str, float]:
    """Resources of the cluster; `driver` if the head has places."""
    total = cluster_resources(connection)
    capacity = {"CPU": total.cpus, "GPU": total.gpus, "driver": total.drivers}
    return {name: amount for name, amount in capacity.items() if amount}


def _stop(connection: Any, job: QueueJob) -> None:
    try:
        connection.stop_job(job.ray_job)
    except RuntimeError:
        # It is over, or the cluster does not know it: the next look finds that.
        return


def _stop_strays(connection: Any, jobs: Sequence[QueueJob], states: Mapping[str, JobState]) -> None:
    """Stops attempts that were given up and came late."""
    # Their room is another's by now.
    for job in jobs:
        last = job.attempts if job.holds_room else job.attempts + 1
        for number in range(1, last):
            earlier = states.get(replace(job, attempts=number).ray_job)
            if earlier is not None and not earlier.is_over:
                _stop(connection, replace(job, attempts=number))


class HolderThread:
    """Serves the queue beside something else, until it is closed."""

    def __init__(self, holder: QueueHolder) -> None:
        self._holder, self._closing = holder, threading.Event()
        self.error = ""
        self._thread = threading.Thread(target=self._run, name="queue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends it, and gives the lease back."""
        self._closing.set()
        self._thread.join(timeout=30.0)
        self._holder.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._holder.tick()
                self.error = ""
            # A store or a head that is away comes back; and whatever it is, a thread that died would stop all jobs.
            except Exception as error:
                self.error = error_line(error)
            self._closing.wait(TICK_S)
