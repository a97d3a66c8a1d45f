"""A run is given up when its lease stood still for its term and a last chance, by one clock, and never before."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.heartbeat import (
    GRACE_S,
    LEASE_TAG,
    LEASE_TERM_S,
    RENEW_EVERY_S,
    LeaseHeartbeat,
    Sighting,
    assess_lease,
    fail_stale_runs,
    is_look_due,
    owner_id,
    renew_lease,
    sightings_from_json,
)
from trainplane.tracking.run_id import OWNER_TAG, REAPED_TAG, RunSpec
from trainplane.tracking.runs import find_or_create_run


def looks(leases: list[tuple[float, str]]) -> list[str]:
    """The verdicts of one observer who looks at these times of its clock."""
    seen, verdicts = None, []
    for now_s, lease in leases:
        verdict, seen = assess_lease(lease, seen, now_s)
        verdicts.append(verdict)
    return verdicts


def test_a_dead_run_is_given_up_at_the_third_look() -> None:
    gone = LEASE_TERM_S + GRACE_S
    assert looks([(0, "a"), (LEASE_TERM_S - 1, "a"), (LEASE_TERM_S, "a"), (gone - 1, "a"), (gone, "a")]) == [
        "alive",
        "alive",
        "suspect",
        "suspect",
        "expired",
    ]
    # However late the second look comes, the holder has its last chance.
    assert looks([(0, "a"), (1e6, "a"), (1e6 + GRACE_S, "a")]) == ["alive", "suspect", "expired"]


@given(
    st.lists(st.floats(0.1, 2000), min_size=1, max_size=40),
    st.floats(-1e9, 1e9),
    st.floats(0.1, GRACE_S - RENEW_EVERY_S - 1),
)
def test_a_living_run_is_never_given_up_whatever_its_clock_says(
    pauses: list[float], skew_s: float, delay_s: float
) -> None:
    now_s, seen = 0.0, None
    for pause_s in pauses:
        now_s += pause_s
        # It renews every minute, a little late, and writes down what its own clock reads.
        renewed = int((now_s - delay_s) // RENEW_EVERY_S)
        verdict, seen = assess_lease(f"{skew_s + RENEW_EVERY_S * renewed}", seen, now_s)
        assert verdict != "expired"


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_after_a_reboot_looking_starts_over(before_s: float, now_s: float) -> None:
    verdict, _ = assess_lease("a", Sighting("a", before_s + now_s + 1, None), now_s)
    assert verdict == "alive"
    stored = {"boot": "one", "seen": {"r": {"lease": "a", "since_s": 1.0, "doubtful_s": None}}}
    assert sightings_from_json(json.loads(json.dumps(stored)), boot="one") == {"r": Sighting("a", 1.0)}
    assert sightings_from_json(stored, boot="two") == {}
    assert sightings_from_json({"boot": "one", "seen": {"r": {"lease": 1}}}, boot="one") == {}


def test_a_disk_that_cannot_keep_what_was_seen_is_no_fault_of_the_server(tracking_uri: str, tmp_path: Path) -> None:
    (tmp_path / "leases.json").mkdir()
    assert fail_stale_runs(TrackingServer(tracking_uri), tmp_path) == []


def test_a_run_of_a_host_that_is_gone_is_closed_and_a_living_one_takes_its_run_back(
    tracking_uri: str, tmp_path: Path
) -> None:
    client = TrackingServer(tracking_uri).client

    def start(key: str) -> str:
        root = str(tmp_path / "artifacts")
        handle = find_or_create_run(
            TrackingServer(tracking_uri), RunSpec("isnet", run_key=key, run_name=key, tags={}, artifact_root=root)
        )
        client.set_tag(handle.run_id, "trainplane.owner", "another-host/1:1:1.00")
        return handle.run_id

    dead, alive = start("dead"), start("alive")
    heartbeat = LeaseHeartbeat(TrackingServer(tracking_uri), alive, home=tmp_path / "other", spool=None, every_s=0.1)
    deadline = time.monotonic() + 60
    reaped: list[str] = []
    while not reaped and time.monotonic() < deadline:
        reaped = fail_stale_runs(TrackingServer(tracking_uri), tmp_path / "home", term_s=3.0)
        time.sleep(0.2)
    assert reaped == [dead]
    assert client.get_run(dead).info.status == "FAILED"
    assert REAPED_TAG in client.get_run(dead).data.tags
    heartbeat.close()

    # As after minutes in which it was cut off.
    client.set_tag(alive, REAPED_TAG, "given up")
    client.set_terminated(alive, status="FAILED")
    before = client.get_run(alive).data.tags[LEASE_TAG]
    renew_lease(client, alive)
    run = client.get_run(alive)
    assert (run.info.status, REAPED_TAG in run.data.tags) == ("RUNNING", False)
    assert run.data.tags[LEASE_TAG] != before
    # One that its own process has closed stays closed.
    client.set_terminated(alive, status="FINISHED")
    renew_lease(client, alive)
    assert client.get_run(alive).info.status == "FINISHED"


@pytest.mark.parametrize("owner", ["HERE:abc:def", "HERE:1", "HERE:", "HERE:1:2:3", "HERE:-1:2", "HERE:²:1", "", ":"])
def test_an_edited_owner_stops_nobody_and_leaves_the_run_to_its_lease(
    tracking_uri: str, tmp_path: Path, owner: str
) -> None:
    server = TrackingServer(tracking_uri)
    spec = RunSpec("isnet", run_key="k", run_name="r", tags={}, artifact_root=str(tmp_path / "artifacts"))
    run_id = find_or_create_run(server, spec).run_id
    server.client.set_tag(run_id, OWNER_TAG, owner.replace("HERE", owner_id().rsplit(":", 2)[0]))
    assert fail_stale_runs(server, tmp_path) == []
    assert server.client.get_run(run_id).info.status == "RUNNING"


@pytest.mark.parametrize(("of_search", "of_trial"), [("KILLED", "KILLED"), ("FAILED", "FAILED"), ("RUNNING", "FAILED")])
def test_a_trial_that_ended_with_its_search_has_not_failed(
    tracking_uri: str, tmp_path: Path, of_search: str, of_trial: str
) -> None:
    server, root = TrackingServer(tracking_uri), str(tmp_path / "artifacts")
    search = find_or_create_run(server, RunSpec("isnet", run_key="s", run_name="s", artifact_root=root)).run_id
    spec = RunSpec("isnet", run_key="t", run_name="t", artifact_root=root, parent_run_id=search)
    trial = find_or_create_run(server, spec).run_id
    if of_search != "RUNNING":
        server.client.set_terminated(search, status=of_search)
    # A process of this host that has ended.
    server.client.set_tag(trial, OWNER_TAG, f"{owner_id().rsplit(':', 2)[0]}:4194303:1")
    assert fail_stale_runs(server, tmp_path) == [trial]
    assert server.client.get_run(trial).info.status == of_trial
    assert REAPED_TAG in server.client.get_run(trial).data.tags
    # Nothing was seen of another host, so nothing is remembered.
    assert not (tmp_path / "leases.json").exists()


def test_one_process_of_a_host_looks_for_dead_runs_each_minute(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert [is_look_due(home, "http://one", 60.0) for _ in range(3)] == [True, False, False]
    (mark,) = home.iterdir()
    # Runs of another server are looked for, too.
    assert is_look_due(home, "http://two", 60.0)
    # A minute later, and after a clock that was set back.
    for seconds in (-50.0, 3600.0):
        os.utime(mark, (time.time() + seconds, time.time() + seconds))
        assert [is_look_due(home, "http://one", 60.0) for _ in range(2)] == [True, False]
