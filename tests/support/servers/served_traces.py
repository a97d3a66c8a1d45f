"""Traces and votes in a tracking store, as a server leaves them there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from trainplane.serving.traces import AnswerRecord, TraceQueue, TraceRecord, VerdictRecord
from trainplane.serving.upload_traces import upload_traces
from trainplane.tracking.client import TrackingServer

MODEL = "faces"


def open_queue(folder: Path, *, model: str = MODEL) -> TraceQueue:
    """A queue without a process that sends: its records are sent by `send`."""
    with mock.patch("trainplane.serving.traces.Uploader"):
        return TraceQueue(
            folder, "http://127.0.0.1:9", f"serving/{model}", artifact_root=str(folder.parent / "artifacts")
        )


def send(folder: Path, tracking_uri: str) -> Any:
    """Sends what a queue holds."""
    return upload_traces(folder, TrackingServer(tracking_uri).client)


def served_trace(
    name: str,
    *,
    photo: bytes = b"photo",
    mask: bytes = b"mask",
    fill: bytes = b"fill",
    keep: str = "pictures",
    versions: Sequence[str] = ("3",),
    started: float = 1_700_000_000.25,
    model: str = MODEL,
    media_type: str = "image/png",
) -> TraceRecord:
    """A trace of one or two versions, whose digests are `digest-VERSION`."""
    answers = tuple(
        AnswerRecord(
            label, version, f"digest-{version}", 40.0 + int(version), ("a note",), {"tiles": 4}, fill, media_type
        )
        for label, version in zip("AB", versions, strict=False)
    )
    inputs = {"photo": (media_type, photo), "mask": ("image/png", mask)}
    facts = {"hole_ratio": 0.125, "width": 640}
    return TraceRecord(name, model, "production", started, "eva", True, keep, inputs, facts, answers)


def cast_vote(name: str, choice: str = "A", *, rater: str = "eva", at: float = 1_700_000_009.5) -> VerdictRecord:
    """A vote on a trace of versions 3 and 5."""
    return VerdictRecord(name, MODEL, rater, choice, "less blur", at, {"A": "3", "B": "5"})


def record(
    folder: Path, tracking_uri: str, traces: Iterable[TraceRecord], votes: Iterable[VerdictRecord] = ()
) -> TraceQueue:
    """Records traces and votes, and sends them."""
    queue = open_queue(folder)
    for trace in traces:
        queue.record(trace)
    for vote in votes:
        queue.verdict(vote)
    assert send(folder, tracking_uri).error is None
    return queue
