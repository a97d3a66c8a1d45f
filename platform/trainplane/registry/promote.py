"""The one way an alias moves: through gates, onto the version everybody expects, with a record of who and why.

First the audit record is created (exactly one of several writers wins), then the alias is set to what the trail says.
Killed in between, the next `reconcile` repairs the alias: the trail is the authority. Rules and verdicts are `gates`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.registry import audit
from trainplane.registry.audit import (
    Action,
    BrokenTrail,
    Conflict,
    NotLast,
    Trail,
    against_witness,
    seen,
    sound_trail,
    witness,
)
from trainplane.registry.gates import Verdict, passed
from trainplane.registry.names import check_alias, check_name
from trainplane.registry.versions import attach_verdicts, find_model, find_version, has_version, verdict_digest
from trainplane.storage import Store
from trainplane.tracking.client import client_for, set_with_retry

logger = logging.getLogger(__name__)

PRODUCTION = "production"
# Of reading again what others write meanwhile.
_TURNS = 50


class Expected(Enum):
    """What a caller who names no version expects to find in production."""

    ANY = "whatever is there when the promotion begins"


ANY = Expected.ANY


class Vanished(UserError):
    """The version that the trail has in production was deleted in MLflow: no alias can point at it."""


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
    check_alias(alias)
    version = str(version)
    find_version(tracking_uri, f"models:/{name}/{version}")
    if force_reason is not None and not force_reason.strip():
        raise UserError("forcing a promotion needs a reason; say in a sentence why the gates may be passed over")
    if verdicts:
        attach_verdicts(tracking_uri, name, version, verdicts)
    if not passed(list(verdicts)) and force_reason is None:
        raise RunFailed(_refusal(name, version, alias, verdicts))
    current = sound_trail(name, store=store, tracking_uri=tracking_uri).current(alias)
    check_expected(name, version, current, expected_current, store=store, alias=alias)
    entry = _append(
        name,
        alias,
        lambda trail: version,
        action="promote" if force_reason is None else "force",
        expected=current,
        reason=reason if force_reason is None else force_reason,
        digest=verdict_digest(verdicts) if verdicts else None,
        store=store,
        tracking_uri=tracking_uri,
    )
    if force_reason is not None:
        logger.error("%s@%s was FORCED to version %s past its gates: %s", name, alias, version, force_reason)
    _project(name, alias, store=store, tracking_uri=tracking_uri)
    return entry


def check_expected(
    name: str,
    version: str,
    current: str | None,
    expected: str | Expected | None,
    *,
    store: Store,
    alias: str = PRODUCTION,
) -> None:
    """Raise `Conflict` where another version than the expected one is there; one that is there already may stay."""
    if expected is not ANY and current not in (expected, version):
        raise _overtaken(name, alias, version, expected, store)


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
    check_alias(alias)
    trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
    current = trail.current(alias)
    if expected_current is not ANY and current != expected_current:
        raise _overtaken(name, alias, "the one before", expected_current, store)
    target = trail.before(alias)
    if target is None:
        raise UserError(
            f"{name}@{alias} has no version to go back to (now: {current or 'none'}); promote another version instead"
        )
    if not has_version(tracking_uri, name, target):
        raise UserError(
            f"{name}@{alias} was version {target} before {current}, and that version was deleted in MLflow, so there "
            f"is no way back; promote another one: isnet models promote {name} VERSION --to {alias}, with --force "
            "and a reason where its gates stay shut"
        )
    entry = _append(
        name,
        alias,
        lambda trail: trail.before(alias),
        action="rollback",
        expected=current,
        reason=reason,
        digest=None,
        store=store,
        tracking_uri=tracking_uri,
    )
    _project(name, alias, store=store, tracking_uri=tracking_uri)
    return entry


def approve(
    name: str, version: str, *, subject: str, store: Store, tracking_uri: str, alias: str = PRODUCTION, note: str = ""
) -> audit.Entry:
    """Put into the trail that who runs this approves of `version` for `alias`, as it is now (`subject`)."""
    check_alias(alias)
    find_version(tracking_uri, f"models:/{name}/{version}")
    for _ in range(_TURNS):
        trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
        mine = [entry for entry in trail.approvals(alias, version, subject) if entry.who == audit.whoami()]
        if mine:
            return mine[-1]
        try:
            trail = audit.append(
                store,
                trail,
                action="approve",
                name=name,
                alias=alias,
                to_version=version,
                reason=note,
                verdict_digest=subject,
            )
        except NotLast:
            continue
        witness(name, trail, tracking_uri=tracking_uri)
        return trail.entries[-1]
    raise RunFailed(f"the trail of {name} is written by others all the time; try again")


def subject(model_digest: str | None, evaluation_digest: str | None) -> str:
    """What an approval is of: these files with this evaluation. A new evaluation asks for a new approval."""
    return hashlib.sha256(canonical_json([model_digest, evaluation_digest])).hexdigest()


def current_version(name: str, *, store: Store, tracking_uri: str, alias: str = PRODUCTION) -> str | None:
    """The version in production by the trail, with the alias repaired on the way; None before the first promotion.

    One that was deleted in MLflow is still what the next promotion takes over from.
    """
    trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
    if trail.current(alias) is not None:
        with suppress(Vanished):
            _project(name, alias, store=store, tracking_uri=tracking_uri)
    return trail.current(alias)


def reconcile(name: str, *, store: Store, tracking_uri: str) -> list[str]:
    """Set every alias to what the trail says; returns a sentence for each that had to be moved, or cannot be."""
    trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
    repaired = [f"{name}@{alias} cannot be set in MLflow, so its records moved nothing" for alias in trail.never_set()]
    for alias in trail.aliases():
        try:
            before, after = _project(name, alias, store=store, tracking_uri=tracking_uri)
        except Vanished as error:
            repaired.append(str(error))
            continue
        if before != after:
            repaired.append(f"{name}@{alias} pointed at {before or 'nothing'} and points at {after} again")
    return repaired


def verify_audit(name: str, *, store: Store, tracking_uri: str) -> list[str]:
    """Everything that contradicts the trail, in sentences; empty when the record and the registry agree."""
    check_name(name)
    found = audit.faults(store, name)
    if found:
        return found
    model = find_model(tracking_uri, name)
    trail = audit.read_trail(store, name)
    try:
        fault = against_witness(trail, seen(model))
    except BrokenTrail as error:
        fault = str(error)
    if fault is not None:
        found.append(fault)
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    for alias in sorted({*aliases, *trail.aliases()}):
        says, points = trail.current(alias), aliases.get(alias)
        if says is None and alias == PRODUCTION:
            found.append(f"{name}@{alias} points at {points} without any record: it was set behind the trail's back")
        elif says is not None and not has_version(tracking_uri, name, says):
            found.append(_vanished(name, alias, says))
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
    for turn in range(_TURNS):
        trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
        wanted = trail.current(alias)
        assert wanted is not None, "a projected alias has a record"
        found = find_model(tracking_uri, name).aliases.get(alias)
        points = None if found is None else str(found)
        first = points if turn == 0 else first
        if points == wanted:
            witness(name, trail, tracking_uri=tracking_uri)
            return first, wanted
        if not has_version(tracking_uri, name, wanted):
            raise Vanished(_vanished(name, alias, wanted))
        set_with_retry(client.set_registered_model_alias, name, alias, wanted)
    raise RunFailed(f"{name}@{alias} is moved by others all the time; the trail says {wanted}; try again")


def _append(
    name: str,
    alias: str,
    target: Callable[[Trail], str | None],
    *,
    action: Action,
    expected: str | None,
    reason: str,
    digest: str | None,
    store: Store,
    tracking_uri: str,
) -> audit.Entry:
    """The record of one move, as long as the alias is where it was expected; approvals and moves of other aliases that
    take its number only cost another turn. An alias that is there already keeps the record that put it there."""
    for _ in range(_TURNS):
        trail = sound_trail(name, store=store, tracking_uri=tracking_uri)
        current, version = trail.current(alias), target(trail)
        if current != expected:
            raise _overtaken(name, alias, version or "the one before", expected, store)
        assert version is not None, "the caller has found a target in the same state of the alias"
        if current == version:
            return trail.moves(alias)[-1]
        try:
            return audit.append(
                store,
                trail,
                action=action,
                name=name,
                alias=alias,
                to_version=version,
                reason=reason,
                verdict_digest=digest,
            ).entries[-1]
        except NotLast:
            continue
    raise RunFailed(f"the trail of {name} is written by others all the time; try again")


def _vanished(name: str, alias: str, version: str) -> str:
    return (
        f"{name}@{alias} is version {version} by the trail, and that version was deleted in MLflow; go back with "
        f"`isnet models rollback {name} --to {alias}`, or promote another one with --force and a reason"
    )


def _refusal(name: str, version: str, alias: str, verdicts: Sequence[Verdict]) -> str:
    failed = [f"{verdict.gate}: {verdict.evidence}" for verdict in verdicts if not verdict.passed]
    reasons = "; ".join(failed) or "no gate has judged it"
    return f"version {version} of {name} does not reach @{alias}: {reasons}"


def _overtaken(name: str, alias: str, version: str, expected: str | Expected | None, store: Store) -> Conflict:
    trail = audit.read_trail(store, name)
    last = next(iter(reversed(trail.moves(alias))), None)
    mover = f", moved there by {last.who} at {last.time}" if last else ""
    return Conflict(
        f"{name}@{alias} is version {trail.current(alias) or 'none'}{mover}, not {expected or 'none'} as expected; "
        f"compare version {version} with that one and promote again"
    )
