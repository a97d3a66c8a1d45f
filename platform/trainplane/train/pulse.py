"""Step and phase that this process's rank is in.

The loop writes it, other threads read it: errors name the step, and a group that has stopped moving finds the rank that
the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, overload

# Phase of a rank that waits for the others, within any other phase.
WAITING = "sum"


@dataclass
class Pulse:
    """Present step and phase of a rank."""

    step: int = 0  # global step in progress, from 1; 0 before the first
    phase: str = "start"
    moves: int = 0  # changes of the phase, and signs of life within one
    begun: int = 0  # steps begun in this process

    def begin(self, step: int) -> None:
        """Begins a global step."""
        self.step = step
        self.begun += 1
        self.moves += 1

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        """Marks the block as a phase; blocks may be nested."""
        before, self.phase = self.phase, phase
        self.moves += 1
        try:
            yield
        finally:
            self.phase = before
            self.moves += 1


PULSE = Pulse()
"""Pulse of the rank in this process."""

Item = TypeVar("Item")


class Watched(Sequence[Item]):
    """Sequence whose reading is a sign of life."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        PULSE.moves += 1
        return self._items[index]
