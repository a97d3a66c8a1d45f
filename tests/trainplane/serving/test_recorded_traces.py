"""What was recorded under traffic is read back from MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest
from served_traces import cast_vote, record, send, served_trace

from trainplane.serving import recorded_traces
from trainplane.serving.recorded_traces import find_traces, read_trace_files
from trainplane.serving.traces import new_trace
from trainplane.tracking.client import TrackingServer


def test_traces_come_back_with_votes_and_files(tmp_path: Path, tracking_uri: str) -> None:
    names = [new_trace() for _ in range(3)]
    traces = [
        served_trace(names[0], versions=("3", "5"), started=30.0),
        served_trace(names[1], photo=b"other", started=20.0),
        served_trace(names[2], keep="facts", started=10.0),
    ]
    queue = record(tmp_path / "q", tracking_uri, traces, [cast_vote(names[0], "B"), cast_vote(names[1], "bad")])
    queue.golden(names[1], "eva")
    send(tmp_path / "q", tracking_uri)
    server = TrackingServer(tracking_uri)
    found = find_traces(server, "serving/faces")
    assert [trace.trace_id for trace in found] == names[::-1]
    facts, golden, pair = found
    assert pair.digests == {"A": "digest-3", "B": "digest-5"}
    [vote] = pair.votes
    assert (vote.choice, vote.rater, vote.at, vote.comment) == ("B", "eva", 1_700_000_009.5, "less blur")
    assert [trace.has_verdict("bad") for trace in found] == [False, True, False]
    assert [trace.trace_id for trace in find_traces(server, "serving/faces", golden=True)] == [names[1]]
    assert (golden.is_golden, facts.has_files) == (True, False)
    files = {(file.role, file.name): (file.media_type, file.content) for file in read_trace_files(server, golden)}
    assert files == {
        ("inputs", "photo"): ("image/png", b"other"),
        ("inputs", "mask"): ("image/png", b"mask"),
        ("outputs", "A"): ("image/png", b"fill"),
    }
    assert not list(read_trace_files(server, facts))


def test_a_trace_that_arrives_while_pages_are_read_doubles_none(
    tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [new_trace() for _ in range(6)]
    first = [served_trace(name, started=float(second)) for second, name in enumerate(names[:5])]
    record(tmp_path / "first", tracking_uri, first)
    send(tmp_path / "first", tracking_uri)
    server = TrackingServer(tracking_uri)
    search, pages = server.client.search_traces, []

    def search_while_one_arrives(**arguments: object) -> object:
        pages.append(search(**arguments))
        if len(pages) == 1:
            record(tmp_path / "late", tracking_uri, [served_trace(names[5], started=10.0)])
            send(tmp_path / "late", tracking_uri)
        return pages[-1]

    monkeypatch.setattr(recorded_traces, "_PAGE", 2)
    monkeypatch.setattr(server.client, "search_traces", search_while_one_arrives)
    found = [trace.trace_id for trace in find_traces(server, "serving/faces")]
    read = [trace.info.trace_id for page in pages for trace in page]
    assert len(set(read)) < len(read), "MLflow's pages double one"
    assert found == names[:5]


def test_model_without_traces_has_none(tracking_uri: str) -> None:
    assert find_traces(TrackingServer(tracking_uri), "serving/nobody") == []
