"""The queue in the store: records, archives, schedules, and one holder."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from trainplane.cluster.shared_queue.archive import fetch_folder, store_folder
from trainplane.cluster.shared_queue.record import QueueJob, Quotas, Template
from trainplane.cluster.shared_queue.schedule import Schedule, checked_cron, due_job, next_moment
from trainplane.cluster.shared_queue.store import SharedQueue
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.storage.lease import StoreLease

TEMPLATE = Template(("train", "demo"), "python -m x", (("jobs", "d1"),), "d2", {"A": "b"}, {"CPU": 2.0}, user="ann")


@pytest.fixture
def queue(tmp_path):
    return SharedQueue(open_store(str(tmp_path / "queue")))


def test_equal_jobs_are_one_until_they_have_ended(queue):
    first = queue.add(QueueJob("isnet-1", TEMPLATE, 1.0))
    assert queue.add(QueueJob("isnet-1", TEMPLATE, 2.0)) == first
    assert queue.find("isnet-1") == first
    queue.write(replace(first, state="ended", ended=3.0))
    assert queue.add(QueueJob("isnet-1", TEMPLATE, 4.0)).id == "isnet-1-r2"
    assert [job.id for job in queue.jobs()] == ["isnet-1-r2", "isnet-1"]
    # What ended long ago goes.
    queue.remove_old(queue.jobs())
    assert [job.id for job in queue.jobs()] == ["isnet-1-r2"]


def test_quotas_and_wishes_are_kept(queue):
    assert queue.quotas() == Quotas()
    queue.set_quotas(Quotas({"jobs": 2.0}, {"ann": {"CPU": 4.0}}))
    assert queue.quotas().of("ann") == {"jobs": 2.0, "CPU": 4.0}
    queue.cancel("isnet-1")
    assert queue.take_cancelled() == ["isnet-1"]
    queue.forget_cancelled("isnet-1")
    assert queue.take_cancelled() == []


def test_folders_come_back_as_they_were_or_not_at_all(queue, tmp_path):
    folder = tmp_path / "code"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.py").write_text("print(1)\n")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    digest = store_folder(queue.store, folder)
    assert store_folder(queue.store, folder) == digest
    back = fetch_folder(queue.store, digest, tmp_path / "back")
    assert (back / "below" / "a.py").read_text() == "print(1)\n"
    assert (back / "run").stat().st_mode & 0o111
    # Somebody changed what runs.
    (folder / "below" / "a.py").write_text("print(2)\n")
    other = store_folder(queue.store, folder)
    queue.store.write(f"files/{digest}.zip", queue.store.read(f"files/{other}.zip"))
    with pytest.raises(RunFailed, match="not those that were submitted"):
        fetch_folder(queue.store, digest, tmp_path / "changed")
    with pytest.raises(RunFailed, match="are gone"):
        fetch_folder(queue.store, "0" * 64, tmp_path / "gone")


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def test_each_moment_of_a_schedule_is_one_job(queue):
    nightly = Schedule("nightly", "0 3 * * *", TEMPLATE, since=at("2026-11-01T12:00"))
    queue.set_schedule(nightly)
    assert list(queue.schedules()) == [nightly]
    assert next_moment(nightly.cron, at("2026-11-01T12:00")) == at("2026-11-02T03:00")
    # Not before it was made, not long after, and the same one whenever somebody looks.
    assert due_job(nightly, at("2026-11-01T13:00")) is None
    first = due_job(nightly, at("2026-11-02T03:00"))
    assert first is not None
    assert first.id == "isnet-nightly-20261102t0300"
    assert due_job(nightly, at("2026-11-02T03:59")) == first
    assert due_job(nightly, at("2026-11-02T09:00")) is None
    assert queue.create(first)
    assert not queue.create(first)
    queue.remove_schedule("nightly")
    assert list(queue.schedules()) == []


@pytest.mark.parametrize(
    ("cron", "needs"),
    [
        ("0 0 30 2 *", "never met"),
        ("every day", "five fields"),
        ("61 * * * *", "is no schedule"),
        ("* * * * * *", "five"),
    ],
)
def test_schedules_that_cannot_be_met_are_refused(cron, needs):
    with pytest.raises(UserError, match=needs):
        checked_cron(cron, now=at("2026-11-01T12:00"))


def test_one_of_two_holds_a_lease_and_the_other_takes_over(tmp_path):
    store, now = open_store(str(tmp_path)), [0.0]
    one, two = (StoreLease(store, "x.lease", term_s=30, clock=lambda: now[0]) for _ in range(2))
    assert one.hold()
    assert not two.hold()
    for _ in range(5):
        now[0] += 10
        assert one.hold()
        assert not two.hold()
    # The first one is gone: the second sees the same text for a whole term.
    now[0] += 29
    assert not two.hold()
    now[0] += 2
    assert two.hold()
    # Back again, the first one learns that it lost it.
    assert not one.hold()
    # Given back, it is free at once.
    two.release()
    assert one.hold()
    one.release()
