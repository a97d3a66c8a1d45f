"""Decides which entries of a listing go into which shard.

Pure: depends on the outcomes in the order of the listing. A shard is closed before the sample that would make it too
large. A skipped entry belongs to the shard that is open, so every entry lies in the range of exactly one shard.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from trainplane.data.manifest import SkippedFile

Outcome: TypeAlias = "int | SkippedFile | None"
"""Result of one entry: bytes that it takes in a shard, why it is skipped, or None for an entry of another split."""


@dataclass(frozen=True)
class ShardPlan:
    """Content of one shard."""

    number: int  # Number of the shard
    start: int  # Its first entry in the listing
    stop: int  # The first entry behind its range
    samples: tuple[tuple[int, int], ...]  # (unit, position in the unit) of each sample
    skipped: tuple[SkippedFile, ...]  # Skipped files of its range


class Sharder:
    """Turns the outcomes of units into shards."""

    def __init__(self, *, number: int, start: int, shard_bytes: int) -> None:
        self.number = number
        self._shard_bytes = shard_bytes
        self._start = self._at = start
        self._samples: list[tuple[int, int]] = []
        self._skipped: list[SkippedFile] = []
        self._bytes = 0

    def feed(self, unit: int, outcomes: Sequence[Outcome]) -> Iterator[ShardPlan]:
        """Adds a unit's outcomes; yields shards as they close."""
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, SkippedFile):
                self._skipped.append(outcome)
            elif outcome is not None:
                if self._samples and self._bytes + outcome > self._shard_bytes:
                    yield self._close()
                self._samples.append((unit, position))
                self._bytes += outcome
            self._at += 1

    @property
    def first_unit(self) -> int:
        """First unit that the open shard needs, or `sys.maxsize`."""
        return self._samples[0][0] if self._samples else sys.maxsize

    def finish(self) -> Iterator[ShardPlan]:
        """Yields the last shard; without samples if all were skipped."""
        if self._at > self._start:
            yield self._close()

    def _close(self) -> ShardPlan:
        plan = ShardPlan(self.number, self._start, self._at, tuple(self._samples), tuple(self._skipped))
        self._start = self._at
        self._samples, self._skipped, self._bytes = [], [], 0
        # A range without samples makes no shard, so its number is free for the next.
        if plan.samples:
            self.number += 1
        return plan
