"""Append-only audit trail of a model's aliases.

Each record holds the digest of the one before. A record is created if absent, so of two writers of one number exactly
one wins. The trail is the authority; an alias in MLflow is its projection (`promote.AuditedModel.reconcile`). Records
are canonical JSON under `audit/NAME/000001.json`, … MLflow remembers the number and the digest of the last record in a
tag, so a trail that was cut short or rewritten as a whole is noticed. `promote` decides who may promote.
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

from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed
from trainplane.registry.names import can_be_set
from trainplane.registry.recorded import PREFIX
from trainplane.registry.versions import RegisteredModel
from trainplane.storage import NotFound, Store
from trainplane.tracking import lineage

Action = Literal["promote", "rollback", "force", "approve", "share"]
# Records that move no alias.
_NO_MOVES = ("approve", "share")
# The digest "before" the first record.
FIRST = "0" * 64
# MLflow's memory of the trail: a tag of the registered model, NUMBER:SHA256 of the last record.
_HEAD_TAG = PREFIX + "audit_head"
_HEAD = re.compile(r"([1-9][0-9]{0,8}):([0-9a-f]{64})")
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True)
class AuditRecord:
    """Move of an alias, or approval of one."""

    number: int  # from 1, without gaps
    prev: str  # sha256 of the record before; 64 zeros for the first
    time: str  # UTC, ISO 8601
    action: Action  # `approve` and `share` move nothing
    name: str
    alias: str
    from_version: str | None  # version that had the alias before
    to_version: str
    reason: str
    who: str  # `user@host`, as reliable as the system's own log-in
    verdict_digest: str | None  # sha256 of the verdicts that were known; in an approval, of what was approved
    nonce: str  # random, unique for each record


@dataclass(frozen=True)
class Trail:
    """Records of one name, with the digest of the last."""

    records: tuple[AuditRecord, ...]
    head: str

    def current(self, alias: str) -> str | None:
        """Version that the alias has to point at."""
        return next((record.to_version for record in reversed(self.moves(alias))), None)

    def previous(self, alias: str) -> str | None:
        """Version that a rollback of the alias returns to."""
        return rollback_target(self.moves(alias))

    def moves(self, alias: str) -> list[AuditRecord]:
        """Records that moved the alias, the oldest first."""
        return [record for record in self.records if record.alias == alias and record.action not in _NO_MOVES]

    def approvals(self, alias: str, version: str, subject: str) -> list[AuditRecord]:
        """Approvals of a version, for exactly this `promote.approval_subject`."""
        key = ("approve", alias, version, subject)
        return [r for r in self.records if (r.action, r.alias, r.to_version, r.verdict_digest) == key]

    def aliases(self) -> list[str]:
        """Aliases that were moved, without those that MLflow refuses."""
        return sorted(filter(can_be_set, self._recorded_aliases()))

    def impossible_aliases(self) -> list[str]:
        """Recorded aliases that MLflow refuses."""
        # Written before names were checked; they moved nothing.
        return sorted(alias for alias in self._recorded_aliases() if not can_be_set(alias))

    def _recorded_aliases(self) -> set[str]:
        return {record.alias for record in self.records if record.action not in _NO_MOVES}


class Conflict(RunFailed):
    """Raised where another user moved the alias first."""


class StaleTrail(RunFailed):
    """Raised where another writer took the record's number; read again."""


class BrokenTrail(RunFailed):
    """Raised where the trail was changed or has a gap."""


def rollback_target(moves: Sequence[AuditRecord]) -> str | None:
    """Returns the version that one more rollback would restore."""
    # Promotions push a version on a stack, a rollback takes the last one off.
    stack: list[str] = []
    # A repeated promotion of the same version is one entry.
    for record in moves:
        if record.action == "rollback" and len(stack) > 1:
            stack.pop()
        elif not stack or stack[-1] != record.to_version:
            stack.append(record.to_version)
    return stack[-2] if len(stack) > 1 else None


def read_trail(store: Store, name: str) -> Trail:
    """Reads a registered model's trail; raises `BrokenTrail` for a fault."""
    # Each record is checked against the one before it.
    records: list[AuditRecord] = []
    head = FIRST
    for number, key in enumerate(_keys(store, name), start=1):
        raw = store.read(key)
        if (fault := _fault(raw, number=number, prev=head, name=name, key=key)) is not None:
            raise BrokenTrail(
                f"{store.address}/{key}: {fault}; "
                f"run `{command_line('models', 'audit', name, '--verify')}` and restore it"
            )
        records.append(AuditRecord(**json.loads(raw)))
        head = hashlib.sha256(raw).hexdigest()
    return Trail(tuple(records), head)


