"""Records answers and votes on disk until MLflow has them.

A trace is one request with its answers; a verdict is one vote on it. `TraceQueue` writes both into a spool
(`trainplane.tracking.spool`) with one unbuffered write each, so a record survives SIGKILL when the call returns, and a
process beside the server sends them (`upload_traces`). Nothing here waits for MLflow.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainplane.tracking.client import without_secrets
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import count_unsent
from trainplane.tracking.spool.uploader_process import Uploader

logger = logging.getLogger(__name__)

Fact = str | int | float
KEEPS = ("none", "facts", "pictures")
# What the folder's `about.json` says in place of a run: these records belong to no run.
NO_RUN = "traces"
UPLOADER = "trainplane.serving.upload_traces"
# Start of the names of facts that are inputs' digests, and their media types.
INPUT_FACT, TYPE_FACT = "input.", "type."
# An open file of sent records is emptied beyond this size.
_COMPACT_BYTES = 16 << 20


@dataclass(frozen=True)
class AnswerRecord:
    """Answer of one version to one request."""

    label: str  # As the rater saw it: "A" or "B"
    version: str  # Number of the registered version
    digest: str  # Sha256 of the model
    milliseconds: float
    notes: tuple[str, ...]  # Sentences for the user
    facts: Mapping[str, Fact]  # Anything countable of this answer, such as tiles or device
    output: bytes | None  # The answer's file; None where it is not to be kept
    media_type: str  # Of `output`, such as "image/png"


@dataclass(frozen=True)
class TraceRecord:
    """One request with its answers."""

    trace: str  # As `new_trace` makes it
    model: str  # Registered name
    alias: str  # Alias that was served
    started: float  # Seconds since the epoch
    rater: str  # Who asked; empty where unknown
    blind: bool  # True if the versions' names were hidden
    keep: str  # One of `KEEPS`: none records nothing, facts no bytes of inputs and outputs
    inputs: Mapping[str, tuple[str, bytes]]  # Name -> (media type, bytes); of "facts" their digests are written
    facts: Mapping[str, Fact]  # Of the request, such as hole_ratio, width, height
    answers: tuple[AnswerRecord, ...]
    shadow: bool = False  # True if one answer was made beside the one that the user saw


@dataclass(frozen=True)
class VerdictRecord:
    """One vote on a trace."""

    trace: str
    model: str
    rater: str
    choice: str  # A label, "tie" or "neither"; or "good" or "bad" for a single answer
    comment: str
    at: float  # Seconds since the epoch
    versions: Mapping[str, str]  # Label -> version


def new_trace() -> str:
    """Makes a new trace's name, also MLflow's id."""
    return f"tr-{secrets.token_hex(16)}"


class TraceQueue:
    """Durable queue to MLflow; one process has it.

    No call raises for an MLflow that is away. A full disk loses the record and says so in the log: an answer must not
    fail for its record.
    """

    def __init__(self, folder: Path, tracking_uri: str, experiment: str, *, artifact_root: str | None = None) -> None:
        """Opens or creates the queue, and starts its uploader.

        Args:
            folder: Folder of this process alone; of several replicas each needs its own.
            tracking_uri: MLflow's address, with its password.
            experiment: Name of MLflow's experiment; it is created with the first upload.
            artifact_root: `s3://…` or a folder for the pictures of a new experiment; None: where the server says.
        """
        self._experiment, self._artifact_root = experiment, artifact_root
        self._spool = Spool(folder, run_id=NO_RUN, tracking=without_secrets(tracking_uri))
        self._lock = threading.Lock()
        self._uploader = Uploader(folder, tracking_uri, program=UPLOADER)

    def record(self, trace: TraceRecord) -> None:
        """Writes a trace, unless it is to be kept nowhere."""
        if trace.keep == "none":
            return
        inputs = trace.inputs if trace.keep == "pictures" else {}
        outputs = {
            answer.label: (answer.media_type, answer.output)
            for answer in trace.answers
            if trace.keep == "pictures" and answer.output is not None
        }
        record = {
            "k": "trace",
            "experiment": self._experiment,
            "artifact_root": self._artifact_root,
            "v": _trace_fields(trace),
        }
        self._write(record, [("inputs", inputs), ("outputs", outputs)])

    def verdict(self, verdict: VerdictRecord) -> None:
        """Writes a vote on a recorded trace."""
        self._write({"k": "verdict", "v": {**vars(verdict), "versions": dict(verdict.versions)}})

    def golden(self, trace: str, rater: str) -> None:
        """Marks a trace that later versions must get right."""
        self._write({"k": "golden", "v": {"trace": trace, "rater": rater}})

    def close(self, wait_s: float) -> None:
        """Sends for `wait_s` seconds; the rest stays on disk."""
        # With nothing to send, the process would only import MLflow, for seconds.
        left = self._uploader.close(wait_s if count_unsent(self._spool.folder) else 0.0)
        self._spool.close()
        if left:
            logger.warning("serving: %d records wait in %s", left, self._spool.folder)

    def _write(
        self, record: dict[str, Any], attachments: Sequence[tuple[str, Mapping[str, tuple[str, bytes]]]] = ()
    ) -> None:
        with self._lock:
            try:
                # Attachments first: no record refers to a file that is not there.
                files = [
                    [self._spool.attach(role, data), f"{role}/{name}/{media_type}"]
                    for role, named in attachments
                    for name, (media_type, data) in named.items()
                ]
                self._spool.append({**record, "files": files} if files else record)
                self._spool.compact(above_bytes=_COMPACT_BYTES)
            except OSError as error:
                logger.error("serving: a %s was not recorded (%s)", record["k"], error)


def _trace_fields(trace: TraceRecord) -> dict[str, Any]:
    """A trace as JSON, without bytes."""
    fields = {name: getattr(trace, name) for name in ("trace", "model", "alias", "started", "rater", "blind", "keep")}
    answers = [
        {
            **{name: getattr(answer, name) for name in ("label", "version", "digest", "milliseconds", "media_type")},
            "notes": list(answer.notes),
            "facts": dict(answer.facts),
        }
        for answer in trace.answers
    ]
    digests = {f"{INPUT_FACT}{name}": hashlib.sha256(data).hexdigest() for name, (_, data) in trace.inputs.items()}
    types = {f"{TYPE_FACT}{name}": media_type for name, (media_type, _) in trace.inputs.items()}
    return {**fields, "shadow": trace.shadow, "facts": {**digests, **types, **trace.facts}, "answers": answers}
