"""The queue in the store.

jobs/ID.json        a job (`record.QueueJob`); created once, changed by the holder alone
cancel/ID           a wish to end it
schedules/NAME.json a recurring job (`schedule.Schedule`)
quota.json          limits by user
files/DIGEST.zip    folders that travel with jobs
holder.lease        who decides and acts (`storage.lease`)
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

from trainplane.cluster.context import Context
from trainplane.cluster.shared_queue.record import QueueJob, Quotas
from trainplane.cluster.shared_queue.schedule import Schedule
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store, open_store
from trainplane.storage.lease import StoreLease

FOLDER = "queue"
LEASE_TERM_S = 30.0
# What ended stays visible for so long.
KEEP_ENDED_S = 7 * 86400.0


class SharedQueue:
    """Jobs, wishes and limits of one queue."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @staticmethod
    def of(context: Context) -> SharedQueue:
        """Queue of a context; `UserError` without a common store."""
        if context.store is None:
            raise UserError(
                f"context {context.name!r} has no common store, where a shared queue is kept; add store = "
                '"s3://bucket/prefix" to it in isnet.toml'
            )
        return SharedQueue(open_store(f"{context.store}/{FOLDER}"))

    def lease(self) -> StoreLease:
        """Lease of the one who decides."""
        return StoreLease(self.store, "holder.lease", term_s=LEASE_TERM_S)

    def add(self, job: QueueJob) -> QueueJob:
        """Adds a job, or finds the same unfinished one."""
        for number in range(1, 1000):
            numbered = replace(job, id=job.id if number == 1 else f"{job.id}-r{number}")
            if self.store.create(_key(numbered.id), _json(numbered.to_json())):
                return numbered
            present = self.find(numbered.id)
            if present is not None and present.state != "ended":
                return present
        raise UserError(f"job {job.id} was submitted a thousand times; change its words")

    def create(self, job: QueueJob) -> bool:
        """Adds a job of this id; False if it exists."""
        return self.store.create(_key(job.id), _json(job.to_json()))

    def write(self, job: QueueJob) -> None:
        """Replaces a job; for the holder alone."""
        self.store.write(_key(job.id), _json(job.to_json()))

    def find(self, job: str) -> QueueJob | None:
        """Reads one job, if it exists and can be read."""
        try:
            return QueueJob.from_json(json.loads(self.store.read(_key(job))))
        except (NotFound, ValueError, KeyError, TypeError):
            return None

    def jobs(self) -> list[QueueJob]:
        """Reads all jobs, those that ended, too."""
        names = [entry.key.removeprefix("jobs/").removesuffix(".json") for entry in self.store.list("jobs/")]
        return [job for name in names if (job := self.find(name)) is not None]

    def remove_old(self, jobs: list[QueueJob]) -> None:
        """Removes what ended long ago."""
        for job in jobs:
            if job.state == "ended" and time.time() - job.ended > KEEP_ENDED_S:
                self.store.delete(_key(job.id))

    def cancel(self, job: str) -> None:
        """Asks the holder to end a job."""
        self.store.write(f"cancel/{job}", b"")

    def take_cancelled(self) -> list[str]:
        """Ids of jobs that users want ended."""
        return [entry.key.removeprefix("cancel/") for entry in self.store.list("cancel/")]

    def forget_cancelled(self, job: str) -> None:
        """Removes a wish that was fulfilled."""
        self.store.delete(f"cancel/{job}")

    def quotas(self) -> Quotas:
        """Limits by user; none where none were set."""
        try:
            stored = json.loads(self.store.read("quota.json"))
            return Quotas(dict(stored.get("default", {})), dict(stored.get("users", {})))
        except NotFound:
            return Quotas()

    def set_quotas(self, quotas: Quotas) -> None:
        """Replaces all limits."""
        self.store.write("quota.json", _json(asdict(quotas)))

    def schedules(self) -> Iterator[Schedule]:
        """Reads all recurring jobs."""
        for entry in self.store.list("schedules/"):
            try:
                yield Schedule.from_json(json.loads(self.store.read(entry.key)))
            except (NotFound, ValueError, KeyError, TypeError):
                continue

    def set_schedule(self, schedule: Schedule) -> None:
        """Adds or replaces a recurring job."""
        self.store.write(f"schedules/{schedule.name}.json", _json(schedule.to_json()))

    def remove_schedule(self, name: str) -> None:
        """Removes a recurring job; what it started goes on."""
        self.store.delete(f"schedules/{name}.json")


def _key(job: str) -> str:
    return f"jobs/{job}.json"


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1).encode()
