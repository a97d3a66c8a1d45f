"""Traces and votes come to MLflow once, whatever is killed and however often they are sent."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from served_traces import cast_vote, open_queue, served_trace

from trainplane.serving import upload_traces as module
from trainplane.serving.mlflow_trace import AttachedFile
from trainplane.serving.traces import TraceQueue, TraceRecord, new_trace
from trainplane.serving.upload_traces import upload_traces
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.spool.spool import Acknowledged, Spool, read_lines, write_acknowledged
from trainplane.tracking.spool.upload import count_unsent

PHOTO, MASK, FILL = b"\x89PNG photo", b"\x89PNG mask", b"\x89PNG fill"


def trace(name: str, *, keep: str = "pictures", versions: tuple[str, ...] = ("3",)) -> TraceRecord:
    return served_trace(name, photo=PHOTO, mask=MASK, fill=FILL, keep=keep, versions=versions)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def queue(folder: Path) -> TraceQueue:
    return open_queue(folder)


def stored(client: Any) -> list[Any]:
    experiment = client.get_experiment_by_name("serving/faces")
    return list(client.search_traces(locations=[experiment.experiment_id])) if experiment else []


def send_again(folder: Path) -> None:
    """What is left of an upload that was killed before it was acknowledged."""
    write_acknowledged(folder, Acknowledged())


def test_trace_has_spans_tags_pictures_and_its_vote(folder: Path, queue: TraceQueue, tracking_uri: str) -> None:
    name = new_trace()
    queue.record(trace(name, versions=("3", "5")))
    queue.verdict(cast_vote(name, "B"))
    client = TrackingServer(tracking_uri).client
    result = upload_traces(folder, client)
    assert (result.sent, result.unsent, result.rejected, result.error) == (2, 0, 0, None)
    [arrived] = stored(client)
    assert arrived.info.trace_id == name
    tags = arrived.info.tags
    assert (tags["model"], tags["alias"], tags["version"], tags["version.B"]) == ("faces", "production", "3,5", "5")
    assert (tags["hole_ratio"], tags["tiles"], tags["keep"]) == ("0.125", "4", "pictures")
    assert tags["input.photo"] == hashlib.sha256(PHOTO).hexdigest()
    # One span for each version, with its latency and facts.
    spans = {span.name: span for span in arrived.data.spans}
    assert set(spans) == {"request", "version 3", "version 5"}
    third = spans["version 3"]
    assert (third.end_time_ns - third.start_time_ns, third.get_attribute("tiles")) == (43_000_000, 4)
    # Pictures lie where the trace's page looks for them.
    root = spans["request"]
    references = [root.inputs["photo"], root.inputs["mask"], root.outputs["A"]]
    artifacts = module.tracing_client(client)._get_artifact_repo_for_trace(arrived.info)
    ids = [reference.removeprefix("mlflow-attachment://").partition("?")[0] for reference in references]
    assert [artifacts.download_trace_attachment(file_id) for file_id in ids] == [PHOTO, MASK, FILL]
    assert f"trace_id={name}" in references[0]
    assert f"size={len(PHOTO)}" in references[0]
    # The vote names the version, not the label.
    [feedback] = arrived.info.assessments
    assert (feedback.name, feedback.feedback.value, feedback.rationale) == ("preferred", "5", "less blur")
    assert (feedback.source.source_type, feedback.source.source_id) == ("HUMAN", "eva")
    assert not list((folder / "files").iterdir())


def test_sending_again_doubles_nothing(folder: Path, queue: TraceQueue, tracking_uri: str) -> None:
    names = [new_trace() for _ in range(3)]
    for name in names:
        queue.record(trace(name, keep="facts"))
        queue.verdict(cast_vote(name, "A"))
    queue.golden(names[0], "eva")
    client = TrackingServer(tracking_uri).client
    upload_traces(folder, client)
    send_again(folder)
    result = upload_traces(folder, client)
    assert (result.sent, result.error) == (7, None)
    traces = stored(client)
    assert sorted(one.info.trace_id for one in traces) == sorted(names)
    assert [len(one.data.spans) for one in traces] == [2, 2, 2]
    votes = {one.info.trace_id: sorted(vote.name for vote in one.info.assessments) for one in traces}
    assert votes == {name: ["golden", "preferred"] if name == names[0] else ["preferred"] for name in names}
    assert [one.info.tags.get("golden") for one in traces if one.info.trace_id == names[0]] == ["true"]


@pytest.mark.parametrize(("keep", "traces", "files"), [("none", 0, 0), ("facts", 1, 0), ("pictures", 1, 3)])
def test_only_what_may_be_kept_reaches_the_disk(
    folder: Path, queue: TraceQueue, keep: str, traces: int, files: int
) -> None:
    queue.record(trace(new_trace(), keep=keep))
    written = [record for record, _ in read_lines(folder, 0)]
    assert len(written) == traces
    assert len(list((folder / "files").rglob("*puts"))) == files
    assert b"PNG" not in (folder / "records.jsonl").read_bytes()


def test_vote_waits_for_the_trace_of_another_replica(
    folder: Path, queue: TraceQueue, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    late, present = new_trace(), new_trace()
    client = TrackingServer(tracking_uri).client
    queue.verdict(cast_vote(late))
    queue.record(trace(present, keep="facts"))
    assert upload_traces(folder, client).error is None
    # The vote holds nothing up.
    assert [one.info.trace_id for one in stored(client)] == [present]
    queue.record(trace(late, keep="facts"))
    upload_traces(folder, client)
    upload_traces(folder, client)
    votes = {one.info.trace_id: len(one.info.assessments) for one in stored(client)}
    assert votes == {late: 1, present: 0}
    assert not (folder / "waiting.jsonl").exists()


def test_refused_and_damaged_records_hold_nothing_up(folder: Path, queue: TraceQueue, tracking_uri: str) -> None:
    name = new_trace()
    queue.record(trace(name, keep="facts"))
    queue._spool.append({"k": "trace", "v": {"trace": "x"}, "experiment": "serving/faces"})
    queue._spool.append({"k": "verdict", "v": None})
    queue._spool.append({"k": "of newer code"})
    queue.verdict(cast_vote(name, "good"))
    client = TrackingServer(tracking_uri).client
    result = upload_traces(folder, client)
    assert (result.sent, result.unsent, result.rejected, result.error) == (5, 0, 3, None)
    [arrived] = stored(client)
    assert [(one.name, one.feedback.value) for one in arrived.info.assessments] == [("rating", "good")]
    assert (folder / "rejected.jsonl").read_text().count("\n") == 3


def test_names_of_any_form_become_one_trace(folder: Path, queue: TraceQueue, tracking_uri: str) -> None:
    queue.record(trace("my trace/1", keep="facts"))
    queue.verdict(cast_vote("my trace/1"))
    client = TrackingServer(tracking_uri).client
    assert upload_traces(folder, client).rejected == 0
    [arrived] = stored(client)
    assert (arrived.info.tags["trace"], len(arrived.info.assessments)) == ("my trace/1", 1)


def test_full_disk_fails_no_request(queue: TraceQueue, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(queue._spool, "attach", full)
    queue.record(trace(new_trace()))
    assert "was not recorded" in caplog.text


def test_sent_records_free_their_disk(folder: Path, queue: TraceQueue, tracking_uri: str) -> None:
    spool: Spool = queue._spool
    for _ in range(20):
        queue.record(trace(new_trace(), keep="facts"))
    spool.compact(above_bytes=100)
    assert count_unsent(folder) == 20
    upload_traces(folder, TrackingServer(tracking_uri).client)
    spool.compact(above_bytes=100)
    assert (folder / "records.jsonl").stat().st_size == 0
    queue.record(trace(new_trace(), keep="facts"))
    assert count_unsent(folder) == 1


def is_there(condition: Callable[[], bool], *, within_s: float = 60) -> bool:
    deadline = time.monotonic() + within_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.real
def test_nothing_is_lost_or_doubled_while_mlflow_is_away_and_its_sender_killed(
    folder: Path, tracking_uri: str, mlflow_server: Callable[[], AbstractContextManager[str]], tmp_path: Path
) -> None:
    names = [new_trace() for _ in range(12)]
    with mlflow_server() as address:
        queue = TraceQueue(folder, address, "serving/faces", artifact_root=str(tmp_path / "artifacts"))
        for name in names[:4]:
            queue.record(trace(name))
            queue.verdict(cast_vote(name))
        # Killed in the middle of its work; another one goes on.
        assert is_there(lambda: count_unsent(folder) < 8)
        os.kill(queue._uploader.pid, signal.SIGKILL)
    # Away: nothing fails, nothing waits.
    started = time.monotonic()
    for name in names[4:8]:
        queue.record(trace(name))
        queue.verdict(cast_vote(name))
    assert time.monotonic() - started < 1
    with mlflow_server():
        for name in names[8:]:
            queue.record(trace(name))
            queue.verdict(cast_vote(name))
        assert is_there(lambda: count_unsent(folder) == 0)
        queue.close(10)
        # The page of a trace gets its pictures by this address.
        fill = AttachedFile("outputs", "A", "image/png", "").id(names[0])
        query = f"ajax-api/3.0/mlflow/get-trace-artifact?request_id={names[0]}&path={fill}"
        with urllib.request.urlopen(f"{address}/{query}") as answer:
            assert answer.read() == FILL
    client = TrackingServer(tracking_uri).client
    traces = stored(client)
    assert sorted(one.info.trace_id for one in traces) == sorted(names)
    assert {len(one.data.spans) for one in traces} == {2}
    assert {len(one.info.assessments) for one in traces} == {1}
    assert not (folder / "rejected.jsonl").exists()
    assert json.loads((folder / "sent.json").read_text())["offset"] > 0
