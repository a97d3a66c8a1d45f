"""The audit trail has one order, and whatever is done to it afterwards is found."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.config.canonical import canonical_json
from trainplane.registry.audit import (
    FIRST,
    AuditRecord,
    BrokenTrail,
    StaleTrail,
    Trail,
    append,
    find_faults,
    read_trail,
    rollback_target,
)
from trainplane.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def move(store: Store, trail: Trail, version: str, alias: str = "production") -> Trail:
    return append(
        store, trail, action="promote", name="isnet", alias=alias, to_version=version, reason="", verdict_digest=None
    )


def trail_of(store: Store, *versions: str) -> Trail:
    trail = read_trail(store, "isnet")
    for version in versions:
        trail = move(store, trail, version)
    return trail


def entry(action: str, version: str) -> AuditRecord:
    return AuditRecord(1, FIRST, "", action, "isnet", "production", None, version, "", "", None, "")  # type: ignore[arg-type]


def test_a_name_without_records_has_nothing_in_production(store: Store) -> None:
    trail = read_trail(store, "isnet")
    assert (trail.records, trail.head, trail.current("production")) == ((), FIRST, None)
    assert find_faults(store, "isnet") == []


def test_records_are_chained_and_say_who_moved_what(store: Store) -> None:
    written = trail_of(store, "1", "2")
    written = move(store, written, "3", alias="candidate")
    trail = read_trail(store, "isnet")
    assert trail == written
    assert [e.number for e in trail.records] == [1, 2, 3]
    assert [e.from_version for e in trail.records] == [None, "1", None]
    assert trail.current("production") == "2"
    assert trail.current("candidate") == "3"
    assert trail.aliases() == ["candidate", "production"]
    assert "@" in trail.records[0].who
    assert trail.records[0].time.endswith("+00:00")
    assert find_faults(store, "isnet") == []
    assert [found.key for found in store.list("audit/")] == [f"audit/isnet/00000{n}.json" for n in (1, 2, 3)]


def test_trails_of_different_names_do_not_mix(store: Store) -> None:
    trail_of(store, "1")
    assert read_trail(store, "isne").records == ()
    assert read_trail(store, "isnet2").records == ()


def test_of_writers_who_saw_the_same_trail_one_wins(store: Store) -> None:
    seen = trail_of(store, "1")
    outcomes: list[str] = []
    barrier = threading.Barrier(8)

    def write(version: str) -> None:
        barrier.wait()
        try:
            move(store, seen, version)
            outcomes.append(f"won {version}")
        except StaleTrail as late:
            outcomes.append(str(late))

    writers = [threading.Thread(target=write, args=(str(version),)) for version in range(2, 10)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    [won] = [outcome for outcome in outcomes if outcome.startswith("won ")]
    losers = [outcome for outcome in outcomes if outcome != won]
    assert len(losers) == 7
    assert all("another process has written record 2 of isnet" in loser for loser in losers)
    assert read_trail(store, "isnet").current("production") == won.removeprefix("won ")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        ("change", "000003.json: record 2 before it was changed"),
        ("remove", "000003.json: record 2 is missing before it"),
        ("remove first", "000002.json: record 1 is missing before it"),
        ("not JSON", "000002.json: is no audit record"),
        ("deep", "000002.json: is no audit record"),
        ("no number", "000002.json: is no audit record"),
        ("spaces", "000002.json: is not in canonical form"),
        ("other name", "000002.json: says it is record 2 of other"),
    ],
)
def test_whatever_is_done_to_the_trail_is_found(store: Store, damage: str, complaint: str) -> None:
    trail_of(store, "1", "2", "3")
    key = "audit/isnet/000002.json"
    stored = json.loads(store.read(key))
    if damage == "change":
        store.write(key, canonical_json({**stored, "to_version": "9"}))
    elif damage == "remove":
        store.delete(key)
    elif damage == "remove first":
        store.delete("audit/isnet/000001.json")
    elif damage == "not JSON":
        store.write(key, b"garbage")
    elif damage == "deep":
        store.write(key, b"[" * 100_000)
    elif damage == "no number":
        store.write(key, store.read(key).replace(b'"reason":""', b'"reason":NaN'))
    elif damage == "spaces":
        store.write(key, json.dumps(stored).encode())
    else:
        store.write(key, canonical_json({**stored, "name": "other"}))
    found = find_faults(store, "isnet")
    assert any(complaint in fault for fault in found), found
    with pytest.raises(BrokenTrail, match="isnet models audit isnet --verify"):
        read_trail(store, "isnet")


def test_rollback_goes_back_along_what_was_in_production() -> None:
    history = [entry("promote", "1"), entry("promote", "2"), entry("force", "3")]
    assert rollback_target(history) == "2"
    history.append(entry("rollback", "2"))
    assert rollback_target(history) == "1"
    history.append(entry("rollback", "1"))
    assert rollback_target(history) is None
    history.append(entry("promote", "3"))
    assert rollback_target(history) == "1"


@given(st.lists(st.one_of(st.just("rollback"), st.sampled_from(["1", "2", "3", "4"])), max_size=30))
def test_a_rollback_never_stays_where_it_is(moves: list[str]) -> None:
    history: list[AuditRecord] = []
    for wanted in moves:
        target = rollback_target(history)
        if wanted != "rollback":
            history.append(entry("promote", wanted))
        elif target is not None:
            assert target != history[-1].to_version
            assert target in {past.to_version for past in history[:-1]}
            history.append(entry("rollback", target))
