"""The one way an alias moves: through gates, onto the version everybody expects, with a record of who and why.

First the audit record is created (exactly one of several writers wins), then the alias is set to what the trail says.
Killed in between, the next `reconcile` repairs the alias: the trail is the authority. Rules and verdicts are `gates`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum

from trainplane.errors import RunFailed, UserError
from trainplane.registry import audit
from trainplane.registry.audit import Conflict, Trail
from trainplane.registry.gates import Verdict, passed
from trainplane.registry.versions import PREFIX, attach_verdicts, find_model, find_version, verdict_digest
from trainplane.storage import Store
from trainplane.tracking.client import client_for

logger = logging.getLogger(__name__)

PRODUCTION = "production"
_HEAD_TAG = PREFIX + "audit_head"


class Expected(Enum):
    """What a caller who names no version expects to find in production."""

    ANY = "whatever is there when the promotion begins"


ANY = Expected.ANY


def promote(
    name: str,
    version: str,
    *,
    verdicts: Sequence[Verdict],
    store: Store,
    tracking_uri: str,
    alias: str = PRODUCTION,
    expected_current: str | Expected | None = ANY,
    reason: str = "",
    force_reason: str | None = None,
) -> audit.Entry:
    """Move `alias` to `version` and return the audit record that says so.

    `expected_current` is the version the verdicts were reached against (None: the alias is new); when another one is
    there by now, nothing moves and `Conflict` names the winner. Failed gates raise `RunFailed` unless `force_reason`
    is given, which is recorded. Repeating a promotion that was killed half-way completes it.
    """
    version = str(version)
    find_version(tracking_uri, f"models:/{name}/{version}")
    if force_reason is not None and not force_reason.strip():
        raise UserError("forcing a promotion needs a reason; say in a sentence why the gates may be passed over")
    if verdicts:
        attach_verdicts(tracking_uri, name, version, verdicts)
    if not passed(list(verdicts)) and force_reason is None:
        raise RunFailed(_refusal(name, version, alias, verdicts))
    trail = audit.read_trail(store, name)
    current = trail.current(alias)
    if current == version:
        _project(name, alias, store=store, tracking_uri=tracking_uri)
        return next(entry for entry in reversed(trail.entries) if entry.alias == alias)
    if expected_current is not ANY and current != expected_current:
        raise _overtaken(trail, name, alias, version, expected_current)
    trail = audit.append(
        store,
        trail,
        action="promote" if force_reason is None else "force",
        name=name,
        alias=alias,
        to_version=version,
        reason=reason if force_reason is None else force_reason,
        verdict_digest=verdict_digest(verdicts) if verdicts else None,
    )
    if force_reason is not None:
        logger.warning("%s@%s was FORCED to version %s: %s", name, alias, version, force_reason)
    _project(name, alias, store=store, tracking_uri=tracking_uri)
    return trail.entries[-1]


def rollback(
    name: str,
    *,
    store: Store,
    tracking_uri: str,
    reason: str,
    alias: str = PRODUCTION,
    expected_current: str | Expected | None = ANY,
) -> audit.Entry:
    """Move `alias` back to the version that had it before the current one, and return the audit record."""
    trail = audit.read_trail(store, name)
    current = trail.current(alias)
    if expected_current is not ANY and current != expected_current:
        raise _overtaken(trail, name, alias, "the one before", expected_current)
    target = trail.before(alias)
    if target is None:
        raise UserError(
            f"{name}@{alias} has no version to go back to (now: {current or 'none'}); promote another version instead"
        )
    find_version(tracking_uri, f"models:/{name}/{target}")
    trail = audit.append(
        store,
        trail,
        action="rollback",
        name=name,
        alias=alias,
        to_version=target,
        reason=reason,
        verdict_digest=None,
    )
    _project(name, alias, store=store, tracking_uri=tracking_uri)
    return trail.entries[-1]


def current_version(name: str, *, store: Store, tracking_uri: str, alias: str = PRODUCTION) -> str | None:
    """The version in production by the trail, with the alias repaired on the way; None before the first promotion."""
    trail = audit.read_trail(store, name)
    if trail.current(alias) is not None:
        _project(name, alias, store=store, tracking_uri=tracking_uri)
    return trail.current(alias)


def reconcile(name: str, *, store: Store, tracking_uri: str) -> list[str]:
    """Set every alias to what the trail says; returns a sentence for each that had to be moved."""
    repaired = []
    for alias in audit.read_trail(store, name).aliases():
        before, after = _project(name, alias, store=store, tracking_uri=tracking_uri)
        if before != after:
            repaired.append(f"{name}@{alias} pointed at {before or 'nothing'} and points at {after} again")
    return repaired


def verify_audit(name: str, *, store: Store, tracking_uri: str) -> list[str]:
    """Everything that contradicts the trail, in sentences; empty when the record and the registry agree."""
    found = audit.faults(store, name)
    if found:
        return found
    trail = audit.read_trail(store, name)
    model = find_model(tracking_uri, name)
    number, _, digest = model.tags.get(_HEAD_TAG, "0:").partition(":")
    known = [audit.FIRST, *[entry.prev for entry in trail.entries][1:], trail.head]
    if int(number) >= len(known):
        found.append(f"the trail ends at record {len(trail.entries)}, MLflow saw record {number}: records were removed")
    elif int(number) and known[int(number)] != digest:
        found.append(f"record {number} is not the one that MLflow saw: the trail was rewritten")
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    for alias in sorted({*aliases, *trail.aliases()}):
        says, points = trail.current(alias), aliases.get(alias)
        if says is None and alias == PRODUCTION:
            found.append(f"{name}@{alias} points at {points} without any record: it was set behind the trail's back")
        elif says is not None and says != points:
            found.append(
                f"{name}@{alias} points at {points or 'nothing'}, the trail says {says}: it was moved behind its back, "
                "or a promotion was killed; `isnet models audit` repairs it"
            )
    return found


def _project(name: str, alias: str, *, store: Store, tracking_uri: str) -> tuple[str | None, str]:
    """Make the alias what the trail says; returns (where it pointed, where it points).

    After every move the trail is read again: a writer that was overtaken while it held an older answer repairs its
    own mistake, so the last one to touch the alias leaves it as the last record has it.
    """
    client = client_for(tracking_uri)
    first: str | None = None
    for turn in range(20):
        trail = audit.read_trail(store, name)
        wanted = trail.current(alias)
        assert wanted is not None, "a projected alias has a record"
        found = find_model(tracking_uri, name).aliases.get(alias)
        points = None if found is None else str(found)
        first = points if turn == 0 else first
        if points == wanted:
            client.set_registered_model_tag(name, _HEAD_TAG, f"{len(trail.entries)}:{trail.head}")
            return first, wanted
        find_version(tracking_uri, f"models:/{name}/{wanted}")
        client.set_registered_model_alias(name, alias, wanted)
    raise RunFailed(f"{name}@{alias} is moved by others all the time; the trail says {wanted}; try again")


def _refusal(name: str, version: str, alias: str, verdicts: Sequence[Verdict]) -> str:
    failed = [f"{verdict.gate}: {verdict.evidence}" for verdict in verdicts if not verdict.passed]
    reasons = "; ".join(failed) or "no gate has judged it"
    return f"version {version} of {name} does not reach @{alias}: {reasons}"


def _overtaken(trail: Trail, name: str, alias: str, version: str, expected: str | Expected | None) -> Conflict:
    last = next((entry for entry in reversed(trail.entries) if entry.alias == alias), None)
    mover = f", moved there by {last.who} at {last.time}" if last else ""
    return Conflict(
        f"{name}@{alias} is version {trail.current(alias) or 'none'}{mover}, not {expected or 'none'} as expected; "
        f"compare version {version} with that one and promote again"
    )
