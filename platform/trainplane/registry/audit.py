"""The trail of what was in production, and who approved it: append-only, each record with the digest of the one before.

A record is created if absent, so of two writers of one number exactly one wins. The trail is the authority; an alias
in MLflow is its projection (`promote.reconcile`). Records are canonical JSON under `audit/NAME/000001.json`, …
Who may promote, and why, is decided in `promote`.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed
from trainplane.registry import audit
from trainplane.registry.names import can_be_set
from trainplane.registry.versions import PREFIX, find_model
from trainplane.storage import NotFound, Store
from trainplane.tracking import lineage
from trainplane.tracking.client import client_for, set_with_retry

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


_HEAD_TAG = PREFIX + "audit_head"


_SEEN = re.compile(r"([1-9][0-9]{0,8}):([0-9a-f]{64})")


def sound_trail(name: str, *, store: Store, tracking_uri: str) -> Trail:
    """The trail, refused where MLflow has seen records that are no longer in it: nothing may be decided from it, and
    above all no alias may be "repaired" by it."""
    # In this order: a record that is written in between makes the trail longer than what MLflow has seen, not shorter.
    known = seen(find_model(tracking_uri, name))
    trail = audit.read_trail(store, name)
    if (fault := against_witness(trail, known)) is not None:
        raise BrokenTrail(f"{name}: {fault}; nothing was moved; restore the records below {store.address}/audit/{name}")
    return trail


def seen(model: Any) -> tuple[int, str]:
    """How many records MLflow has seen, and the digest of the last of them; (0, "") before the first.

    Raises `BrokenTrail` where the tag says nothing of that kind: then nobody knows how many there were.
    """
    told = model.tags.get(_HEAD_TAG)
    if told is None:
        return 0, ""
    found = _SEEN.fullmatch(told)
    if found is None:
        raise BrokenTrail(
            f"{model.name}: MLflow's tag {_HEAD_TAG} is {told[:80]!r}, which is no witness (need NUMBER:SHA256): it "
            "was changed; nothing was moved; find out by whom, compare the records with a copy, delete the tag, and "
            f"`isnet models audit {model.name}` writes it anew"
        )
    return int(found[1]), found[2]


def against_witness(trail: Trail, head: tuple[int, str]) -> str | None:
    """How the trail contradicts what MLflow has seen, in a sentence; None when it does not."""
    number, digest = head
    known = [audit.FIRST, *[entry.prev for entry in trail.entries][1:], trail.head]
    if number >= len(known):
        return f"the trail ends at record {len(trail.entries)}, MLflow saw record {number}: records were removed"
    if number and known[number] != digest:
        return f"record {number} is not the one that MLflow saw: the trail was rewritten"
    return None


def witness(name: str, trail: Trail, *, tracking_uri: str) -> None:
    """Let MLflow know the last record, unless it knows a later one."""
    if seen(find_model(tracking_uri, name))[0] < len(trail.entries):
        value = f"{len(trail.entries)}:{trail.head}"
        set_with_retry(client_for(tracking_uri).set_registered_model_tag, name, _HEAD_TAG, value)
