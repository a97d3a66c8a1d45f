"""One key is one MLflow run for life, each step stands once, and recording never raises or waits."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainplane.errors import UserError
from trainplane.tracking import runs as run_module
from trainplane.tracking.client import TrackingServer, without_secrets
from trainplane.tracking.heartbeat import fail_stale_runs, owner_id
from trainplane.tracking.run_id import ERROR_TAG, RunSpec
from trainplane.tracking.runs import RunHandle, RunMetadata, close_run, end_run, find_or_create_run, start_run
from trainplane.tracking.spool.spool import Spool, has_writer
from trainplane.tracking.spool.sync import sync_spools
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.tracker import Recorder, Tracker, newest_image

PICTURE = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)


def start(tracking_uri: str, tmp_path: Path, key: str = "places2-abc", **options: str) -> RunHandle:
    root = str(tmp_path / "artifacts")
    return find_or_create_run(
        TrackingServer(tracking_uri),
        RunSpec("isnet", run_key=key, run_name="first", tags={"seed": "1"}, artifact_root=root, **options),
    )


def finish(tracker: Tracker, spool: Path, tracking_uri: str) -> int:
    """Close, and send here what is left: the sending process needs seconds to begin. Returns what is unsent."""
    tracker.close(0)
    return upload(spool, TrackingServer(tracking_uri).client).unsent


def steps(tracking_uri: str, run_id: str, key: str = "train/l1") -> list[int]:
    return [metric.step for metric in TrackingServer(tracking_uri).client.get_metric_history(run_id, key)]


def test_a_new_key_is_a_new_run_with_its_own_place_for_artifacts(tracking_uri: str, tmp_path: Path) -> None:
    parent = start(tracking_uri, tmp_path, key="search")
    handle = start(tracking_uri, tmp_path, parent_run_id=parent.run_id)
    run = TrackingServer(tracking_uri).client.get_run(handle.run_id)
    assert (handle.resumed, handle.attempt) == (False, 1)
    assert handle.run_id != parent.run_id
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "first"
    assert run.info.artifact_uri.startswith(str(tmp_path / "artifacts" / "isnet"))
    assert run.data.tags["trainplane.run_key"] == "places2-abc"
    assert run.data.tags["trainplane.owner"] == owner_id()
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.data.tags["seed"] == "1"


@pytest.mark.parametrize("ended", [None, "FAILED", "FINISHED"])
def test_the_same_key_is_the_same_run_whatever_became_of_it(
    tracking_uri: str, tmp_path: Path, ended: str | None
) -> None:
    first = start(tracking_uri, tmp_path)
    if ended is not None:
        end_run(
            TrackingServer(tracking_uri),
            first.run_id,
            "FAILED" if ended == "FAILED" else "FINISHED",
            {"reason": "test"},
        )
        assert TrackingServer(tracking_uri).client.get_run(first.run_id).info.status == ended
    second = start(tracking_uri, tmp_path)
    run = TrackingServer(tracking_uri).client.get_run(first.run_id)
    assert second.run_id == first.run_id
    assert (second.resumed, second.attempt) == (True, 2)
    assert run.info.status == "RUNNING"
    assert run.data.tags["trainplane.attempts"] == "2"


def test_two_launchers_at_once_end_up_in_one_run(tracking_uri: str, tmp_path: Path) -> None:
    script = f"""
import sys
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import find_or_create_run
TrackingServer({tracking_uri!r}).client.search_experiments()
print("ready", flush=True)
sys.stdin.readline()
print(find_or_create_run(TrackingServer({tracking_uri!r}), RunSpec("isnet", run_key="k", run_name="n", tags={{}},
      artifact_root={str(tmp_path)!r})).run_id)
