"""A result waits in its run's spool until MLflow answers, and is complete then, however often it is sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.results import RunResult, VersionAttachment, send_result
from trainplane.tracking.spool.sync import sync_spools, unsent_spools

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def server(tracking_uri: str) -> TrackingServer:
    return TrackingServer(tracking_uri)


def result_of(server: TrackingServer, folder: Path, **fields: object) -> RunResult:
    (folder / "charts").mkdir(parents=True)
    (folder / "charts" / "front.png").write_bytes(b"png")
    run_id = server.client.create_run("0").info.run_id
    return RunResult(run_id, folder, {"best/psnr": 21.5, "best/lost": float("nan")}, {"note": "n"}, **fields)  # type: ignore[arg-type]


def test_a_result_waits_and_is_sent_once_with_the_tags_of_other_runs(server: TrackingServer, tmp_path: Path) -> None:
    client, trial = server.client, server.client.create_run("0").info.run_id
    tags = {"standing": "finished"}
    result = result_of(
        server, tmp_path / "files", run_tags={trial: tags, "reserved-0123456789abcdef01234567": {"a": "b"}}
    )
    message = send_result(TrackingServer(DEAD), tmp_path / "spool", result)
    assert message is not None
    assert f"MLflow does not take the result of run {result.run_id}" in message
    assert client.get_run(result.run_id).info.status == "RUNNING"
    # The files were copied.
    (tmp_path / "files" / "charts" / "front.png").unlink()
    for _ in range(2):
        outcome = sync_spools(tmp_path / "spool", server, also=DEAD)[result.run_id]
        assert (outcome.unsent, outcome.rejected, outcome.error) == (0, 0, None)
        run = client.get_run(result.run_id)
        assert (run.info.status, run.info.end_time) == ("FINISHED", result.time_ms)
        assert (run.data.metrics["best/psnr"], run.data.tags["note"]) == (21.5, "n")
        assert client.get_run(trial).data.tags["standing"] == "finished"
        assert [entry.path for entry in client.list_artifacts(result.run_id, "charts")] == ["charts/front.png"]
    assert unsent_spools(tmp_path / "spool") == []


def test_a_repeated_result_replaces_the_one_before(server: TrackingServer, tmp_path: Path) -> None:
    first = result_of(server, tmp_path / "files")
    assert send_result(server, tmp_path / "spool", first) is None
    second = RunResult(first.run_id, first.folder, {"best/psnr": 22.5}, {})
    # From another host, where no spool tells what was sent.
    assert send_result(server, tmp_path / "elsewhere", second) is None
    assert server.client.get_run(first.run_id).data.metrics["best/psnr"] == 22.5


def test_an_attachment_to_a_version_is_acknowledged_after_its_follow_up(server: TrackingServer, tmp_path: Path) -> None:
    client, maker = server.client, server.client.create_run("0").info.run_id
    client.create_registered_model("m")
    client.create_model_version("m", str(tmp_path), run_id=maker)
    attachment = VersionAttachment("m", "1", {"figures": "{}", "digest": "d"}, {"evaluations/d.json": b"{}"})
    result = result_of(server, tmp_path / "files", attachments=[attachment])
    calls = []

    def fail(name: str, version: str) -> None:
        calls.append((name, version))
        raise RuntimeError("no card")

    message = send_result(server, tmp_path / "spool", result, on_version=fail)
    assert "no card" in str(message)
    assert client.get_run(result.run_id).info.status == "RUNNING"
    outcome = sync_spools(tmp_path / "spool", server, on_version=lambda name, version: calls.append((name, version)))
    assert (outcome[result.run_id].unsent, calls) == (0, [("m", "1"), ("m", "1")])
    assert client.get_run(result.run_id).info.status == "FINISHED"
    assert client.get_model_version("m", "1").tags == attachment.tags
    assert [entry.path for entry in client.list_artifacts(maker, "evaluations")] == ["evaluations/d.json"]
