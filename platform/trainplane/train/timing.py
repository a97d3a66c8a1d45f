"""Time of a run by phase, and advice for speed.

Seconds of this rank's main thread. A device works behind it: the wait happens at the next record and counts as `step`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from trainplane.train.pulse import PULSE


@dataclass
class PhaseTimer:
    """Seconds by phase."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a phase."""
        started = time.monotonic()
        try:
            with PULSE.at(name):
                yield
        finally:
            self.seconds[name] += time.monotonic() - started

    def with_parts(self, step_parts: Mapping[str, float], wall_s: float) -> dict[str, float]:
        """Seconds by phase, parts of the step, and wall time."""
        return {**self.seconds, **{f"step/{name}": s for name, s in step_parts.items()}, "wall": wall_s}


# Phase -> (share of the wall time from which it is worth changing something, what to change first).
_REMEDIES = {
    "data": (0.2, "raise data.loader_workers, then data.prefetch; the ranks wait for samples"),
    "validate": (0.2, "validate less often (train.validate_every) or on fewer samples (data.val_samples)"),
    "record": (0.1, "record less often (train.log_every)"),
    "checkpoint": (0.1, "save less often (train.checkpoint_every), or to a store that is nearer"),
}


def advice(seconds: Mapping[str, float], *, faster_step: str = "") -> str:
    """Change that promises most time, by seconds of each phase.

    That is the phase furthest above its share; where none is, the step itself, with the task's advice `faster_step`.
    """
    wall = seconds.get("wall", 0.0)
    if wall <= 0:
        return ""
    excess = {name: seconds.get(name, 0.0) / wall - share for name, (share, _) in _REMEDIES.items()}
    worst = max(excess, key=lambda name: excess[name])
    if excess[worst] > 0:
        return _REMEDIES[worst][1]
    return f"the step itself: {faster_step}{', or ' if faster_step else ''}more train.workers"


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Fractions of the wall time by phase, the largest first.

    Time outside all phases is `rest`. Parts of a phase (`step/generator`) are fractions of the wall time, too.
    """
    wall = seconds.get("wall", 0.0)
    if wall <= 0:
        return {}
    phases = {name: s / wall for name, s in seconds.items() if name != "wall" and "/" not in name}
    phases["rest"] = max(0.0, 1 - sum(phases.values()))
    # Insert each phase and then its parts: a dict keeps that order.
    ordered = {}
    for name in sorted(phases, key=lambda name: -phases[name]):
        ordered[name] = phases[name]
        ordered |= {part: s / wall for part, s in sorted(seconds.items()) if part.startswith(f"{name}/")}
    return ordered
