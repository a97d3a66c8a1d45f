"""Steps of a run's metrics and images that MLflow has.

A run that resumes on another machine without its server repeats steps that the server may have. The uploader asks once,
before the spool's first record, stores the answer and leaves those steps out. Samples of the machine happened in any
case, so their numbers continue. If the recorder could ask at its own start, nothing is to be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trainplane.tracking.spool.ledger import SYSTEM, SpoolRecord, image_mark
from trainplane.tracking.spool.meta import replace_file

_FILE = "heard.json"


def fetch_recorded_steps(client: Any, run_id: str) -> dict[str, int]:
    """Fetches the last step of each metric and image."""
    run = client.get_run(run_id)
    # The public `metrics` mapping has values only; the protobuf message has the steps, too.
    steps = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
    # Steps of images stand in their file names alone.
    if "mlflow.loggedImages" in run.data.tags:
        for artifact in client.list_artifacts(run_id, "images"):
            key, _, suffix = PurePosixPath(artifact.path).name.partition("+step+")
            step = suffix.partition("+")[0]
            if step.isdigit():
                steps[image_mark(key)] = max(steps.get(image_mark(key), 0), int(step))
    return steps


@dataclass(frozen=True)
class RecordedSteps:
    """Steps that MLflow had before a spool's first record."""

    # The last step of every metric key, and of every image under `picture KEY`
    marks: Mapping[str, int] = field(default_factory=dict)

    def without_recorded(self, records: Iterable[SpoolRecord]) -> list[SpoolRecord]:
        """Removes points that MLflow had; renumbers samples of the machine."""
        # The usual case: a new run, or one whose recorder left them out.
        if not self.marks:
            return list(records)
        return [remaining for record in records if (remaining := self._without_recorded(record)) is not None]

    def _without_recorded(self, record: SpoolRecord) -> SpoolRecord | None:
        match record["k"]:
            case "metrics":
                # Samples of the machine continue after those recorded.
                samples = [mark for key, mark in self.marks.items() if key.startswith(SYSTEM)]
                if samples and all(key.startswith(SYSTEM) for key in record["v"]):
                    return {**record, "step": record["step"] + max(samples) + 1}
                # Training metrics lose the keys that MLflow has up to this step.
                values = {key: value for key, value in record["v"].items() if self._is_new(key, record["step"])}
                return {**record, "v": values} if values else None
            case "file" if "key" in record:
                return record if self._is_new(record["key"], record["step"]) else None
        return record

    def _is_new(self, key: str, step: int) -> bool:
        return step > self.marks.get(key, step - 1)


def read_recorded_steps(folder: Path) -> RecordedSteps | None:
    """Reads a spool's stored answer; None before MLflow was asked."""
    try:
        stored = json.loads((folder / _FILE).read_text())
        return RecordedSteps({str(key): int(step) for key, step in stored["marks"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_recorded_steps(folder: Path, recorded: RecordedSteps) -> None:
    """Stores the answer for the life of the spool."""
    replace_file(folder / _FILE, json.dumps({"marks": dict(recorded.marks)}).encode())