def count_records(store: Store, name: str) -> int:
    """Number of records, without reading them."""
    return len(_keys(store, name))


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
    """Appends a record; raises `StaleTrail` if its number was taken."""
    record = AuditRecord(
        number=len(trail.records) + 1,
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
    raw = canonical_json(asdict(record))
    # Created only if absent: of two writers of this number, one wins.
    if not store.create(_key(name, record.number), raw):
        raise StaleTrail(f"another process has written record {record.number} of {name} meanwhile; try again")
    return Trail((*trail.records, record), hashlib.sha256(raw).hexdigest())


def whoami() -> str:
    """Acting user as `user@host`."""
    return f"{lineage.account()}@{socket.gethostname()}"


def account_of(who: str) -> str:
    """Account of a `user@host`."""
    return who.rpartition("@")[0] or who


def find_faults(store: Store, name: str) -> list[str]:
    """Describes every record that does not fit."""
    faults: list[str] = []
    head: str | None = FIRST
    for number, key in enumerate(_keys(store, name), start=1):
        try:
            raw = store.read(key)
        except NotFound:
            faults.append(f"{key} vanished while it was read")
            continue
        # After a record that does not fit, the next one is compared with the bytes that stand there now.
        if (fault := _fault(raw, number=number, prev=head, name=name, key=key)) is not None:
            faults.append(f"{key}: {fault}")
        head = hashlib.sha256(raw).hexdigest()
    return faults


def _fault(raw: bytes, *, number: int, prev: str | None, name: str, key: str) -> str | None:
    """Reason why a record does not fit, if any."""
    if key != _key(name, number):
        return f"record {number} is missing before it"
    # Its form, then its place in the chain.
    try:
        stored: Any = json.loads(raw)
        record = AuditRecord(**stored)
        canonical = canonical_json(stored)
    except (ValueError, TypeError, RecursionError):
        return "is no audit record"
    if raw != canonical:
        return "is not in canonical form, so it was rewritten"
    if (record.number, record.name) != (number, name):
        return f"says it is record {record.number} of {record.name}"
    if record.prev != prev:
        return f"record {number - 1} before it was changed, removed or replaced after this one was written"
    return None


def _keys(store: Store, name: str) -> list[str]:
    return [entry.key for entry in store.list(f"{_folder(name)}/") if entry.key.endswith(".json")]


def _key(name: str, number: int) -> str:
    return f"{_folder(name)}/{number:06d}.json"


def _folder(name: str) -> str:
    return f"audit/{quote(name, safe='')}"


def verified_trail(model: RegisteredModel, store: Store) -> Trail:
    """Reads the trail, and checks it against MLflow's memory."""
    # In this order: a record that is written in between makes the trail longer than what MLflow has seen, not shorter.
    head = recorded_head(model.record())
    trail = read_trail(store, model.name)
    # Records are gone that MLflow has seen: no decision may rest on such a trail, and no alias may be repaired by it.
    if (fault := contradiction(trail, head)) is not None:
        place = f"{store.address}/audit/{model.name}"
        raise BrokenTrail(f"{model.name}: {fault}; nothing was moved; restore the records below {place}")
    return trail


def recorded_head(record: Any) -> tuple[int, str]:
    """Number and digest of the last record MLflow has seen."""
    text = record.tags.get(_HEAD_TAG)
    if text is None:
        # Before the first record.
        return 0, ""
    match = _HEAD.fullmatch(text)
    # A damaged tag: the number of records is unknown.
    if match is None:
        raise BrokenTrail(
            f"{record.name}: MLflow's tag {_HEAD_TAG} is {text[:_SHOWN_CHARACTERS]!r}, which is no record head (need "
            "NUMBER:SHA256): it was changed; nothing was moved; find out who changed it, compare the records with a "
            f"copy, delete the tag, and `{command_line('models', 'audit', record.name)}` writes it again"
        )
    return int(match[1]), match[2]


def contradiction(trail: Trail, head: tuple[int, str]) -> str | None:
    """Contradiction between the trail and MLflow's memory, if any."""
    number, digest = head
    # Digest of each record by number: a record has the digest of the one before it.
    digests = [FIRST, *[record.prev for record in trail.records][1:], trail.head]
    if number >= len(digests):
        return f"the trail ends at record {len(trail.records)}, MLflow saw record {number}: records were removed"
    # MLflow's last record must be one of the trail's.
    if number and digests[number] != digest:
        return f"record {number} is not the one that MLflow saw: the trail was rewritten"
    return None


def record_head(model: RegisteredModel, trail: Trail) -> None:
    """Stores the trail's last record, unless MLflow knows later ones."""
    if recorded_head(model.record())[0] < len(trail.records):
        model.set_tag(_HEAD_TAG, f"{len(trail.records)}:{trail.head}")
