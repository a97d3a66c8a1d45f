"""Events of registered models. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from trainplane.notify.event import Event
from trainplane.registry.audit import AuditRecord
from trainplane.registry.gates import GateVerdict

_MOVES = {"promote": "alias.promoted", "force": "alias.forced", "rollback": "alias.rolled_back"}


def alias_moved(record: AuditRecord) -> Event:
    """Event of an alias that moved with a record."""
    where = f"{record.name}@{record.alias}"
    word = {"force": "was forced to", "rollback": "went back to"}.get(record.action, "is")
    return Event.of(
        _MOVES[record.action],
        f"{where} {word} version {record.to_version}",
        f"by {record.who}, audit record {record.number}" + (f"\nreason: {record.reason}" if record.reason else ""),
        once=(record.name, record.alias, record.number, record.time),
        name=record.name,
        alias=record.alias,
        version=record.to_version,
        who=record.who,
        reason=record.reason,
        audit_record=record.number,
    )


def gate_shut(name: str, version: str, alias: str, verdicts: Sequence[GateVerdict], who: str) -> Event:
    """Event of a version that did not pass its gates."""
    failed = [verdict for verdict in verdicts if not verdict.passed]
    return Event.of(
        "gate.shut",
        f"version {version} of {name} does not reach @{alias}: {len(failed)} of {len(verdicts)} gates failed",
        "\n".join([*(f"{verdict.gate}: {verdict.evidence}" for verdict in failed), f"asked by {who}"]),
        # Each attempt to promote is one of its own.
        once=(name, version, alias, uuid.uuid4().hex),
        name=name,
        version=version,
        alias=alias,
        failed=[verdict.gate for verdict in failed],
        who=who,
    )


def share_taken_back(record: AuditRecord) -> Event:
    """Event of a candidate whose share a server ended."""
    return Event.of(
        "share.taken_back",
        f"version {record.to_version} of {record.name} has no traffic any more",
        f"{record.reason}\nby {record.who}, audit record {record.number}",
        once=(record.name, record.alias, record.number, record.time),
        name=record.name,
        version=record.to_version,
        who=record.who,
        reason=record.reason,
        audit_record=record.number,
    )


def alias_moved_by_hand(name: str, fault: str) -> Event:
    """Event of an alias in MLflow that contradicts the trail."""
    # Told once a day while it lasts, however many commands meet it.
    once = (name, fault, datetime.now(UTC).date())
    return Event.of("alias.moved_by_hand", f"{name}: an alias was moved by hand", fault, once=once, name=name)