"""
    launchers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for launcher in launchers:
        assert launcher.stdout is not None
        assert launcher.stdout.readline() == "ready\n"
    for launcher in launchers:
        assert launcher.stdin is not None
        launcher.stdin.write("go\n")
        launcher.stdin.flush()
    ids = {launcher.communicate()[0].strip() for launcher in launchers}
    experiment = TrackingServer(tracking_uri).client.get_experiment_by_name("isnet").experiment_id
    assert {run.info.run_id for run in TrackingServer(tracking_uri).client.search_runs([experiment])} == ids
    assert len(ids) == 1


def test_a_replay_after_resume_leaves_each_step_once(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    tracker = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool")
    for step in range(1, 8):
        tracker.log_metrics(step, {"train/l1": 1 / step, "epoch": step / 10})
    tracker.log_metrics(4, {"val/psnr": 20.0})
    tracker.log_image("gallery/a b", PICTURE, 4)
    assert finish(tracker, tmp_path / "spool", tracking_uri) == 0

    start(tracking_uri, tmp_path)
    tracker = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool")
    for step in range(4, 11):
        tracker.log_metrics(step, {"train/l1": 1 / step, "epoch": step / 10})
    for step in (4, 8):
        tracker.log_metrics(step, {"val/psnr": 20.0})
        tracker.log_image("gallery/a b", PICTURE, step)
    assert finish(tracker, tmp_path / "spool", tracking_uri) == 0
    assert steps(tracking_uri, handle.run_id) == list(range(1, 11))
    assert steps(tracking_uri, handle.run_id, "val/psnr") == [4, 8]
    names = [artifact.path for artifact in TrackingServer(tracking_uri).client.list_artifacts(handle.run_id, "images")]
    assert len([name for name in names if name.startswith("images/gallery~a b+step+4+") and name.endswith(".png")]) == 1
    # Two steps and the newest, each a picture and the small one the pages show.
    assert len(names) == 6


def test_a_resume_on_another_node_learns_from_mlflow_what_is_recorded(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    first = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "node-a", upload_every_s=60)
    for step in range(1, 6):
        first.log_metrics(step, {"train/l1": 1.0})
        first.log_image("a", PICTURE, step)
    finish(first, tmp_path / "node-a", tracking_uri)
    second = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "node-b")
    for step in range(3, 8):
        second.log_metrics(step, {"train/l1": 1.0})
        second.log_image("a", PICTURE, step)
    finish(second, tmp_path / "node-b", tracking_uri)
    assert steps(tracking_uri, handle.run_id) == list(range(1, 8))
    assert len(TrackingServer(tracking_uri).client.list_artifacts(handle.run_id, "images")) == 16


def test_a_checkpoint_carries_what_is_unsent_to_another_node(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    lost = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "node-a", upload_every_s=60)
    for step in range(1, 6):
        lost.log_metrics(step, {"train/l1": float(step)})
    carried = lost.unsent()

    second = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "node-b")
    second.resume_from(5, carried)
    for step in range(4, 8):
        second.log_metrics(step, {"train/l1": float(step)})
    second.commit(7)
    assert finish(second, tmp_path / "node-b", tracking_uri) == 0
    assert steps(tracking_uri, handle.run_id) == list(range(1, 8))
    lost.close(0)


def test_everything_a_loop_records_reaches_the_run(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    tracker = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool")
    tracker.set_tags({"damage": "0"})
    tracker.log_text("conf/config.yaml", "a: 1\n")
    tracker.log_image("gallery", PICTURE, 3)
    assert tracker.close(60) == 0
    assert tracker.close(60) == 0
    server, spool = TrackingServer(tracking_uri), tmp_path / "spool"
    assert close_run(server, handle.run_id, "FINISHED", {"state_digest": "abc"}, spool=spool) == 0
    assert tracker.failures == 0
    client = TrackingServer(tracking_uri).client
    run = client.get_run(handle.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags.items() >= {"damage": "0", "state_digest": "abc", "mlflow.loggedImages": "True"}.items()
    assert Path(client.download_artifacts(handle.run_id, "conf/config.yaml", str(tmp_path))).read_text() == "a: 1\n"
    pngs = {a.path for a in client.list_artifacts(handle.run_id, "images") if a.path.endswith(".png")}
    # Where the pages open, and at its own step.
    [png] = pngs - {newest_image("gallery")}
    assert len(pngs) == 2
    from PIL import Image

    shown = np.asarray(Image.open(client.download_artifacts(handle.run_id, png, str(tmp_path))))
    assert np.array_equal(shown, PICTURE)


def test_what_cannot_be_recorded_is_counted_and_training_goes_on(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    tracker = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool")
    tracker.log_metrics(1, {"train/l1": "no number"})  # type: ignore[dict-item]
    tracker.log_image("a", np.zeros((3, 3, 7), np.uint8), 1)
    tracker.log_text("../outside", "x")
    tracker.log_metrics(1, {"train/l1": 1.0})
    assert tracker.failures == 3
    assert finish(tracker, tmp_path / "spool", tracking_uri) == 0
    assert steps(tracking_uri, handle.run_id) == [1]


def test_an_end_that_was_not_sent_in_time_does_not_end_the_next_attempt(tracking_uri: str, tmp_path: Path) -> None:
    handle = start(tracking_uri, tmp_path)
    first = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool", upload_every_s=60)
    first.close(0)
    spool = Spool(tmp_path / "spool", run_id=handle.run_id, tracking=tracking_uri)
    spool.append({"k": "status", "v": "FAILED", "ts": 1})
    spool.close()
    start(tracking_uri, tmp_path)
    second = Tracker(TrackingServer(tracking_uri), handle.run_id, spool=tmp_path / "spool")
    second.log_metrics(1, {"train/l1": 1.0})
    assert finish(second, tmp_path / "spool", tracking_uri) == 0
    assert TrackingServer(tracking_uri).client.get_run(handle.run_id).info.status == "RUNNING"


def test_the_other_ranks_record_nothing() -> None:
    tracker = Recorder()
    tracker.log_metrics(1, {"train/l1": 1.0})
    tracker.log_image("a", PICTURE, 1)
    assert tracker.unsent() == b""
    assert tracker.close() == 0


def test_a_run_whose_process_was_killed_is_marked_failed_by_the_next_command(tracking_uri: str, tmp_path: Path) -> None:
    script = f"""
