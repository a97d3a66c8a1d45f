"""What MLflow has of a run already: the last step of every metric and of every picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from trainplane.tracking.spool.ledger import SYSTEM, Record, picture_mark
from trainplane.tracking.spool.meta import replace_file


def recorded_steps(client: Any, run_id: str) -> dict[str, int]:
    """The last step that MLflow has of each metric, and of each picture under `picture KEY`."""
    run = client.get_run(run_id)
    # The public `metrics` mapping has values only; the protobuf message has the steps, too.
    steps = {metric.key: int(metric.step) for metric in run.data.to_proto().metrics}
    if "mlflow.loggedImages" in run.data.tags:
        for artifact in client.list_artifacts(run_id, "images"):
            key, _, rest = PurePosixPath(artifact.path).name.partition("+step+")
            step = rest.partition("+")[0]
            if step.isdigit():
                steps[picture_mark(key)] = max(steps.get(picture_mark(key), 0), int(step))
    return steps


_FILE = "heard.json"


@dataclass(frozen=True)
class Heard:
    """The last step that MLflow had of every metric key, and of every picture under `picture KEY`."""

    marks: Mapping[str, int] = field(default_factory=dict)

    def new(self, records: Iterable[Record]) -> list[Record]:
        """These records without what was there before."""
        if not self.marks:
            return list(records)
        return [kept for record in records if (kept := self._new(record)) is not None]

    def _new(self, record: Record) -> Record | None:
        match record["k"]:
            case "metrics":
                samples = [mark for key, mark in self.marks.items() if key.startswith(SYSTEM)]
                if samples and all(key.startswith(SYSTEM) for key in record["v"]):
                    return {**record, "step": record["step"] + max(samples) + 1}
                values = {
                    k: v for k, v in record["v"].items() if record["step"] > self.marks.get(k, record["step"] - 1)
                }
                return {**record, "v": values} if values else None
            case "file" if "key" in record:
                return record if record["step"] > self.marks.get(record["key"], record["step"] - 1) else None
        return record


def read_heard(folder: Path) -> Heard | None:
    """What was learnt; None where nobody asked yet."""
    try:
        stored = json.loads((folder / _FILE).read_text())
        return Heard({str(key): int(step) for key, step in stored["marks"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def write_heard(folder: Path, heard: Heard) -> None:
    """Remember it, for the life of the spool."""
    replace_file(folder / _FILE, json.dumps({"marks": dict(heard.marks)}).encode())
