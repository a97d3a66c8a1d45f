"""Results of searches and evaluations, sent through a spool.

A result concerns several runs and versions. It is on the local disk before the first request; where the server is
unreachable `isnet runs sync` sends it later. Sending twice changes nothing: points have one time, files one name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from trainplane.command_line import command_line
from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.history import RecordedSteps, write_recorded_steps
from trainplane.tracking.spool.spool import Spool
from trainplane.tracking.spool.upload import OnVersion, upload

# Another process may be writing the result of the same run: that takes as long as copying its files.
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class VersionAttachment:
    """Tags and files for one version of a registered model."""

    name: str  # Registered model
    version: str  # Its version
    # Set after the files and in this order, so that the last tag vouches for everything before it
    tags: Mapping[str, str]
    files: Mapping[str, bytes]  # Contents by artifact path, in the run that made the version


@dataclass(frozen=True)
class RunResult:
    """Everything that MLflow stores of a run when it finishes."""

    run_id: str  # MLflow's id
    folder: Path  # Its files become the run's artifacts; they are copied, so the folder may go afterwards
    metrics: Mapping[str, float]  # Values at step 0
    tags: Mapping[str, str]  # Tags of the run
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)  # Values by step, by name
    # Tags of other runs, such as the trials of a search, by run id (reserved ones too)
    run_tags: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attachments: Sequence[VersionAttachment] = ()  # Additions to registered versions
    # Time of the metrics and of the run's end, Unix milliseconds
    time_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)


def send_result(
    server: TrackingServer, spools: Path, result: RunResult, *, on_version: OnVersion | None = None
) -> str | None:
    """Stores a result and sends it; a message if waiting.

    An unreachable server raises nothing. `on_version` is called after each sent attachment, before it is acknowledged.
    """
    folder = write_result(server, spools, result)
    try:
        server.knock()
        error = upload(folder, server.client, on_version=on_version).error
    # A server or a database may raise anything; the result stays in its spool.
    except Exception as failure:
        error = reason(failure)
    return error and (
        f"MLflow does not take the result of run {result.run_id} ({error}); all of it is kept in {folder}; "
        f"`{command_line('runs', 'sync')}` sends it"
    )


def write_result(server: TrackingServer, spools: Path, result: RunResult) -> Path:
    """Writes a result into its run's spool; returns the folder."""
    # Files are copied, so the spool is complete by itself.
    folder = spools / result.run_id
    spool = Spool(folder, run_id=result.run_id, tracking=server.public_address, patience_s=_PATIENCE_S)
    with closing(spool):
        # A repeated evaluation replaces the points of the one before: none of them are left out.
        write_recorded_steps(folder, RecordedSteps())
        spool.append({"k": "metrics", "step": 0, "ts": result.time_ms, "v": dict(result.metrics)})
        for name, points in result.curves.items():
            for step, value in points.items():
                spool.append({"k": "metrics", "step": step, "ts": result.time_ms, "v": {name: value}})
        for path in sorted(path for path in result.folder.rglob("*") if path.is_file()):
            attached = spool.attach(path.name, path.read_bytes())
            spool.append({"k": "file", "files": [[attached, str(path.relative_to(result.folder))]]})
        spool.append({"k": "run_tags", "v": {run_id: dict(tags) for run_id, tags in result.run_tags.items()}})
        for attachment in result.attachments:
            files = [[spool.attach(Path(name).name, data), name] for name, data in attachment.files.items()]
            version = {"name": attachment.name, "version": attachment.version, "v": dict(attachment.tags)}
            spool.append({"k": "version", **version, "files": files})
        spool.append({"k": "tags", "v": dict(result.tags)})
        # The end comes last: a run that is FINISHED has all of its result.
        spool.append({"k": "status", "v": "FINISHED", "ts": result.time_ms})
    return folder
