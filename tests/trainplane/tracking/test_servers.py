"""Servers as people run them: PostgreSQL, passwords, tokens, gateways before them; artifacts go to the object store."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import boto3
import numpy as np
import pytest
from odd_proxy import ANSWERS, OddProxy
from postgres import missing, postgres

from trainplane.cluster.ports import free_port
from trainplane.errors import UserError
from trainplane.testing.mlflow_server import tracking_server
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import RunMetadata, close_run, start_run
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import upload
from trainplane.tracking.tracker import Tracker

PICTURE = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
WORD = "hidden-word-of-twelve"
AUTH = """[mlflow]
database_uri = {store}
default_permission = READ
admin_username = admin
auth_cache_ttl_seconds = 60
"""

pytestmark = pytest.mark.nightly


def values(step: int) -> dict[str, float]:
    return {f"train/m{i}": step + i / 10 for i in range(5)} | {"train/nan": float("nan")}


def drained_within(folder: Path, address: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while (outcome := upload(folder, TrackingServer(address).client)).unsent or outcome.error:
        assert time.monotonic() < deadline, outcome
        time.sleep(0.5)


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_a_server_on_postgresql_behind_a_password_that_is_killed_loses_nothing(
    tmp_path: Path, s3_address: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    port, spool = free_port(), tmp_path / "spool"
    spec = RunSpec("auth", "k", "a run", s3_address)
    with postgres(WORD) as store:
        (tmp_path / "auth.ini").write_text(AUTH.format(store=f"sqlite:///{tmp_path}/auth.db"))
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": WORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-server-alone",
        }

        def serve() -> AbstractContextManager[str]:
            options = ("--app-name", "basic-auth", "--no-serve-artifacts")
            return tracking_server(store, port=port, artifacts=s3_address, options=options, environment=environment)

        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a-wrong-word")
        with serve() as address:
            with pytest.raises(UserError, match="does not let us in") as refused:
                start_run(TrackingServer(address), spec, RunMetadata(), spool=spool, require=False)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", WORD)
            handle = start_run(
                TrackingServer(address),
                spec,
                RunMetadata({"a": "1"}, {"config.json": "{}"}),
                spool=spool,
                require=False,
            )
            tracker = Tracker(TrackingServer(address), handle.run_id, spool=spool, upload_every_s=0.1)
            tracker.resume_from(0)
            for step in range(1, 400):
                tracker.log_metrics(step, values(step))
                time.sleep(0.005)
        for step in range(400, 600):
            tracker.log_metrics(step, values(step))
        tracker.log_image("gallery/000", PICTURE, 5)
        tracker.commit(599)
        with serve():
            tracker.close(60)
            close_run(TrackingServer(address), handle.run_id, "FINISHED", {}, spool=spool)
            drained_within(spool, address)
            client = TrackingServer(address).client
            for i in range(5):
                points = client.get_metric_history(handle.run_id, f"train/m{i}")
                assert [(p.step, p.value) for p in points] == [(step, step + i / 10) for step in range(1, 600)]
            assert len(client.get_metric_history(handle.run_id, "train/nan")) == 599
            run = client.get_run(handle.run_id)
            assert (run.info.status, run.data.params) == ("FINISHED", {"a": "1"})
            # The database itself, without a server, is an address like any other.
            assert [r.info.run_id for r in TrackingServer(store).client.search_runs([run.info.experiment_id])] == [
                handle.run_id
            ]
    bucket, _, prefix = s3_address.removeprefix("s3://").partition("/")
    keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
    # The picture stands under its step and under the name of the newest one, each as PNG and as WebP.
    assert sorted(Path(key).suffix for key in keys if "/artifacts/" in key) == [".json", *[".png"] * 2, *[".webp"] * 2]
    printed, warned = capfd.readouterr()
    said = printed + warned + str(refused.value)
    assert printed == ""
    written = b"".join(path.read_bytes() for path in spool.rglob("*") if path.is_file())
    assert WORD not in said
    assert WORD.encode() not in written


def test_whatever_stands_before_the_server_nothing_is_lost_or_doubled(
    tmp_path: Path, mlflow_server: Callable[[], AbstractContextManager[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", WORD)
    with mlflow_server() as address, OddProxy(address) as proxy:
        proxy.token = WORD
        client = TrackingServer(proxy.address).client
        run_id = client.create_run("0").info.run_id
        spool = Spool(tmp_path / "s", run_id=run_id, tracking="t")
        step = 0
        for mood in ANSWERS:
            for _ in range(30):
                step += 1
                spool.append({"k": "metrics", "step": step, "ts": step, "v": {"a": step / 3, "b": float("inf")}})
            spool.append({"k": "tags", "v": {"last": mood}})
            proxy.mood = mood
            started = time.monotonic()
            outcome = upload(tmp_path / "s", client)
            assert (mood, outcome.sent, outcome.rejected) == (mood, 0, 0)
            assert outcome.error, mood
            assert time.monotonic() - started < 60, f"{mood}: it waited as long as it was told to"
            assert WORD not in outcome.error
            proxy.mood = None
            # A gateway that passes small requests only: they get smaller.
            proxy.largest = 1500
            outcome = upload(tmp_path / "s", client)
            assert (mood, outcome.sent, outcome.unsent, outcome.rejected, outcome.error) == (mood, 31, 0, 0, None)
        spool.append({"k": "tags", "v": {"far too long": "x" * 3000}})
        spool.append({"k": "metrics", "step": step + 1, "ts": step + 1, "v": {"a": 0.0}})
        outcome = upload(tmp_path / "s", client)
        spool.close()
        assert (outcome.rejected, outcome.unsent, outcome.error) == (1, 0, None)
        assert [p.step for p in TrackingServer(address).client.get_metric_history(run_id, "a")] == list(
            range(1, step + 2)
        )
        assert TrackingServer(address).client.get_run(run_id).data.tags["last"] == list(ANSWERS)[-1]
        for mood in ("page", "401", "404 of a gateway"):
            proxy.mood = mood
            with pytest.raises(UserError, match="does not"):
                start_run(
                    TrackingServer(proxy.address),
                    RunSpec("e", "k", "n", "/x"),
                    RunMetadata(),
                    spool=tmp_path / "new",
                    require=False,
                )
            assert not (tmp_path / "new").exists()
        proxy.mood = "503"
        handle = start_run(
            TrackingServer(proxy.address),
            RunSpec("e", "k", "n", str(tmp_path)),
            RunMetadata(),
            spool=tmp_path / "new",
            require=False,
        )
        assert handle.offline_reason
