"""The trail of what was in production, and who approved it: append-only, each record with the digest of the one before.

A record is created if absent, so of two writers of one number exactly one wins. The trail is the authority; an alias
in MLflow is its projection (`promote.reconcile`). Records are canonical JSON under `audit/NAME/000001.json`, …
Who may promote, and why, is decided in `promote`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from trainplane.errors import RunFailed
from trainplane.registry.names import can_be_set
from trainplane.storage import NotFound, Store
from trainplane.tracking import lineage
from trainplane.train.run_config import canonical_json

Action = Literal["promote", "rollback", "force", "approve"]
FIRST = "0" * 64


@dataclass(frozen=True)
class Entry:
    """One move of an alias, or an approval of one to come (`approve`: nothing moved).

    number -- from 1, without gaps; prev -- sha256 of the record before, 64 zeros for the first
    time -- UTC, ISO 8601; who -- user@host; verdict_digest -- sha256 of the verdicts that were
    known; of an approval: of what was approved
    """

    number: int
    prev: str
    time: str
    action: Action
    name: str
    alias: str
    from_version: str | None
    to_version: str
    reason: str
    who: str
    verdict_digest: str | None
    nonce: str


@dataclass(frozen=True)
class Trail:
    """All records of one name in order, and the digest of the last one."""

    entries: tuple[Entry, ...]
    head: str

    def current(self, alias: str) -> str | None:
        """The version that the alias is to point at."""
        return next((entry.to_version for entry in reversed(self.moves(alias))), None)

    def before(self, alias: str) -> str | None:
        """The version that a rollback of the alias returns to."""
        return rollback_target(self.moves(alias))

    def moves(self, alias: str) -> list[Entry]:
        """What moved the alias, the oldest first."""
        return [entry for entry in self.entries if entry.alias == alias and entry.action != "approve"]

    def approvals(self, alias: str, version: str, subject: str) -> list[Entry]:
        """Approvals of a version for the alias, of exactly this subject (`promote.subject`)."""
        wanted = ("approve", alias, version, subject)
        return [e for e in self.entries if (e.action, e.alias, e.to_version, e.verdict_digest) == wanted]

    def aliases(self) -> list[str]:
        """What was moved; without names that MLflow refuses, which no record can have moved."""
        return sorted(filter(can_be_set, self._named()))

    def never_set(self) -> list[str]:
        """Aliases of records that MLflow cannot have followed: they were written before names were checked."""
        return sorted(alias for alias in self._named() if not can_be_set(alias))

    def _named(self) -> set[str]:
        return {entry.alias for entry in self.entries if entry.action != "approve"}


class Conflict(RunFailed):
    """Somebody else moved the alias first."""


class NotLast(RunFailed):
    """Another record took this one's number: the trail is to be read again."""


class BrokenTrail(RunFailed):
    """The trail was changed or has a gap: nothing may be decided from it."""


def rollback_target(entries: Sequence[Entry]) -> str | None:
    """Pure: promotions push a version, a rollback takes the last one off; what would be on top after one more."""
    stack: list[str] = []
    for entry in entries:
        if entry.action == "rollback" and len(stack) > 1:
            stack.pop()
        elif not stack or stack[-1] != entry.to_version:
            stack.append(entry.to_version)
    return stack[-2] if len(stack) > 1 else None


def read_trail(store: Store, name: str) -> Trail:
    """The trail of registered model `name`; raises `BrokenTrail` at the first record that does not fit."""
    entries: list[Entry] = []
    head = FIRST
    for number, key in enumerate(_keys(store, name), start=1):
        raw = store.read(key)
        if (fault := _fault(raw, number=number, prev=head, name=name, key=key)) is not None:
            raise BrokenTrail(
                f"{store.address}/{key}: {fault}; run `isnet models audit {name} --verify` and restore it"
            )
        entries.append(Entry(**json.loads(raw)))
        head = hashlib.sha256(raw).hexdigest()
    return Trail(tuple(entries), head)


def append(
    store: Store,
    trail: Trail,
    *,
    action: Action,
    name: str,
    alias: str,
    to_version: str,
    reason: str,
    verdict_digest: str | None,
) -> Trail:
    """The trail with one record more, or `NotLast` when another writer took its place."""
    entry = Entry(
        number=len(trail.entries) + 1,
        prev=trail.head,
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        action=action,
        name=name,
        alias=alias,
        from_version=trail.current(alias),
        to_version=to_version,
        reason=reason,
        who=whoami(),
        verdict_digest=verdict_digest,
        # Makes every record unique, so that a lost answer of the store cannot make two writers both the winner.
        nonce=secrets.token_hex(8),
    )
    raw = canonical_json(asdict(entry))
    if not store.create(_key(name, entry.number), raw):
        raise NotLast(f"record {entry.number} of {name} was written by somebody else meanwhile; try again")
    return Trail((*trail.entries, entry), hashlib.sha256(raw).hexdigest())


def whoami() -> str:
    """`user@host` as records name who acts: as good as the system's own log-in, no better."""
    return f"{lineage.account()}@{socket.gethostname()}"


def faults(store: Store, name: str) -> list[str]:
    """Every record of the trail that does not fit, in sentences; empty when the chain holds."""
    found: list[str] = []
    head: str | None = FIRST
    for number, key in enumerate(_keys(store, name), start=1):
        try:
            raw = store.read(key)
        except NotFound:
            found.append(f"{key} vanished while it was read")
            continue
        # After a record that does not fit, its successor is measured by the bytes that stand there now.
        if (fault := _fault(raw, number=number, prev=head, name=name, key=key)) is not None:
            found.append(f"{key}: {fault}")
        head = hashlib.sha256(raw).hexdigest()
    return found


def _fault(raw: bytes, *, number: int, prev: str | None, name: str, key: str) -> str | None:
    """Why a record does not fit at its place; None when it does."""
    if key != _key(name, number):
        return f"record {number} is missing before it"
    try:
        stored: Any = json.loads(raw)
        entry = Entry(**stored)
        canonical = canonical_json(stored)
    except (ValueError, TypeError, RecursionError):
        return "is no audit record"
    if raw != canonical:
        return "is not in canonical form, so it was rewritten"
    if (entry.number, entry.name) != (number, name):
        return f"says it is record {entry.number} of {entry.name}"
    if entry.prev != prev:
        return f"record {number - 1} before it was changed, removed or replaced after this one was written"
    return None


def _keys(store: Store, name: str) -> list[str]:
    return [entry.key for entry in store.list(f"{_folder(name)}/") if entry.key.endswith(".json")]


def _key(name: str, number: int) -> str:
    return f"{_folder(name)}/{number:06d}.json"


def _folder(name: str) -> str:
    return f"audit/{quote(name, safe='')}"
