"""The lease of a destination: one packing at a time, and never for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from trainplane.data.pack import lease as lease_module
from trainplane.data.pack.lease import Owner, PackLease
from trainplane.errors import UserError
from trainplane.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "place"))


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({}, False),
        ({"born": 250.0}, True),
        ({"machine": "another"}, None),
        ({"machine": ""}, None),
        ({"machine": "another", "ended": True}, True),
    ],
    ids=["alive", "the number was reused", "another machine", "unknown machine", "ended"],
)
def test_an_owner_is_gone_alive_or_cannot_be_looked_up(changes, gone) -> None:
    assert replace(Owner.this_process(), **changes).is_gone() is gone


def test_a_lease_that_is_finished_leaves_nothing(store: Store) -> None:
    lease = PackLease(store)
    lease.acquire()
    assert not lease.follows_unfinished
    assert [entry.key for entry in store.list()] == ["packing.claim-000000.json"]
    store.write("packing.shard-000000.json", b"{}")
    lease.release(finished=True)
    assert list(store.list()) == []


def test_the_next_one_knows_that_something_was_left(store: Store) -> None:
    first, second = PackLease(store), PackLease(store)
    first.acquire()
    with pytest.raises(UserError, match="is running there"):
        second.acquire()
    first.release(finished=False)
    second.acquire()
    assert second.follows_unfinished
    second.release(finished=True)


def test_a_killed_process_of_this_machine_is_not_waited_for(store: Store) -> None:
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(store,))
    process.start()
    process.join(30)
    lease = PackLease(store, patience_s=3600)
    lease.acquire()
    assert lease.follows_unfinished
    lease.release(finished=True)


def _take_and_die(store: Store) -> None:
    PackLease(store).acquire()
    os._exit(9)


def elsewhere(store: Store, beats: int = 3) -> Owner:
    """A lease of a process on another machine."""
    owner = Owner("x", "far-away", "another machine", pid=1, born=0.0, beats=beats)
    store.write("packing.claim-000004.json", json.dumps(owner.__dict__).encode())
    return owner


def test_an_owner_elsewhere_is_dead_when_its_lease_stands_still(store: Store) -> None:
    elsewhere(store)
    lease = PackLease(store, patience_s=0.1)
    lease.acquire()
    assert [entry.key for entry in store.list()][-1] == "packing.claim-000005.json"
    lease.release(finished=True)


def test_an_owner_elsewhere_that_beats_is_alive(store: Store) -> None:
    elsewhere(store)
    threading.Timer(0.1, elsewhere, (store, 4)).start()
    with pytest.raises(UserError, match=r"is running there \(process 1 on far-away\)"):
        PackLease(store, patience_s=0.5).acquire()


def test_time_in_which_the_store_is_away_is_no_silence_of_an_owner(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(store)
    monkeypatch.setattr(lease_module, "_SLOW_S", 0.2)
    answers, latest = [], lease_module.latest_lease

    def slow_once(place: Store) -> object:
        answers.append(place)
        # The second look has to wait for the store; then the owner needs a moment to renew its lease.
        if len(answers) == 2:
            time.sleep(0.6)
            threading.Timer(0.2, elsewhere, (store, 4)).start()
        return latest(place)

    monkeypatch.setattr(lease_module, "latest_lease", slow_once)
    with pytest.raises(UserError, match=r"is running there \(process 1 on far-away\)"):
        PackLease(store, patience_s=0.5).acquire()


def test_a_heartbeat_that_comes_late_makes_no_lease_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = PackLease(store)
    lease.acquire()
    (stamp,) = (entry.stamp for entry in store.list("packing.claim-"))
    # It is suspended between its look at the leases and its write; the follower has ended by then.
    store.delete("packing.claim-000000.json")
    assert lease._write(stamp) is False
    assert list(store.list()) == []
    lease.release(finished=True)


def test_an_owner_that_overslept_learns_that_it_was_followed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "HEARTBEAT_S", 0.05)
    lease = PackLease(store)
    lease.acquire()
    store.create("packing.claim-000001.json", b"{}")
    for _ in range(100):
        if lease.is_lost:
            break
        threading.Event().wait(0.05)
    with pytest.raises(UserError, match="took over while"):
        lease.check()
    lease.release(finished=True)
    # What the follower needs is not taken away.
    assert "packing.claim-000001.json" in [entry.key for entry in store.list()]


def test_an_unreadable_lease_blocks_no_packing(store: Store) -> None:
    store.write("packing.claim-000000.json", b"not json")
    lease = PackLease(store)
    lease.acquire()
    lease.release(finished=True)


def test_files_of_other_programs_stop_nothing_and_stay(store: Store) -> None:
    theirs = ["packing.claim-000000.json.bak", "packing.claim-mine.json", "packing.list.txt", "packing.shard-x.json"]
    for key in theirs:
        store.write(key, b"{}")
    lease = PackLease(store)
    lease.acquire()
    lease.release(finished=True)
    assert [entry.key for entry in store.list()] == theirs


def test_a_lease_that_a_successor_removed_is_lost_too(store: Store) -> None:
    first = PackLease(store)
    first.acquire()
    assert first.fence is not None
    first.fence.check()
    # A successor took over, finished, and removed all notes.
    for entry in list(store.list()):
        store.delete(entry.key)
    with pytest.raises(UserError, match="took over while"):
        first.fence.check()
    first.release(finished=False)
    assert list(store.list()) == []


def test_a_lease_of_the_same_number_by_another_process_is_not_ours(store: Store) -> None:
    first = PackLease(store)
    first.acquire()
    assert first.fence is not None
    store.write("packing.claim-000000.json", json.dumps(replace(Owner.this_process(), nonce="x").__dict__).encode())
    with pytest.raises(UserError, match="took over while"):
        first.fence.check()
    first.release(finished=True)
    assert len(list(store.list())) == 1
