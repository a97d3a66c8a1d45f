"""Follows the audit trail: versions that should answer, and shares.

The trail is the authority, so a promotion or a rollback by any process moves the traffic. MLflow is asked at the start
alone: after that the records seen so far are the memory that a rewritten trail would contradict.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from trainplane.errors import RunFailed
from trainplane.registry.audit import BrokenTrail, Trail, count_records, read_trail
from trainplane.registry.shares import CandidateShare, current_share
from trainplane.serving.routing import ShareMode, TrafficSplit
from trainplane.storage import Store


@dataclass(frozen=True)
class DesiredTraffic:
    """Traffic as the trail wants it, open versions or not."""

    production: str
    candidate: str | None = None
    share: CandidateShare | None = None

    @property
    def versions(self) -> tuple[str, ...]:
        """Versions that have to be open."""
        return (self.production,) if self.candidate is None else (self.production, self.candidate)


def desired_traffic(
    trail: Trail, alias: str, *, production: str, candidate: str | None, ended: Collection[int] = ()
) -> DesiredTraffic:
    """Reads the wanted traffic from the trail.

    Args:
        trail: All records.
        alias: The alias that is served.
        production: Its version where no record names one.
        candidate: Version that this server offers beside it; a share in the trail names its own.
        ended: Numbers of shares that this server has ended, and whose end may not be recorded yet.
    """
    version = trail.current(alias) or production
    share = current_share(trail, alias)
    if share is not None and (share.mode == "off" or share.number in ended):
        # The candidate stays there for who asks for it by number.
        candidate, share = share.version if candidate is None else candidate, None
    if share is not None:
        candidate = share.version
    if candidate == version:
        candidate, share = None, None
    return DesiredTraffic(version, candidate, share)


def traffic_split(desired: DesiredTraffic, *, served: Collection[str], production: str) -> TrafficSplit:
    """Traffic that is possible with the versions that are open.

    Args:
        desired: What the trail wants.
        served: Open versions.
        production: The version that is production now; it stays until the wanted one is open.
    """
    version = desired.production if desired.production in served else production
    split = TrafficSplit(version)
    if desired.candidate is None or desired.candidate not in served or desired.candidate == version:
        return split
    split = replace(split, candidate=desired.candidate)
    if desired.share is None or version != desired.production:
        return split
    mode: ShareMode = "shadow" if desired.share.mode == "shadow" else "canary"
    return replace(split, mode=mode, share=desired.share.share)


class TrailFollower:
    """Reads a growing trail again when it has grown."""

    def __init__(self, store: Store, name: str, trail: Trail) -> None:
        self._store, self._name, self.trail = store, name, trail

    def poll(self) -> Trail | None:
        """Returns the trail if it has grown.

        Raises:
            BrokenTrail: It changed in another way.
        """
        length = len(self.trail.records)
        count = count_records(self._store, self._name)
        if count == length:
            return None
        trail = read_trail(self._store, self._name)
        if trail.records[:length] != self.trail.records:
            raise BrokenTrail(
                f"the trail of {self._name} has not the {length} records any more that this server has seen: it was "
                f"rewritten or cut; traffic stays as it is; restore the records below {self._store.address}/audit"
            )
        self.trail = trail
        return trail


def why_not(error: BaseException) -> str:
    """Reason for showing, of an error while following."""
    return str(error) if isinstance(error, RunFailed | ValueError) else f"{type(error).__name__}: {error}"
