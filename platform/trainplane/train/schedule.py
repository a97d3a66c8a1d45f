"""Learning rates by step: warm-up, then constant, linear or cosine.

Rates depend on configuration, step and the guard's amendments alone, so a resumed run has the same ones to the bit.
`LrSchedule` sets them before every step; those in a checkpoint are for reading only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from trainplane.train.guard.policy import ALL_PLAYERS

if TYPE_CHECKING:
    import torch

Kind = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class LrCurve:
    """Factor of all learning rates by step."""

    kind: Kind = "constant"  # Shape of the decay
    warmup: int = 0  # Steps in which the factor rises to 1 linearly; the first one has 1 / warmup
    decay_from: int = 0  # Steps done at the full rate before the factor begins to fall
    decay_until: int = 1  # Steps done when the factor has fallen to `end`, where it stays
    end: float = 0.0  # The factor after the decay, from 0 to 1

    @property
    def is_flat(self) -> bool:
        """True where every step has the configured rates."""
        return self.kind == "constant" and self.warmup == 0

    def factor(self, index: int) -> float:
        """Factor of step `index`, counted from 0."""
        if index < self.warmup:
            return (index + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        # Progress of the decay from 0 to 1, and the share of the fall that is still to come.
        progress = min(1.0, max(0.0, (index - self.decay_from) / (self.decay_until - self.decay_from)))
        remaining = 1 - progress if self.kind == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.end + (1 - self.end) * remaining


class LrSchedule:
    """Sets a task's learning rates, from those configured at construction."""

    def __init__(self, curve: LrCurve, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._curve = curve
        self._optimizers = dict(optimizers)
        self._base = {name: [float(group["lr"]) for group in o.param_groups] for name, o in optimizers.items()}

    def set(self, index: int, *, slowed: Sequence[tuple[int, str]], slower: float) -> None:
        """Sets all rates for step `index`, counted from 0.

        `slowed` has (step, optimiser or all) for each lowering by the guard, by the factor `slower` from that step on.
        """
        scheduled = self._curve.factor(index)
        for name, optimizer in self._optimizers.items():
            times = sum(since <= index and player in (ALL_PLAYERS, name) for since, player in slowed)
            for group, base in zip(optimizer.param_groups, self._base[name], strict=True):
                # One factor after the other: a power could differ in the last bit.
                rate = base
                for _ in range(times):
                    rate *= slower
                group["lr"] = rate * scheduled

    def metrics(self) -> dict[str, float]:
        """Last step's rates as `rate/NAME`; empty if they never change."""
        if self._curve.is_flat:
            return {}
        return {f"rate/{name}": float(o.param_groups[0]["lr"]) for name, o in self._optimizers.items()}
