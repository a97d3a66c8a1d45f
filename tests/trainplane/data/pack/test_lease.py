"""Who may pack into a place: one at a time, and never for ever."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from trainplane.data.pack import lease as claims
from trainplane.data.pack.lease import Claim, Owner, is_gone
from trainplane.errors import UserError
from trainplane.storage import Store, open_store

HERE = Owner("n", "host", "machine", pid=7, born=100.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "place"))


@pytest.mark.parametrize(
    ("owner", "machine", "born", "gone"),
    [
        (HERE, "machine", 100.0, False),
        (HERE, "machine", None, True),
        (HERE, "machine", 250.0, True),
        (HERE, "another", None, None),
        (replace(HERE, machine=""), "", None, None),
        (replace(HERE, ended=True), "another", 100.0, True),
    ],
    ids=["alive", "no process", "the number was given out again", "another machine", "cannot be told", "said so"],
)
def test_an_owner_is_dead_for_sure_alive_for_sure_or_to_be_watched(owner, machine, born, gone) -> None:
    assert is_gone(owner, machine=machine, born=lambda pid: born) is gone


def test_a_claim_that_is_finished_leaves_nothing(store: Store) -> None:
    claim = Claim(store)
    claim.take()
    assert not claim.follows_unfinished
    assert [entry.key for entry in store.list()] == ["packing.claim-000000.json"]
    store.write("packing.shard-000000.json", b"{}")
    claim.give_back(finished=True)
    assert list(store.list()) == []


def test_the_next_one_knows_that_something_was_left(store: Store) -> None:
    first, second = Claim(store), Claim(store)
    first.take()
    with pytest.raises(UserError, match="is at work there"):
        second.take()
    first.give_back(finished=False)
    second.take()
    assert second.follows_unfinished
    second.give_back(finished=True)


def test_a_killed_process_of_this_machine_is_not_waited_for(store: Store) -> None:
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(store,))
    process.start()
    process.join(30)
    claim = Claim(store, patience_s=3600)
    claim.take()
    assert claim.follows_unfinished
    claim.give_back(finished=True)


def _take_and_die(store: Store) -> None:
    Claim(store).take()
    os._exit(9)


def elsewhere(store: Store, beats: int = 3) -> Owner:
    """A claim of a process on another machine."""
    owner = Owner("x", "far-away", "another machine", pid=1, born=0.0, beats=beats)
    store.write("packing.claim-000004.json", json.dumps(owner.__dict__).encode())
    return owner


def test_an_owner_elsewhere_is_dead_when_its_claim_stands_still(store: Store) -> None:
    elsewhere(store)
    claim = Claim(store, patience_s=0.1)
    claim.take()
    assert [entry.key for entry in store.list()][-1] == "packing.claim-000005.json"
    claim.give_back(finished=True)


def test_an_owner_elsewhere_that_beats_is_alive(store: Store) -> None:
    elsewhere(store)
    threading.Timer(0.1, elsewhere, (store, 4)).start()
    with pytest.raises(UserError, match=r"is at work there \(process 1 on far-away\)"):
        Claim(store, patience_s=0.5).take()


def test_an_owner_that_overslept_learns_that_it_was_followed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_BEAT_S", 0.05)
    claim = Claim(store)
    claim.take()
    store.create("packing.claim-000001.json", b"{}")
    for _ in range(100):
        if claim._lost:
            break
        threading.Event().wait(0.05)
    with pytest.raises(UserError, match="took it over"):
        claim.check()
    claim.give_back(finished=True)
    # What the follower needs is not taken away.
    assert "packing.claim-000001.json" in [entry.key for entry in store.list()]


def test_a_claim_that_cannot_be_read_blocks_nobody(store: Store) -> None:
    store.write("packing.claim-000000.json", b"not json")
    claim = Claim(store)
    claim.take()
    claim.give_back(finished=True)


def test_files_of_somebody_else_stop_nothing_and_stay(store: Store) -> None:
    theirs = ["packing.claim-000000.json.bak", "packing.claim-mine.json", "packing.list.txt", "packing.shard-x.json"]
    for key in theirs:
        store.write(key, b"{}")
    claim = Claim(store)
    claim.take()
    claim.give_back(finished=True)
    assert [entry.key for entry in store.list()] == theirs
