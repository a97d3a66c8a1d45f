"""Promotions and rollbacks of aliases.

An alias moves only past the gates, from the version that the caller expects, and with an audit record. First the
record is created (exactly one of several writers wins), then the alias is set to what the trail says. If the process is
killed in between, the next `reconcile` repairs the alias: the trail is the authority. Verdicts are in `gates`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum

from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.notify.event import Event
from trainplane.notify.model_events import alias_moved, alias_moved_by_hand, gate_shut
from trainplane.registry import audit
from trainplane.registry.audit import (
    Action,
    AuditRecord,
    BrokenTrail,
    Conflict,
    StaleTrail,
    Trail,
    contradiction,
    record_head,
    recorded_head,
    verified_trail,
)
from trainplane.registry.gates import GateVerdict, passed, verdict_digest
from trainplane.registry.names import check_alias, check_name
from trainplane.registry.rules import PRODUCTION
from trainplane.registry.versions import ModelVersion, RegisteredModel
from trainplane.storage import Store
from trainplane.tracking.client import TrackingServer

logger = logging.getLogger(__name__)

# Turns of reading again what other processes write meanwhile.
_MAX_TURNS = 50


class Expected(Enum):
    """Placeholder for an expected version that is not named."""

    ANY = "the version that is there when the promotion begins"


ANY = Expected.ANY


class Refused(RunFailed):
    """Raised where gates failed; nothing moved."""


class VersionDeleted(UserError):
    """Raised where the version that an alias needs was deleted."""


class AuditedModel:
    """Registered model whose aliases move with a record."""

    def __init__(
        self, server: TrackingServer, name: str, store: Store, *, tell: Callable[[Event], object] = lambda event: None
    ) -> None:
        """Opens nothing yet; `tell` hears of moves, refusals and contradictions."""
        self.model, self.name, self.store, self._tell = RegisteredModel(server, name), name, store, tell

    def promote(
        self,
        version: ModelVersion,
        *,
        verdicts: Sequence[GateVerdict],
        alias: str = PRODUCTION,
        expected: str | Expected | None = ANY,
        reason: str = "",
        force_reason: str | None = None,
    ) -> AuditRecord:
        """Moves an alias past the gates; returns the record.

        Repeating a promotion that was killed half-way completes it.

        Args:
            version: A version of this model.
            verdicts: All verdicts on it; they are stored with the version.
            alias: The alias to move.
            expected: The version that the verdicts compared with; None: the alias is new.
            reason: Kept in the record.
            force_reason: Moves the alias although gates failed; kept in the record instead of `reason`.

        Raises:
            Refused: A gate failed, and there is no `force_reason`.
            Conflict: Another version than the expected one is there; nothing moved.
        """
        check_alias(alias)
        # The gates may have taken an hour; the version may have been deleted meanwhile.
        version.reload()
        version.checked()
        if force_reason is not None and not force_reason.strip():
            raise UserError("forcing a promotion needs a reason; say in a sentence why the gates may be passed over")
        # The verdicts stay with the version, whether they let it pass or not.
        if verdicts:
            version.attach_verdicts(verdicts)
        if not passed(verdicts) and force_reason is None:
            self._tell(gate_shut(self.name, version.version, alias, verdicts, audit.whoami()))
            raise Refused(_refusal(version, alias, verdicts))
        # The record decides who wins; the alias follows it.
        current = self.trail().current(alias)
        self.check_expected(version.version, current, expected, alias=alias)
        record = self._append(
            lambda trail: self._move(trail, alias, current, version.version),
            action="promote" if force_reason is None else "force",
            alias=alias,
            reason=reason if force_reason is None else force_reason,
            digest=verdict_digest(verdicts) if verdicts else None,
        )
        if force_reason is not None:
            where = f"{self.name}@{alias}"
            logger.error("%s was FORCED to version %s past its gates: %s", where, version.version, force_reason)
        self._tell(alias_moved(record))
        self._project(alias)
        return record

    def check_expected(
        self, version: str, current: str | None, expected: str | Expected | None, *, alias: str = PRODUCTION
    ) -> None:
        """Raises `Conflict` if another version than expected is there."""
        # Already `version`: an earlier promotion got that far.
        if expected is not ANY and current not in (expected, version):
            raise self._conflict(alias, version, expected)

    def rollback(self, *, reason: str, alias: str = PRODUCTION, expected: str | Expected | None = ANY) -> AuditRecord:
        """Moves an alias back to its previous version."""
        check_alias(alias)
        trail = self.trail()
        current = trail.current(alias)
        if expected is not ANY and current != expected:
            raise self._conflict(alias, "the one before", expected)
        target = trail.previous(alias)
        if target is None:
            raise UserError(
                f"{self.name}@{alias} has no version to go back to (now: {current or 'none'}); "
                "promote another version instead"
            )
        if not self.model.has_version(target):
            raise UserError(
                f"{self.name}@{alias} was version {target} before {current}, and that version was deleted in MLflow, "
                f"so there is no way back; promote another one: "
                f"{command_line('models', 'promote', self.name, 'VERSION', '--to', alias)}, "
                "with --force and a reason where its gates stay shut"
            )
        record = self._append(
            lambda trail: self._move(trail, alias, current, trail.previous(alias)),
            action="rollback",
            alias=alias,
            reason=reason,
            digest=None,
        )
        self._tell(alias_moved(record))
        self._project(alias)
        return record

    def approve(self, version: ModelVersion, *, alias: str = PRODUCTION, note: str = "") -> AuditRecord:
        """Records the acting user's approval of a version.

        It covers the version as it is now, for this alias.
        """
        check_alias(alias)
        subject = approval_subject(version.checked())

        def target(trail: Trail) -> str | AuditRecord:
            me = audit.account_of(audit.whoami())
            mine = [r for r in trail.approvals(alias, version.version, subject) if audit.account_of(r.who) == me]
            # A repeated approval writes no second record.
            return mine[-1] if mine else version.version

        record = self._append(target, action="approve", alias=alias, reason=note, digest=subject)
        record_head(self.model, self.trail())
        return record

    def trail(self) -> Trail:
        """Audit trail that agrees with MLflow's memory, else `BrokenTrail`."""
        return verified_trail(self.model, self.store)

    def approvers(self, version: ModelVersion, *, alias: str) -> list[str]:
        """Accounts that approved, without the acting one, each once."""
        # Only approvals of exactly these files with this evaluation count. One account on two hosts is one person.
        approvals = self.stored_trail().approvals(alias, version.version, approval_subject(version))
        people = {audit.account_of(record.who) for record in approvals}
        return sorted(people - {audit.account_of(audit.whoami())})

    def stored_trail(self) -> Trail:
        """Audit trail as stored, without asking MLflow."""
        return audit.read_trail(self.store, self.name)

    def current_version(self, alias: str = PRODUCTION) -> str | None:
        """Version in production by the trail, even a deleted one."""
        current = self.trail().current(alias)
        if current is not None:
            # Repair the alias on the way.
            with suppress(VersionDeleted):
                self._project(alias)
        return current

    def reconcile(self) -> list[str]:
        """Sets every alias to what the trail says; returns messages."""
        trail = self.trail()
        messages = [
            f"{self.name}@{alias} cannot be set in MLflow, so its records moved nothing"
            for alias in trail.impossible_aliases()
        ]
        for alias in trail.aliases():
            try:
                before, after = self._project(alias)
            except VersionDeleted as error:
                messages.append(str(error))
                continue
            # Only what changed is reported.
            if before != after:
                messages.append(f"{self.name}@{alias} pointed at {before or 'nothing'} and points at {after} again")
                self._tell(alias_moved_by_hand(self.name, messages[-1]))
        return messages

    def verify(self) -> list[str]:
        """Describes contradictions of trail and registry."""
        check_name(self.name)
        # A broken chain is all there is to say.
        faults = audit.find_faults(self.store, self.name)
        if faults:
            return faults
        # The chain against MLflow's memory of it.
        record = self.model.record()
        trail = self.stored_trail()
        try:
            fault = contradiction(trail, recorded_head(record))
        except BrokenTrail as error:
            fault = str(error)
        if fault is not None:
            faults.append(fault)
        # The aliases against the chain.
        aliases = {alias: str(version) for alias, version in record.aliases.items()}
        for alias in sorted({*aliases, *trail.aliases()}):
            if (fault := self._alias_fault(alias, trail.current(alias), aliases.get(alias))) is not None:
                faults.append(fault)
                self._tell(alias_moved_by_hand(self.name, fault))
        return faults

    def _alias_fault(self, alias: str, recorded: str | None, actual: str | None) -> str | None:
        """Reason why an alias contradicts the trail, if any."""
        where = f"{self.name}@{alias}"
        if recorded is None:
            # Other aliases may be set by hand; the one that is served may not.
            if alias != PRODUCTION:
                return None
            return f"{where} points at {actual} without any record: it was not set by a promotion"
        # No alias can point at a deleted version.
        if not self.model.has_version(recorded):
            return self._deleted_message(alias, recorded)
        if recorded != actual:
            return (
                f"{where} points at {actual or 'nothing'}, the trail says {recorded}: it was moved without a record, "
                f"or a promotion was killed; `{command_line('models', 'audit', self.name)}` repairs it"
            )
        return None

    def _project(self, alias: str) -> tuple[str | None, str]:
        """Points the alias where the trail says; returns (before, now).

        After every move the trail is read again: a writer that was overtaken while it held an older answer repairs its
        own mistake, so the last one to touch the alias leaves it as the last record has it.
        """
        first: str | None = None
        for turn in range(_MAX_TURNS):
            trail = self.trail()
            target = trail.current(alias)
            assert target is not None, "a projected alias has a record"
            actual = self.model.aliases().get(alias)
            first = actual if turn == 0 else first
            if actual == target:
                record_head(self.model, trail)
                return first, target
            if not self.model.has_version(target):
                raise VersionDeleted(self._deleted_message(alias, target))
            self.model.set_alias(alias, target)
        raise RunFailed(
            f"other processes kept moving {self.name}@{alias} meanwhile; the trail says {target}; try again"
        )

    def _append(
        self,
        target: Callable[[Trail], str | AuditRecord],
        *,
        action: Action,
        alias: str,
        reason: str,
        digest: str | None,
    ) -> AuditRecord:
        """Appends one record; `target` gives its version or replaces it."""
        for _ in range(_MAX_TURNS):
            trail = self.trail()
            version = target(trail)
            # The record that was to be written exists already.
            if isinstance(version, AuditRecord):
                return version
            # Another record that takes its number only costs another turn.
            with suppress(StaleTrail):
                trail = audit.append(
                    self.store,
                    trail,
                    action=action,
                    name=self.name,
                    alias=alias,
                    to_version=version,
                    reason=reason,
                    verdict_digest=digest,
                )
                return trail.records[-1]
        raise RunFailed(f"other processes kept writing the trail of {self.name} meanwhile; try again")

    def _move(self, trail: Trail, alias: str, expected: str | None, version: str | None) -> str | AuditRecord:
        """Version to move to, or the record of that move."""
        current = trail.current(alias)
        # Another user moved the alias since the caller looked.
        if current != expected:
            raise self._conflict(alias, version or "the one before", expected)
        assert version is not None, "the caller has seen a target in the same state of the alias"
        return trail.moves(alias)[-1] if current == version else version

    def _deleted_message(self, alias: str, version: str) -> str:
        return (
            f"{self.name}@{alias} is version {version} by the trail, and that version was deleted in MLflow; go back "
            f"with `{command_line('models', 'rollback', self.name, '--to', alias)}`, or promote another "
            "one with --force and a reason"
        )

    def _conflict(self, alias: str, version: str, expected: str | Expected | None) -> Conflict:
        trail = self.stored_trail()
        # Name the user who moved it.
        last = next(iter(reversed(trail.moves(alias))), None)
        mover = f", moved there by {last.who} at {last.time}" if last else ""
        return Conflict(
            f"{self.name}@{alias} is version {trail.current(alias) or 'none'}{mover}, "
            f"not {expected or 'none'} as expected; compare version {version} with that one and promote again"
        )


def approval_subject(version: ModelVersion) -> str:
    """Digest of what an approval covers: files and evaluation.

    A new evaluation needs a new approval.
    """
    return hashlib.sha256(canonical_json([version.model_digest, version.evaluation_digest])).hexdigest()


def _refusal(version: ModelVersion, alias: str, verdicts: Sequence[GateVerdict]) -> str:
    # One line: the evidence stands in the table of verdicts. No verdict at all is no permission.
    failed = [verdict.gate for verdict in verdicts if not verdict.passed]
    reason = f"{len(failed)} of {len(verdicts)} gates failed ({', '.join(failed)})"
    return (
        f"version {version.version} of {version.name} does not reach @{alias}: "
        f"{reason if verdicts else 'no gate has judged it'}"
    )