import os, signal
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import find_or_create_run
print(find_or_create_run(TrackingServer({tracking_uri!r}), RunSpec("isnet", run_key="dead", run_name="n", tags={{}},
      artifact_root={str(tmp_path)!r})).run_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.strip()
    alive = start(tracking_uri, tmp_path).run_id
    elsewhere = start(tracking_uri, tmp_path, key="elsewhere").run_id
    client = TrackingServer(tracking_uri).client
    client.set_tag(elsewhere, "trainplane.owner", "another-host/1:1:1.00")
    assert fail_stale_runs(TrackingServer(tracking_uri)) == [dead]
    assert [client.get_run(run).info.status for run in (dead, alive, elsewhere)] == ["FAILED", "RUNNING", "RUNNING"]
    assert fail_stale_runs(TrackingServer(tracking_uri)) == []


def test_a_run_whose_process_died_while_it_was_made_is_closed_too(tracking_uri: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; from trainplane.tracking import client, runs\n"
        "runs.start_attempt = lambda *_, **__: os._exit(0)\n"
        "server = client.TrackingServer(sys.argv[1])\n"
        "spec = runs.RunSpec('isnet', run_key='k', run_name='k', artifact_root=sys.argv[2])\n"
        "runs.find_or_create_run(server, spec)"
    )
    subprocess.run([sys.executable, "-c", code, tracking_uri, str(tmp_path)], check=True)
    [run_id] = fail_stale_runs(TrackingServer(tracking_uri))
    assert TrackingServer(tracking_uri).client.get_run(run_id).info.status == "FAILED"
    # It was never claimed by an attempt, so the next one is its first.
    handle = start(tracking_uri, tmp_path, key="k")
    assert (handle.run_id, handle.attempt) == (run_id, 1)


@pytest.mark.parametrize(
    ("moment", "error", "status", "told"),
    [
        *(
            (moment, KeyboardInterrupt(), "KILLED", None)
            for moment in ("find_or_create", "start_attempt", "_metadata_records", "_upload_idle_spool")
        ),
        ("start_attempt", MemoryError("no"), "FAILED", "MemoryError: no"),
    ],
)
def test_a_run_that_is_cut_short_while_it_begins_is_closed(
    tracking_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    error: BaseException,
    status: str,
    told: str | None,
) -> None:
    whole = getattr(run_module, moment)

    def then_stop(*args: Any, **options: Any) -> None:
        whole(*args, **options)
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(run_module, moment, then_stop)
    spec, metadata = RunSpec("isnet", "k", "k", str(tmp_path / "artifacts")), RunMetadata({"lr": "1"}, {"a.txt": "a"})
    with pytest.raises(type(error)):
        start_run(TrackingServer(tracking_uri), spec, metadata, spool=tmp_path / "s", require=True)
    client = TrackingServer(tracking_uri).client
    [run] = client.search_runs([client.get_experiment_by_name("isnet").experiment_id])
    assert (run.info.status, run.data.tags.get(ERROR_TAG)) == (status, told)


@pytest.mark.parametrize("was_recorded", [False, True])
def test_a_run_that_is_cut_short_while_mlflow_is_away_is_closed_when_it_hears_of_it(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_recorded: bool
) -> None:
    spec = RunSpec("isnet", "k", "k", str(tmp_path / "artifacts"))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "_metadata_records" if was_recorded else "Spool", stop)
    with pytest.raises(KeyboardInterrupt):
        start_run(TrackingServer("http://127.0.0.1:9"), spec, RunMetadata(), spool=tmp_path / "s", require=False)
    assert (tmp_path / "s").exists() == was_recorded
    if was_recorded:
        client = TrackingServer(tracking_uri).client
        assert upload(tmp_path / "s", client).error is None
        [run] = client.search_runs([client.get_experiment_by_name("isnet").experiment_id])
        assert run.info.status == "KILLED"


