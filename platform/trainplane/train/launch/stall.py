"""Finds the ranks that a stalled group waits for.

Each rank sends its pulse every few seconds, from a thread of its own. A rank that is stopped, or whose process hangs in
native code, is silent; one that waits for a read or computes for ever goes on sending the same step and phase; the
others wait for it in a sum. Pure: no I/O, and times come in as values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trainplane.train.pulse import WAITING

# Time between two pulses of a rank, and without one after which it is silent.
BEAT_S = 2.0
SILENT_S = 10.0
# Limit until the first step is done: weights are fetched, datasets opened and networks compiled then.
START_S = 1800.0


@dataclass(frozen=True)
class RankPulse:
    """Pulse of one rank, and its process."""

    rank: int
    host: str
    node: str  # Ray's id of the node
    pid: int
    step: int  # 0 before the first
    phase: str
    moves: int  # grows with every change of the phase
    has_trained: bool  # it has done a step in this attempt


@dataclass
class _Record:
    """Last pulse of a rank, and its times."""

    pulse: RankPulse
    changed_s: float
    arrived_s: float


@dataclass(frozen=True)
class Stall:
    """Ranks that a group waits for, and for how long."""

    stuck: tuple[RankPulse, ...]
    silent: frozenset[int]  # those of them that send no pulse
    waited_s: float

    def __str__(self) -> str:
        ranks = "; ".join(self._describe(pulse) for pulse in self.stuck)
        return f"no rank has moved for {self.waited_s:.0f} s; the group waits for {ranks}"

    def _describe(self, pulse: RankPulse) -> str:
        where = f"step {pulse.step}, phase {pulse.phase}" if pulse.step else f"phase {pulse.phase}"
        state = ", which does not answer" if pulse.rank in self.silent else ""
        return f"rank {pulse.rank} on {pulse.host} (pid {pulse.pid}) in {where}{state}"


class StallWatch:
    """Pulses of a group's ranks, and the verdict about them."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._ranks: dict[int, _Record] = {}
        self._num_beats: dict[int, int] = {}

    def update(self, pulses: Iterable[tuple[RankPulse, int]], *, now_s: float) -> None:
        """Takes the newest pulse of each rank, with its number."""
        for pulse, number in pulses:
            before = self._ranks.get(pulse.rank)
            if before is None:
                self._ranks[pulse.rank] = _Record(pulse, now_s, now_s)
            elif number != self._num_beats[pulse.rank]:
                has_moved = (pulse.step, pulse.moves) != (before.pulse.step, before.pulse.moves)
                self._ranks[pulse.rank] = _Record(pulse, now_s if has_moved else before.changed_s, now_s)
            self._num_beats[pulse.rank] = number

    def stall(self, *, now_s: float) -> Stall | None:
        """Returns the stall, if no rank moved for too long."""
        if not self._ranks:
            return None
        records = [self._ranks[rank] for rank in sorted(self._ranks)]
        waited_s = now_s - max(rank.changed_s for rank in records)
        # A step of one rank is a step of all.
        has_trained = any(rank.pulse.has_trained for rank in records)
        limit_s = self._stall_s if has_trained else max(self._stall_s, START_S)
        if waited_s < limit_s:
            return None
        # Silent ranks first, then those that do not wait for others; if all wait, none can be told apart.
        silent = [rank.pulse for rank in records if now_s - rank.arrived_s > SILENT_S]
        busy = [rank.pulse for rank in records if rank.pulse.phase != WAITING]
        stuck = silent or busy or [rank.pulse for rank in records]
        # A rank that was stopped in a sum, too, is silent soon.
        if not silent and not busy and waited_s < limit_s + SILENT_S:
            return None
        return Stall(tuple(stuck), frozenset(pulse.rank for pulse in silent), waited_s)
