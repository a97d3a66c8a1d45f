"""A full disk drops metrics and counts them; training continues."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.tracker import Tracker


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """As if the disk were full: files that this process writes cannot grow beyond that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_drops_metrics_and_the_run_says_how_many(
    tmp_path: Path, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    tracker = Tracker(TrackingServer(tracking_uri), run_id, spool=tmp_path / "s", upload_every_s=600)
    with files_of_at_most(5_000), caplog.at_level(logging.WARNING):
        for step in range(1, 1001):
            tracker.log_metrics(step, {"train/l1": 1.0})
        tracker.log_image("gallery", np.zeros((64, 64, 3), np.uint8), 1000)
    assert "training continues" in caplog.text
    for step in range(1001, 1101):
        tracker.log_metrics(step, {"train/l1": 1.0})
    tracker.close(0)
    assert upload(tmp_path / "s", client).error is None
    steps = [point.step for point in client.get_metric_history(run_id, "train/l1")]
    stored = sum(step <= 1000 for step in steps)
    assert 10 < stored < 1000
    assert steps == [*range(1, stored + 1), *range(1001, 1101)]
    message = f"metrics of {1000 - stored} steps from {stored + 1} to 1000 were lost to a full disk"
    assert client.get_run(run_id).data.tags["trainplane.thinned"] == message
    assert message in caplog.text


def test_a_full_disk_under_mlflows_database_is_one_line_that_names_it(
    tmp_path: Path, tracking_uri: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """MLflow logs a screen of traceback for it, once at each attempt to send, before it raises what we tell."""
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    client = TrackingServer(tracking_uri).client
    run_id = client.create_run("0").info.run_id
    metrics = [Metric(f"train/{number}", 1.0, 0, number) for number in range(100)]
    with files_of_at_most(1), pytest.raises(MlflowException) as failed:
        client.log_batch(run_id, metrics=metrics)
    assert reason(failed.value).startswith("(sqlite3.OperationalError)")
    assert capfd.readouterr().err == ""