def test_a_disk_without_room_for_records_is_answered_in_a_sentence_and_the_run_is_closed(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trainplane.tracking.spool.spool.update_meta", full)
    spec = RunSpec("isnet", "k", "k", str(tmp_path / "artifacts"))
    with pytest.raises(UserError, match=r"cannot be recorded there .No space left on device.; free some space"):
        start_run(TrackingServer(tracking_uri), spec, RunMetadata(), spool=tmp_path / "s", require=False)
    assert not has_writer(tmp_path / "s")
    client = TrackingServer(tracking_uri).client
    [run] = client.search_runs([client.get_experiment_by_name("isnet").experiment_id])
    assert run.info.status == "FAILED"


@pytest.mark.parametrize("directly", [False, True])
def test_a_run_that_ends_well_keeps_no_error_of_an_earlier_attempt(
    tracking_uri: str, tmp_path: Path, directly: bool
) -> None:
    run_id = start(tracking_uri, tmp_path).run_id
    tags = []
    for status, told in (("FAILED", {ERROR_TAG: "out of luck"}), ("FAILED", {}), ("FINISHED", {"a": "b"})):
        if directly:
            end_run(TrackingServer(tracking_uri), run_id, status, told)
        else:
            assert close_run(TrackingServer(tracking_uri), run_id, status, told, spool=tmp_path / "s") == 0
        tags.append(TrackingServer(tracking_uri).client.get_run(run_id).data.tags.get(ERROR_TAG))
    assert tags == ["out of luck", "out of luck", None]


def test_bad_names_and_addresses_are_answered_in_a_sentence(tmp_path: Path, tracking_uri: str) -> None:
    with pytest.raises(UserError, match='run key "it\'s"'):
        start(tracking_uri, tmp_path, key="it's")
    client = TrackingServer(tracking_uri).client
    client.delete_experiment(client.create_experiment("isnet"))
    with pytest.raises(UserError, match="experiment 'isnet' was deleted"):
        start(tracking_uri, tmp_path)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9 does not answer as MLflow") as refused:
        start("http://someone:secret@127.0.0.1:9", tmp_path)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://user:pass@mlflow.example:8080/x?token=1", "https://mlflow.example:8080/x"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_addresses_are_shown_without_secrets(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


@pytest.mark.real
def test_nothing_is_lost_or_doubled_when_the_server_is_killed_and_restarted(
    tracking_uri: str, tmp_path: Path, mlflow_server: Callable[[], AbstractContextManager[str]]
) -> None:
    durations = []

    def log(tracker: Tracker, first: int, last: int) -> None:
        for step in range(first, last):
            started = time.perf_counter()
            tracker.log_metrics(step, {f"train/m{i}": step + i / 10 for i in range(10)})
            durations.append(time.perf_counter() - started)
            time.sleep(0.001)

    with mlflow_server() as address:
        handle = start(address, tmp_path)
        tracker = Tracker(
            TrackingServer(address), handle.run_id, spool=tmp_path / "spool" / handle.run_id, upload_every_s=0.05
        )
        log(tracker, 0, 1500)
    log(tracker, 1500, 3000)
    assert tracker.close(1) > 0
    with mlflow_server() as address:
        tracker = Tracker(
            TrackingServer(address), handle.run_id, spool=tmp_path / "spool" / handle.run_id, upload_every_s=0.05
        )
        log(tracker, 2500, 4000)
        tracker.close(0)
        close_run(TrackingServer(address), handle.run_id, "FINISHED", {}, spool=tmp_path / "spool" / handle.run_id)
        deadline = time.monotonic() + 60
        while (
            outcome := sync_spools(tmp_path / "spool", TrackingServer(address))[handle.run_id]
        ).error and time.monotonic() < deadline:
            time.sleep(0.1)
        assert (outcome.unsent, outcome.rejected) == (0, 0)
    for i in range(10):
        points = TrackingServer(tracking_uri).client.get_metric_history(handle.run_id, f"train/m{i}")
        assert [(point.step, point.value) for point in points] == [(step, step + i / 10) for step in range(4000)]
    assert TrackingServer(tracking_uri).client.get_run(handle.run_id).info.status == "FINISHED"
    assert np.percentile(durations, 50) < 0.005
