"""PURE: which points stand, when a run goes on from an earlier step and may take another way.

MLflow cannot delete points, and a repeated step need not give the same numbers: other ranks add up in another order,
and a run that went back from trouble does so to go elsewhere. So a point beyond the last checkpoint is sent at once
under `live/`, where every attempt shows, and under its own key only when a checkpoint stands behind it. Under their
own keys each step stands once, and all of them belong to the one way that led to the end.

What says so are records among the others, in order: `{"k": "commit", "step": s}` when the checkpoint of step s is
stored, and `{"k": "branch", "step": s}` when an attempt goes on from s, which gives up every point that waits; those
that belong to the checkpoint come back with it (`standing`), whichever node it was made on. Before the first branch,
as in runs that keep no checkpoints, every point stands at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]
LIVE = "live/"
SYSTEM = "system/"
# What these tell is no step of the training: it happened, whatever became of the attempt.
_STAND_AT_ONCE = (SYSTEM, "guard/")
_PICTURE = "picture "


@dataclass
class Ledger:
    """What the records up to some point amount to.

    marks -- the last step of every metric key, and of every picture under `picture KEY`
    committed -- points up to this step stand; None: all do
    """

    marks: dict[str, int] = field(default_factory=dict)
    committed: int | None = None

    def take(self, record: Record) -> None:
        """Take in the next record."""
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

    def mark(self, keys: Any, step: int) -> None:
        for key in keys:
            self.marks[key] = max(self.marks.get(key, step), step)

    def at_least(self, marks: Mapping[str, int]) -> None:
        """Take in what is known to be recorded from elsewhere."""
        for key, step in marks.items():
            self.mark([key], step)

    def waits(self, record: Record) -> bool:
        """Whether this is a record of points that wait for a checkpoint."""
        return (
            record["k"] == "metrics"
            and self.committed is not None
            and record["step"] > self.committed
            and not all(key.startswith(_STAND_AT_ONCE) for key in record["v"])
        )

    def _rewind(self, step: int) -> None:
        # A copy: another thread may be recording what the machine does.
        for key, mark in list(self.marks.items()):
            if not key.startswith((_PICTURE, *_STAND_AT_ONCE)):
                self.marks[key] = min(mark, step)


def standing(lines: Iterable[tuple[Record | None, bytes]], committed: int | None) -> Iterator[bytes]:
    """Of lines of a spool, those that stand or may come to stand, without what says so; what was given up is left out.

    `committed` is what stood before the first of them.
    """
    ledger = Ledger(committed=committed)
    kept: list[tuple[Record, bytes]] = []
    for record, raw in lines:
        if record is None:
            continue
        if record["k"] == "branch":
            kept = [(earlier, line) for earlier, line in kept if not ledger.waits(earlier)]
        ledger.take(record)
        if record["k"] not in ("branch", "commit"):
            kept.append((record, raw))
    return (line for _, line in kept)


# Kind -> what a record of it must have; of other kinds nothing is known.
_SHAPES: dict[str, dict[str, type | tuple[type, ...]]] = {
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


def is_sound(record: Any) -> bool:
    """Whether this is a record: a line that a disk has damaged may be JSON still, and must not hold up the others."""
    if not isinstance(record, dict) or not isinstance(record.get("k"), str):
        return False
    shape = _SHAPES.get(record["k"], {})
    if not all(isinstance(record.get(name), kind) for name, kind in shape.items()):
        return False
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


def picture_mark(file_key: str) -> str:
    """The name under which marks hold the last step of pictures whose files begin with `file_key`."""
    return f"{_PICTURE}{file_key}"


def as_live(record: Record) -> Record:
    """The same points under keys that promise nothing."""
    return {**record, "v": {f"{LIVE}{key}": value for key, value in record["v"].items()}}
