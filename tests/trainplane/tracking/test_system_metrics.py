"""System metrics are recorded beside the training, and continue where an earlier attempt ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.system_metrics import MachineUsage, SystemMonitor
from trainplane.tracking.tracker import Tracker


def test_usage_is_within_the_machine() -> None:
    usage = MachineUsage().sample()
    assert 0 <= usage["cpu_percent"] <= 100
    assert 0 < usage["memory_percent"] <= 100
    assert 20 < usage["rss_mib"] < 100_000


def test_counters_are_recorded_as_their_growth_per_second() -> None:
    started, recorded, enough = time.monotonic(), list[Mapping[str, float]](), threading.Event()

    def record(values: Mapping[str, float]) -> None:
        recorded.append(values)
        if sum("pictures_per_s" in values for values in recorded) >= 3:
            enough.set()

    monitor = SystemMonitor(record, every_s=0.1)
    monitor.watch(lambda: {"pictures_per_s": 100 * (time.monotonic() - started)})
    assert enough.wait(30)
    monitor.close()
    rates = [values["pictures_per_s"] for values in recorded if "pictures_per_s" in values]
    assert rates == pytest.approx([100] * len(rates), rel=0.2)


def test_gauges_are_recorded_beside_this_machine() -> None:
    recorded, enough = list[Mapping[str, float]](), threading.Event()

    def record(values: Mapping[str, float]) -> None:
        recorded.append(values)
        if "node-1/cpu_percent" in values:
            enough.set()

    monitor = SystemMonitor(record, every_s=0.05)
    monitor.watch(dict, lambda: {"node-1/cpu_percent": 7.0})
    assert enough.wait(30)
    monitor.close()
    assert recorded[-1]["node-1/cpu_percent"] == 7.0
    assert "cpu_percent" in recorded[-1]


def test_samples_of_two_attempts_continue_each_other(tmp_path: Path, tracking_uri: str) -> None:
    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    for _ in range(2):
        tracker = Tracker(
            TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600, monitor_every_s=0.05
        )
        tracker.resume_from(0)
        tracker.monitor(dict)
        already, deadline = (tmp_path / "s" / "records.jsonl").read_bytes().count(b"system/rss"), time.monotonic() + 30
        while (tmp_path / "s" / "records.jsonl").read_bytes().count(b"system/rss") < already + 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        tracker.close(0)
    assert upload(tmp_path / "s", client).error is None
    points = client.get_metric_history(run_id, "system/rss_mib")
    assert [point.step for point in points] == list(range(len(points)))
    assert len(points) >= 6
