"""Rules for points of a run that resumes.

Pure: no I/O. MLflow cannot delete points, and a repeated step need not give the same numbers (other ranks add up in
another order, a roll-back takes another course). So a point beyond the last checkpoint is *pending*: it is sent only
when a checkpoint commits it. Each step stands once, and all steps belong to the one sequence of attempts that led to
the end. What no checkpoint will commit is sent under `without checkpoint/`. A few curves under `dashboard/` wait for
nothing: they show how a run goes.

`{"k": "commit", "step": s}` stands where the checkpoint of step s is stored, `{"k": "branch", "step": s}` where an
attempt resumes from s. A branch discards pending points; those of the checkpoint come back with it
(`without_discarded`), on any node. Before the first branch, as in runs without checkpoints, every point is committed at
once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

SpoolRecord = dict[str, Any]
"""One line of a spool: its kind under `k`, and what `_FIELDS` lists for that kind."""
# MLflow's pages sort groups by name: this one comes last.
WITHOUT_CHECKPOINT = "without checkpoint/"
# And this one first.
DASHBOARD = "dashboard/"
SYSTEM = "system/"
# These happened, however the attempt ended.
_NEVER_PENDING = (SYSTEM, "guard/", DASHBOARD)
_IMAGE = "picture "


@dataclass
class Ledger:
    """State of a run after some of its records."""

    # The last step of every metric key, and of every image under `picture KEY`
    marks: dict[str, int] = field(default_factory=dict)
    committed: int | None = None  # Points up to this step are committed; None if all are

    def apply(self, record: SpoolRecord) -> None:
        """Updates the state by the next record."""
        match record.get("k"):
            case "metrics":
                self.mark(record["v"], record["step"])
            case "file" if "key" in record:
                self.mark([record["key"]], record["step"])
            case "commit" if self.committed is not None:
                self.committed = max(self.committed, record["step"])
            case "branch":
                if self.committed is not None:
                    self._rewind(max(self.committed, record["step"]))
                # An older checkpoint than the last one: the points in between have been sent, and stay.
                self.committed = max(self.committed or 0, record["step"])

    def mark(self, keys: Iterable[str], step: int) -> None:
        """Raises the marks of these keys to `step`."""
        for key in keys:
            self.marks[key] = max(self.marks.get(key, step), step)

    def merge(self, marks: Mapping[str, int]) -> None:
        """Raises the marks to those recorded elsewhere."""
        for key, step in marks.items():
            self.mark([key], step)

    def is_pending(self, record: SpoolRecord) -> bool:
        """Checks for points that no checkpoint has committed yet."""
        return (
            record["k"] == "metrics"
            and self.committed is not None
            and record["step"] > self.committed
            and not all(key.startswith(_NEVER_PENDING) for key in record["v"])
        )

    def _rewind(self, step: int) -> None:
        """Lets the next attempt record training metrics again after `step`."""
        # A copy: another thread may be recording system metrics.
        for key, mark in list(self.marks.items()):
            if not key.startswith((_IMAGE, *_NEVER_PENDING)):
                self.marks[key] = min(mark, step)


def without_discarded(lines: Iterable[tuple[SpoolRecord | None, bytes]], committed: int | None) -> Iterator[bytes]:
    """Lines of a spool without discarded points, commits and branches.

    `lines` has None for a damaged line, which is left out; `committed` is the state of the ledger before the first
    line.
    """
    # Replay the lines on a ledger.
    ledger = Ledger(committed=committed)
    remaining: list[tuple[SpoolRecord, bytes]] = []
    for record, raw in lines:
        if record is None:
            continue
        # A branch discards what is pending at that moment, by the commits before it.
        if record["k"] == "branch":
            remaining = [(earlier, line) for earlier, line in remaining if not ledger.is_pending(earlier)]
        ledger.apply(record)
        if record["k"] not in ("branch", "commit"):
            remaining.append((record, raw))
    return (line for _, line in remaining)


# Kind of record -> its required fields and their types. Other kinds, of newer code, are accepted with any fields.
_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "metrics": {"v": dict, "step": int, "ts": int},
    "params": {"v": dict},
    "tags": {"v": dict},
    "file": {"files": list},
    "input": {"v": dict, "context": str},
    "run_tags": {"v": dict},
    "version": {"name": str, "version": str, "v": dict, "files": list},
    "start": {"v": dict, "owner": str},
    "status": {"v": str, "ts": int},
    "commit": {"step": int},
    "branch": {"step": int},
}


def is_valid(record: Any) -> bool:
    """Checks kind, fields and types, since damage may be JSON."""
    if not isinstance(record, dict) or not isinstance(record.get("k"), str):
        return False
    fields = _FIELDS.get(record["k"], {})
    if not all(isinstance(record.get(name), types) for name, types in fields.items()):
        return False
    # The values inside: numbers of metrics, texts of everything else.
    if record["k"] == "metrics":
        return all(isinstance(value, int | float) for value in record["v"].values())
    if record["k"] in ("file", "version"):
        pairs = all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair)) for pair in record["files"])
        if not pairs or ("key" in record and not isinstance(record.get("step"), int)):
            return False
    if record["k"] == "run_tags":
        return all(isinstance(tags, dict) and all(map(_is_text, tags.values())) for tags in record["v"].values())
    return record["k"] not in ("params", "tags", "version") or all(map(_is_text, record["v"].values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def image_mark(file_key: str) -> str:
    """Mark of images whose file names begin with `file_key`."""
    return f"{_IMAGE}{file_key}"


def without_checkpoint(record: SpoolRecord) -> SpoolRecord:
    """Points under a name where attempts may repeat each other."""
    return {**record, "v": {f"{WITHOUT_CHECKPOINT}{key}": value for key, value in record["v"].items()}}
