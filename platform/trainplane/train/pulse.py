"""Step and phase that this process's rank is in.

The loop writes it, other threads read it: errors name the step, and a group that has stopped moving finds the rank that
the others wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Phase of a rank that waits for the others, within any other phase.
WAITING = "sum"


@dataclass
class Pulse:
    """Present step and phase of a rank."""

    step: int = 0  # global step in progress, from 1; 0 before the first
    phase: str = "start"
    moves: int = 0  # changes of the phase, and signs of life within one

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
