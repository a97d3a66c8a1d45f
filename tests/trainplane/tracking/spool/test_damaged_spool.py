"""A spool that a disk has damaged, or that two processes want, or whose clock jumps, loses no more than the damage."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.spool import Spool, read_acknowledged
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.tracker import Tracker

STEPS = 300


@pytest.fixture
def run_id(tracking_uri: str) -> str:
    return str(TrackingServer(tracking_uri).client.create_run("0").info.run_id)


def recorded(folder: Path, tracking_uri: str, run_id: str) -> list[bytes]:
    """The lines of a spool of `STEPS` steps."""
    spool = Spool(folder, run_id=run_id, tracking=tracking_uri)
    for step in range(STEPS):
        spool.append({"k": "metrics", "step": step, "ts": step, "v": {"a": step / 3}})
        if step % 50 == 0:
            spool.append({"k": "tags", "v": {"at": str(step)}})
    spool.close()
    return (folder / "records.jsonl").read_bytes().splitlines(keepends=True)


def arrived(tracking_uri: str, run_id: str) -> dict[int, float]:
    points = TrackingServer(tracking_uri).client.get_metric_history(run_id, "a")
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_cost_their_own_lines_alone(tmp_path: Path, tracking_uri: str, run_id: str, seed: int) -> None:
    lines = recorded(tmp_path / "s", tracking_uri, run_id)
    chance = random.Random(seed)
    hurt = sorted(chance.sample(range(len(lines)), 20))
    for index in hurt:
        line = bytearray(lines[index])
        # Not its end: two lines in one would be both lost, which is the same kind of loss.
        line[chance.randrange(len(line) - 1)] ^= 1 << chance.randrange(8)
        lines[index] = bytes(line)
    (tmp_path / "s" / "records.jsonl").write_bytes(b"".join(lines))
    outcome = upload(tmp_path / "s", TrackingServer(tracking_uri).client)
    assert (outcome.unsent, outcome.error) == (0, None)
    untouched = [json.loads(line) for index, line in enumerate(lines) if index not in hurt]
    expected = {record["step"]: record["v"]["a"] for record in untouched if record["k"] == "metrics"}
    assert arrived(tracking_uri, run_id).items() >= expected.items()


@pytest.mark.parametrize("part", [0.0, 0.31, 0.5, 0.99])
def test_what_is_cut_off_is_lost_and_recording_goes_on(
    tmp_path: Path, tracking_uri: str, run_id: str, part: float
) -> None:
    lines = b"".join(recorded(tmp_path / "s", tracking_uri, run_id))
    kept = lines[: int(len(lines) * part)]
    client = TrackingServer(tracking_uri).client
    upload(tmp_path / "s", client)
    (tmp_path / "s" / "records.jsonl").write_bytes(kept)
    spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
    spool.append({"k": "metrics", "step": STEPS, "ts": STEPS, "v": {"a": 1.0}})
    spool.close()
    assert upload(tmp_path / "s", client).error is None
    assert arrived(tracking_uri, run_id) == {**{step: step / 3 for step in range(STEPS)}, STEPS: 1.0}


@pytest.mark.parametrize("lines_lost", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("is_sent_before", [False, True])
def test_records_cut_off_behind_waiting_points_neither_hide_nor_double_the_next_ones(
    tmp_path: Path, tracking_uri: str, run_id: str, lines_lost: int, is_sent_before: bool
) -> None:
    """As after a power cut: what was acknowledged is on the disk, and not all of what it was about."""
    client = TrackingServer(tracking_uri).client
    for first, value in ((1, 0.25), (4, 0.75)):
        spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
        spool.resume_from(first - 1, b"")
        for step in range(first, first + 6):
            spool.append({"k": "metrics", "step": step, "ts": step, "v": {"a": value}})
            if step == 3:
                spool.append({"k": "commit", "step": 3})
        spool.append({"k": "commit", "step": 9}) if first > 1 else None
        spool.close()
        assert upload(tmp_path / "s", client).error is None
        if first == 1:
            lines = (tmp_path / "s" / "records.jsonl").read_bytes().splitlines(keepends=True)
            (tmp_path / "s" / "records.jsonl").write_bytes(b"".join(lines[: len(lines) - lines_lost]))
            if is_sent_before:
                assert upload(tmp_path / "s", client).error is None
    assert arrived(tracking_uri, run_id) == {step: 0.25 if step < 4 else 0.75 for step in range(1, 10)}


@pytest.mark.parametrize("name", ["sent.json", "heard.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"offset": "x"}', b'{"offset": 1e9, "marks": {}}', b"\xff\xfe"]
)
def test_notes_that_are_damaged_cost_a_second_sending_at_most(
    tmp_path: Path, tracking_uri: str, run_id: str, name: str, content: bytes
) -> None:
    recorded(tmp_path / "s", tracking_uri, run_id)
    client = TrackingServer(tracking_uri).client
    assert upload(tmp_path / "s", client).error is None
    (tmp_path / "s" / name).write_bytes(content)
    spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
    spool.append({"k": "metrics", "step": STEPS, "ts": STEPS, "v": {"a": 1.0}})
    spool.close()
    outcome = upload(tmp_path / "s", client)
    assert (outcome.unsent, outcome.error) == (0, None)
    assert arrived(tracking_uri, run_id) == {**{step: step / 3 for step in range(STEPS)}, STEPS: 1.0}
    assert read_acknowledged(tmp_path / "s").marks["a"] == STEPS


def test_a_clock_that_jumps_back_loses_and_doubles_nothing(
    tmp_path: Path, tracking_uri: str, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_700_000_000_000_000_000
    jumps: list[Any] = [0, 86_400, -86_400, -(10**6), 10**9]
    for attempt in range(2):
        tracker = Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
        tracker.resume_from(2 * attempt)
        for step in range(2 * attempt + 1, 6):
            shifted = now + jumps[step - 1] * 10**9 + attempt
            monkeypatch.setattr("trainplane.tracking.tracker.time.time_ns", lambda shifted=shifted: shifted)
            tracker.log_metrics(step, {"a": float(step)})
            if step == 2:
                tracker.commit(2)
        tracker.commit(5) if attempt else None
        tracker.close(0)
        monkeypatch.undo()
        assert upload(tmp_path / "s", TrackingServer(tracking_uri).client).error is None
    assert arrived(tracking_uri, run_id) == {step: float(step) for step in range(1, 6)}


def test_a_second_process_of_the_same_run_is_told_so(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    first = Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
    with pytest.raises(UserError, match="another process is recording"):
        Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
    first.log_metrics(1, {"a": 1.0})
    first.close(0)
    assert upload(tmp_path / "s", TrackingServer(tracking_uri).client).error is None
    assert arrived(tracking_uri, run_id) == {1: 1.0}
