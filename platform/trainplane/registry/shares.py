"""Shares of traffic in the audit trail.

A candidate's share is a record like a promotion, so servers follow one trail, and no change of traffic is unseen. Its
alias is `ALIAS.canary`, which MLflow refuses as an alias: a program that knows no shares takes it for a record that
moved nothing. A move of the alias itself ends the share.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from trainplane.errors import RunFailed, UserError
from trainplane.registry import audit
from trainplane.registry.audit import AuditRecord, StaleTrail, Trail
from trainplane.storage import Store

_SUFFIX = ".canary"
_REASON = re.compile(r"(?P<mode>off|shadow|canary (?P<percent>\d+(?:\.\d+)?) %): (?P<reason>.*)", re.DOTALL)
_MAX_TURNS = 50

Mode = Literal["off", "shadow", "canary"]


@dataclass(frozen=True)
class CandidateShare:
    """A candidate's part of the traffic."""

    version: str
    mode: Mode
    share: float  # 0 to 1; 0 unless the mode is canary
    reason: str
    number: int  # Of the audit record


def share_alias(alias: str) -> str:
    """The recorded alias of an alias's share."""
    return f"{alias}{_SUFFIX}"


def current_share(trail: Trail, alias: str) -> CandidateShare | None:
    """Share of now; None after a move of the alias."""
    for record in reversed(trail.records):
        if record.action == "share" and record.alias == share_alias(alias):
            return _parsed(record)
        if record.action not in ("approve", "share") and record.alias == alias:
            return None
    return None


def record_share(
    store: Store,
    name: str,
    version: str,
    *,
    alias: str,
    mode: Mode,
    share: float = 0.0,
    reason: str,
    expected: int | None = None,
) -> AuditRecord | None:
    """Appends a share to the trail; MLflow is not asked.

    Args:
        store: The audit's store.
        name: Registered model.
        version: The candidate.
        alias: The alias whose traffic is shared.
        mode: Off ends the share.
        share: With canary, above 0 to 1.
        reason: Kept in the record.
        expected: Number of the share's record that this one replaces. Where another one holds meanwhile, nothing is
            written: of several servers that decide the same, one writes.

    Returns:
        The record, or None where `expected` holds no more.
    """
    if mode == "canary" and not 0 < share <= 1:
        raise UserError(f"share is {share}; need more than 0 and at most 1, such as 0.1")
    text = f"canary {share * 100:.4g} %" if mode == "canary" else mode
    for _ in range(_MAX_TURNS):
        trail = audit.read_trail(store, name)
        current = current_share(trail, alias)
        if expected is not None and (current is None or current.number != expected):
            return None
        # Another record that takes its number only costs another turn.
        with suppress(StaleTrail):
            trail = audit.append(
                store,
                trail,
                action="share",
                name=name,
                alias=share_alias(alias),
                to_version=version,
                reason=f"{text}: {reason}",
                verdict_digest=None,
            )
            return trail.records[-1]
    raise RunFailed(f"other processes kept writing the trail of {name} meanwhile; try again")


def _parsed(record: AuditRecord) -> CandidateShare:
    match = _REASON.fullmatch(record.reason)
    if match is None:
        raise RunFailed(f"audit record {record.number} of {record.name} is a share without a mode; see `reason` in it")
    mode: Mode = "canary" if match["percent"] else match["mode"]  # type: ignore[assignment]
    share = min(1.0, float(match["percent"]) / 100) if match["percent"] else 0.0
    return CandidateShare(record.to_version, mode, share, match["reason"], record.number)
