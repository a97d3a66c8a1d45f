"""The process that sends: it costs the writer nothing, dies with it, and whatever it leaves arrives later, once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import BUSY, UploadResult, count_unsent, upload
from trainplane.tracking.spool.uploader_process import Orders, Uploader

UNREACHABLE = "http://someone:hidden-word@127.0.0.1:9"  # the discard port: connections are refused at once


@pytest.fixture
def run_id(tracking_uri: str) -> str:
    return str(TrackingServer(tracking_uri).client.create_run("0").info.run_id)


def metric(step: int, value: float = 0.5) -> dict[str, Any]:
    return {"k": "metrics", "step": step, "ts": step, "v": {"train/loss": value, "train/adv": 1.0}}


def points(tracking_uri: str, run_id: str, key: str = "train/loss") -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in TrackingServer(tracking_uri).client.get_metric_history(run_id, key)]


def drain_when_free(folder: Path, tracking_uri: str, timeout_s: float = 30) -> UploadResult:
    """Drain once whoever is at it has ended."""
    deadline = time.monotonic() + timeout_s
    while (result := upload(folder, TrackingServer(tracking_uri).client)).error == BUSY and time.monotonic() < deadline:
        time.sleep(0.1)
    return result


def wait_until_gone(pid: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it outlived its time"
        time.sleep(0.05)


def test_what_is_recorded_arrives_while_it_runs_and_the_rest_at_the_end(
    tmp_path: Path, tracking_uri: str, run_id: str
) -> None:
    spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
    uploader = Uploader(tmp_path / "s", tracking_uri, every_s=0.05)
    spool.append(metric(0))
    deadline = time.monotonic() + 60
    while not points(tracking_uri, run_id) and time.monotonic() < deadline:
        time.sleep(0.1)
    for step in range(1, 1200):
        spool.append(metric(step))
    assert uploader.close(60) == 0
    spool.close()
    assert [step for step, _ in points(tracking_uri, run_id)] == list(range(1200))


def test_an_unreachable_server_costs_the_writer_nothing_and_the_end_little(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", run_id="r", tracking="t")
    started = time.perf_counter()
    uploader = Uploader(tmp_path / "s", UNREACHABLE, every_s=0.01)
    assert time.perf_counter() - started < 20
    durations = []
    for step in range(3000):
        started = time.perf_counter()
        spool.append(metric(step))
        durations.append(time.perf_counter() - started)
    started = time.monotonic()
    left = uploader.close(timeout_s=0.5)
    assert time.monotonic() - started < 20
    assert left == count_unsent(tmp_path / "s") == 3000
    spool.close()
    # How little is `isnet bench tracking`'s to say; waiting for a server takes a hundred times as long.
    assert np.percentile(durations, 50) < 0.005


def test_no_command_line_shows_the_address(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s", run_id="r", tracking="t")
    uploader = Uploader(tmp_path / "s", UNREACHABLE)
    process, shown = psutil.Process(uploader.pid), ""
    # Empty for a moment, between the two halves of starting a program.
    for _ in range(1000):
        if shown := " ".join(process.cmdline()):
            break
        time.sleep(0.01)
    uploader.close(0)
    spool.close()
    assert "uploader_process" in shown
    assert "hidden-word" not in shown


def test_a_killed_flusher_is_replaced_while_the_run_goes_on(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
    uploader = Uploader(tmp_path / "s", tracking_uri, every_s=0.1)
    first = uploader.pid
    os.kill(first, signal.SIGKILL)
    spool.append(metric(1))
    deadline = time.monotonic() + 60
    while not points(tracking_uri, run_id) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert points(tracking_uri, run_id) == [(1, 0.5)]
    assert uploader.pid != first
    assert uploader.close(60) == 0
    spool.close()


def test_a_killed_flusher_is_replaced_at_the_end(tmp_path: Path, tracking_uri: str, run_id: str) -> None:
    spool = Spool(tmp_path / "s", run_id=run_id, tracking=tracking_uri)
    uploader = Uploader(tmp_path / "s", tracking_uri)
    spool.append(metric(1))
    os.kill(uploader.pid, signal.SIGKILL)
    wait_until_gone(uploader.pid, 10)
    assert uploader.close(60) == 0
    spool.close()
    assert points(tracking_uri, run_id) == [(1, 0.5)]


def test_the_time_for_what_is_left_begins_when_it_is_told_however_long_the_run_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    monkeypatch.setattr("os._exit", lambda status: ended.set())
    orders = Orders(parent=0)

    def told_later() -> float:
        time.sleep(0.6)
        return 0.5

    monkeypatch.setattr(orders, "wait_for_close", told_later)
    orders.start()
    assert orders.closing.wait(10)
    assert not orders.is_over()
    assert ended.wait(10)
    assert orders.is_over()


@pytest.mark.parametrize("while_sending", [False, True])
def test_every_accepted_record_arrives_once_after_sigkill(
    tmp_path: Path, tracking_uri: str, run_id: str, while_sending: bool
) -> None:
    script = f"""
import time
from pathlib import Path
from trainplane.tracking.spool.uploader_process import Uploader
from trainplane.tracking.spool.spool import Spool
folder = Path({str(tmp_path / "s")!r})
spool = Spool(folder, run_id={run_id!r}, tracking="t")
print(Uploader(folder, {tracking_uri!r}, every_s=0.01).pid, flush=True)
step = 0
while True:
    spool.append({{"k": "metrics", "step": step, "ts": step, "v": {{"train/loss": step / 3, "train/adv": 1.0}}}})
    step += 1
    print(step, flush=True)
    time.sleep(0.002)  # on a busy machine the sender takes seconds to begin
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    uploader = int(child.stdout.readline())
    said = [child.stdout.readline() for _ in range(20)]
    while while_sending and not points(tracking_uri, run_id):
        said = [child.stdout.readline() for _ in range(20)]
    os.kill(child.pid, signal.SIGKILL)
    said += child.stdout.readlines()
    accepted = int([line for line in said if line.endswith("\n")][-1])
    child.wait()
    result = drain_when_free(tmp_path / "s", tracking_uri)
    assert (result.error, result.unsent) == (None, 0)
    for key, value_of in (("train/loss", lambda step: step / 3), ("train/adv", lambda step: 1.0)):
        arrived = points(tracking_uri, run_id, key)
        assert len(arrived) >= accepted
        assert arrived == [(step, value_of(step)) for step in range(len(arrived))]
    wait_until_gone(uploader, 20)
