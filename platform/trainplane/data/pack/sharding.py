"""PURE: where one shard ends and the next begins, decided from what each picture came to, in the order of the listing.

A shard is closed before the sample that would make it larger than asked for. What is left out belongs to the shard
that is open when it is met, so every entry of the listing lies in exactly one shard's range.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trainplane.data.manifest import Skipped

Outcome: TypeAlias = "int | Skipped | None"
"""What came of one entry: the bytes it takes in a shard, why it was left out, or None where it is not asked for."""


@dataclass(frozen=True)
class Cut:
    """One shard to be: `picks` are (unit, place in it) of its samples, `stop` is the first entry behind its range."""

    number: int
    start: int
    stop: int
    picks: tuple[tuple[int, int], ...]
    skipped: tuple[Skipped, ...]


class Cutter:
    """Fed with the outcomes of unit after unit, it yields shards as they close."""

    def __init__(self, *, number: int, start: int, shard_bytes: int) -> None:
        self.number = number
        self._shard_bytes = shard_bytes
        self._start = self._at = start
        self._picks: list[tuple[int, int]] = []
        self._skipped: list[Skipped] = []
        self._bytes = 0

    def feed(self, unit: int, outcomes: Sequence[Outcome]) -> Iterator[Cut]:
        """Take the outcomes of the unit called `unit`."""
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Skipped):
                self._skipped.append(outcome)
            elif outcome is not None:
                if self._picks and self._bytes + outcome > self._shard_bytes:
                    yield self._close()
                self._picks.append((unit, place))
                self._bytes += outcome
            self._at += 1

    @property
    def first_unit(self) -> int:
        """The first unit that the open shard needs; far away when there is none."""
        return self._picks[0][0] if self._picks else sys.maxsize

    def finish(self) -> Iterator[Cut]:
        """The shard that is still open; one without a sample, too, where something was left out."""
        if self._at > self._start:
            yield self._close()

    def _close(self) -> Cut:
        cut = Cut(self.number, self._start, self._at, tuple(self._picks), tuple(self._skipped))
        self._start = self._at
        self._picks, self._skipped, self._bytes = [], [], 0
        if cut.picks:
            self.number += 1
        return cut
