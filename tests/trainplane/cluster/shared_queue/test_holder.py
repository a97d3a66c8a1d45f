"""What the holder asks of a cluster, where an earlier one was killed or was slow."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from trainplane.cluster.context import local
from trainplane.cluster.jobs.status import JobState
from trainplane.cluster.shared_queue import holder as module
from trainplane.cluster.shared_queue.holder import QueueHolder
from trainplane.cluster.shared_queue.record import QueueJob, Template
from trainplane.cluster.shared_queue.store import SharedQueue
from trainplane.storage import StorageError, open_store

TEMPLATE = Template(("train", "demo"), "python -m x", (), "d2", {}, {"CPU": 2.0}, user="ann")


class Head:
    """Jobs that never end, and those that it was asked to stop."""

    def __init__(self, *jobs: str) -> None:
        self.jobs = jobs
        self.stopped: list[str] = []

    def states(self) -> list[JobState]:
        return [JobState(job, "RUNNING", "", "", None, 0, None) for job in self.jobs]

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)


@pytest.fixture
def queue(tmp_path):
    return SharedQueue(open_store(str(tmp_path / "queue")))


@pytest.fixture
def holder_at(tmp_path, queue, monkeypatch):
    def build(head: Head) -> QueueHolder:
        monkeypatch.setattr(module, "connect", lambda context: head)
        monkeypatch.setattr(module, "job_states", lambda connection: connection.states())
        monkeypatch.setattr(module, "capacity_of", lambda connection: {"CPU": 2.0})
        return QueueHolder(local(tmp_path), queue)

    return build


@pytest.mark.parametrize("how", [{"state": "yielding"}, {"state": "running", "is_cancelled": True}])
def test_a_job_that_did_not_hear_its_stop_is_asked_again(queue, holder_at, how):
    queue.create(QueueJob("x", TEMPLATE, 1.0, attempts=1, started=time.time(), **how))
    head = Head("x-1")
    holder = holder_at(head)
    assert holder.tick()
    assert holder.tick()
    assert head.stopped == ["x-1", "x-1"]


def test_an_attempt_that_was_given_up_and_came_late_is_stopped(queue, holder_at):
    running = QueueJob("x", TEMPLATE, 1.0, "running", attempts=2, started=time.time())
    queue.create(running)
    queue.create(replace(running, id="gone", state="ended", attempts=1, ended=time.time()))
    head = Head("x-1", "x-2", "gone-1")
    assert holder_at(head).tick()
    assert set(head.stopped) == {"x-1", "gone-1"}


def test_a_wish_about_a_job_that_came_after_the_list_is_kept(queue, holder_at):
    holder = holder_at(Head())
    job = queue.add(QueueJob("late", TEMPLATE, 1.0))
    queue.cancel("late")
    queue.cancel("unknown")
    assert holder._cancel([], 5.0) == []
    assert queue.take_cancelled() == ["late"]
    [ended] = holder._cancel([job], 6.0)
    assert (ended.state, queue.take_cancelled()) == ("ended", [])


def test_a_store_that_is_away_fails_no_job(queue, holder_at, monkeypatch):
    queue.create(QueueJob("x", TEMPLATE, 1.0))

    def away(*args: object) -> None:
        raise StorageError("away")

    monkeypatch.setattr(module, "fetch_folder", away)
    holder = holder_at(Head())
    with pytest.raises(StorageError):
        holder.tick()
    assert queue.find("x").state == "running"
    queue.write(replace(queue.find("x"), started=1.0))
    with pytest.raises(StorageError):
        holder.tick()
    assert queue.find("x").attempts == 2
