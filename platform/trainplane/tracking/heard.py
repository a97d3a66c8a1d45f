"""PURE but for its file: what MLflow had of a run before this spool's first record, where that was learnt late.

A run that goes on, on another machine, while the server is away repeats steps that the server may have already. Whoever
sends the spool asks once, before the first record, and leaves out what stands: each step stands once. Samples of the
machine happened in any case, so they are numbered on from those that are there.

Where the recorder could ask at its own start there is nothing to leave out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainplane.tracking.spool.ledger import SYSTEM, Record
from trainplane.tracking.spool.meta import replace_file

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
