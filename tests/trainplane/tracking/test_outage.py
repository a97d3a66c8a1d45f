"""A run begins, goes on and ends while MLflow is away; when it is back there is one run, ended, each step once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from tracked_attempt import attempt

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.run_id import RunSpec, find_reserved_run, is_reserved
from trainplane.tracking.runs import RunMetadata, close_run, start_run
from trainplane.tracking.spool.sync import sync_spools, unsent_spools
from trainplane.tracking.tracker import Tracker

Server = Callable[[], AbstractContextManager[str]]
STEPS = 45
NOBODY = "http://someone:hidden-word@127.0.0.1:9"


def run_spec(key: str, folder: Path, **options: Any) -> RunSpec:
    return RunSpec("outage", key, f"run {key}", str(folder / "artifacts"), **options)


def sync_all(root: Path, address: str) -> None:
    deadline = time.monotonic() + 120
    while any(outcome.unsent or outcome.error for outcome in sync_spools(root, TrackingServer(address)).values()):
        assert time.monotonic() < deadline, sync_spools(root, TrackingServer(address))
        time.sleep(0.5)


@pytest.mark.nightly
def test_runs_that_crash_up_to_five_times_while_the_server_comes_and_goes_are_one_run_each(
    tracking_uri: str, tmp_path: Path, mlflow_server: Server
) -> None:
    """Run `k` dies k times. The server is away in every second round, and in the others is killed in the middle."""
    # Forked from one that has imported everything, so that a round takes no longer than what it is about.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tracked_attempt", "mlflow.store.tracking.rest_store"])
    address = ""
    for number in range(6):
        deaths = {f"k{k}": (number * 7 + 9 if number < k else 0) for k in range(number, 6)}
        with ExitStack() as stack:
            if number % 2 == 0:
                address = stack.enter_context(mlflow_server())
            together = processes.Barrier(len(deaths) + 1)
            started = [
                processes.Process(target=attempt, args=(address, tmp_path, key, STEPS, death, together))
                for key, death in deaths.items()
            ]
            for process in started:
                process.start()
            together.wait(120)
            # Their first points are on their way when the server goes.
            time.sleep(0.3)
        for process, death in zip(started, deaths.values(), strict=True):
            process.join(180)
            assert process.exitcode == (-9 if death else 0)
    with mlflow_server():
        sync_all(tmp_path / "spool", address)
        client = TrackingServer(address).client
        assert fail_stale_runs(TrackingServer(address), tmp_path) == []
        experiment = client.get_experiment_by_name("crashes").experiment_id
        found = client.search_runs([experiment])
        assert sorted(run.info.run_name for run in found) == [f"run k{k}" for k in range(6)]
        for run in found:
            k = int(run.info.run_name[-1])
            assert (k, run.info.status) == (k, "FINISHED")
            assert (k, run.data.tags["trainplane.attempts"]) == (k, str(k + 1))
            assert run.data.params == {"train.steps": str(STEPS)}
            points = client.get_metric_history(run.info.run_id, "train/l1")
            # The last five steps have no checkpoint behind them: they are given up.
            assert (k, [point.step for point in points]) == (k, list(range(1, STEPS // 10 * 10 + 1)))
            live = {point.step for point in client.get_metric_history(run.info.run_id, "without checkpoint/train/l1")}
            assert (k, live >= set(range(41, STEPS + 1))) == (k, True)
    assert unsent_spools(tmp_path / "spool") == []


def test_a_run_begins_where_nobody_answers_and_is_made_when_somebody_does(tracking_uri: str, tmp_path: Path) -> None:
    spec = run_spec("k", tmp_path, tags={"seed": "3"})
    spool = tmp_path / "spool" / spec.reserved_id
    facts = RunMetadata(
        {"a": "1"},
        {"config.json": "{}"},
        {"training": {"name": "d", "digest": "0", "source": "{}", "source_type": "s3"}},
    )
    handle = start_run(TrackingServer(NOBODY), spec, facts, spool=spool, require=False)
    assert is_reserved(handle.run_id)
    assert handle.offline_reason
    assert "hidden-word" not in f"{handle.offline_reason}{(spool / 'about.json').read_text()}"
    tracker = Tracker(TrackingServer(NOBODY), handle.run_id, spool=spool, run_spec=spec)
    for step in range(1, 4):
        tracker.log_metrics(step, {"train/l1": float(step)})
    tracker.close(0)
    assert close_run(TrackingServer(NOBODY), handle.run_id, "FINISHED", {"end": "good"}, spool=spool) > 0
    [waiting] = unsent_spools(tmp_path / "spool")
    assert waiting.run_id == handle.run_id

    assert sync_spools(tmp_path / "spool", TrackingServer(tracking_uri)) == {}
    client = TrackingServer(tracking_uri).client
    for _ in range(2):
        [(run_id, outcome)] = sync_spools(tmp_path / "spool", TrackingServer(tracking_uri), also=NOBODY).items()
        assert (outcome.unsent, outcome.error) == (0, None)
        run = find_reserved_run(client, handle.run_id)
        assert (run.info.run_id, run.info.status, run.info.run_name) == (run_id, "FINISHED", "run k")
        assert run.data.params == {"a": "1"}
        assert run.data.tags.items() >= {"seed": "3", "end": "good", "trainplane.attempts": "1"}.items()
        assert [entry.path for entry in client.list_artifacts(run_id)] == ["config.json"]
        assert run.inputs.dataset_inputs[0].dataset.name == "d"
        assert [point.step for point in client.get_metric_history(run_id, "train/l1")] == [1, 2, 3]

    again = start_run(TrackingServer(tracking_uri), spec, RunMetadata({"a": "2"}), spool=spool, require=True)
    assert (again.run_id, again.attempt, again.resumed) == (run_id, 2, True)
    assert client.get_run(run_id).data.params == {"a": "1"}


def test_a_known_run_keeps_its_id_while_nobody_answers(tracking_uri: str, tmp_path: Path) -> None:
    spec = run_spec("k", tmp_path)
    spool = tmp_path / "spool"
    known = start_run(TrackingServer(tracking_uri), spec, RunMetadata(), spool=spool, require=True)
    away = start_run(TrackingServer(NOBODY), spec, RunMetadata(), spool=spool, require=False)
    assert (away.run_id, away.resumed) == (known.run_id, True)


def test_a_database_that_cannot_be_read_is_one_that_does_not_answer(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'damaged.db'}"
    (tmp_path / "damaged.db").write_bytes(b"no database at all" * 500)
    away = start_run(
        TrackingServer(address), run_spec("k", tmp_path), RunMetadata(), spool=tmp_path / "spool", require=False
    )
    assert "not a database" in str(away.offline_reason)
    assert close_run(TrackingServer(address), away.run_id, "FINISHED", {}, spool=tmp_path / "spool") > 0
    with pytest.raises(UserError, match="not a database"):
        fail_stale_runs(TrackingServer(address))


def test_where_a_setting_says_so_silence_refuses_the_start_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not answer as MLflow") as refused:
        start_run(
            TrackingServer(NOBODY), run_spec("k", tmp_path), RunMetadata(), spool=tmp_path / "spool", require=True
        )
    assert "hidden-word" not in str(refused.value)
    assert not (tmp_path / "spool").exists()


def test_steps_that_another_host_sent_are_not_sent_again_by_one_that_began_in_an_outage(
    tracking_uri: str, tmp_path: Path
) -> None:
    spec = run_spec("k", tmp_path)
    client = TrackingServer(tracking_uri).client
    first = start_run(TrackingServer(tracking_uri), spec, RunMetadata(), spool=tmp_path / "a", require=True)
    tracker = Tracker(TrackingServer(tracking_uri), first.run_id, spool=tmp_path / "a", upload_every_s=600)
    tracker.resume_from(0)
    for step in range(1, 9):
        tracker.log_metrics(step, {"train/l1": float(step)})
        tracker.log_metrics(step, {"system/cpu_percent": 1.0})
    tracker.commit(8)
    tracker.close(20)

    handle = start_run(TrackingServer(NOBODY), spec, RunMetadata(), spool=tmp_path / "b", require=False)
    tracker = Tracker(TrackingServer(NOBODY), handle.run_id, spool=tmp_path / "b", run_spec=spec, upload_every_s=600)
    # Its checkpoint is an older one than what the first host has sent.
    tracker.resume_from(4)
    for step in range(5, 13):
        tracker.log_metrics(step, {"train/l1": 100.0 + step})
        tracker.log_metrics(step - 5, {"system/cpu_percent": 2.0})
    tracker.commit(12)
    tracker.close(0)
    assert all(
        outcome.error is None for outcome in sync_spools(tmp_path, TrackingServer(tracking_uri), also=NOBODY).values()
    )
    history = client.get_metric_history(first.run_id, "train/l1")
    assert [(p.step, p.value) for p in history] == [
        *((step, float(step)) for step in range(1, 9)),
        *((step, 100.0 + step) for step in range(9, 13)),
    ]
    samples = [point.step for point in client.get_metric_history(first.run_id, "system/cpu_percent")]
    assert samples == sorted(set(samples))
    assert len(samples) == 16
