"""Events: what happened, to what, and when."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from trainplane.config.canonical import canonical_json

Severity = Literal["info", "success", "warning", "failure"]

# Every kind of event, how serious it is, and when it happens.
KINDS: dict[str, tuple[Severity, str]] = {
    "run.finished": ("success", "a run reached its last step, or ended by its own limits"),
    "run.failed": ("failure", "a run ended by an error, or its process died"),
    "run.stopped": ("info", "a run was interrupted; its state is saved"),
    "run.bad_step": ("warning", "the guard met NaN, infinity or an exploding gradient"),
    "run.stalled": ("warning", "no rank moved; the rank that the others wait for is named"),
    "run.retried": ("warning", "a worker was lost, and the run goes on from its last checkpoint"),
    "node.blamed": ("warning", "a node's GPU failed"),
    "budget.near": ("warning", "80 % of a search's budget, or of a run's time, is used"),
    "search.finished": ("success", "a search ended"),
    "search.failed": ("failure", "a search ended by an error"),
    "search.stopped": ("info", "a search was interrupted; its journal is kept"),
    "gate.shut": ("warning", "a version did not pass its gates"),
    "alias.promoted": ("success", "an alias moved past its gates"),
    "alias.forced": ("warning", "an alias moved although gates failed"),
    "alias.rolled_back": ("warning", "an alias moved back"),
    "alias.moved_by_hand": ("failure", "an alias in MLflow is not where the audit trail says"),
    "share.taken_back": ("failure", "a candidate harmed its part of the traffic, and a server took it back"),
    "test": ("info", "the notify test command was called"),
}


@dataclass(frozen=True)
class Event:
    """One thing that happened; equal ids are the same event."""

    id: str
    kind: str  # One of `KINDS`
    time: str  # ISO 8601, UTC
    title: str  # One line
    text: str
    data: Mapping[str, Any] = field(default_factory=dict)  # Facts for programs, as JSON

    @staticmethod
    def of(kind: str, title: str, text: str, *, once: tuple[object, ...], **data: Any) -> Event:
        """Makes an event that happens now.

        Args:
            kind: One of `KINDS`.
            title: One line.
            text: What people read.
            once: What makes it this event and no other: a second event with the same is the same one, and is not sent
                again.
            data: Facts for programs.
        """
        digest = hashlib.sha256(canonical_json([kind, *map(str, once)])).hexdigest()[:32]
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return Event(f"msg_{digest}", kind, now, title, text, {name: _finite(value) for name, value in data.items()})

    @property
    def severity(self) -> Severity:
        """Seriousness; unknown kinds of newer code are `info`."""
        return KINDS[self.kind][0] if self.kind in KINDS else "info"

    def to_json(self) -> dict[str, Any]:
        """All fields, for the outbox."""
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Event:
        """Reads what `to_json` wrote."""
        return Event(**{name: stored[name] for name in ("id", "kind", "time", "title", "text", "data")})


def _finite(value: Any) -> Any:
    """Value without NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Notice(str):
    """Message of a run that is an event, too.

    It passes wherever a message passes, through Ray's actors as well.
    """

    kind: str

    def __new__(cls, text: str, kind: str) -> Notice:
        """Adds the kind, one of `KINDS`, to a text."""
        notice = super().__new__(cls, text)
        notice.kind = kind
        return notice

    def __reduce__(self) -> tuple[type[Notice], tuple[str, str]]:
        return Notice, (str(self), self.kind)
