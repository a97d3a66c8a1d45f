"""Learning rates as a pure function of the step: warm-up, then constant, or falling in a line or half a cosine.

    Schedule(kind="cosine", warmup=100, decay_from=1000, decay_until=5000).factor(3000)  ->  0.5

What a step's rates are depends on nothing but the configuration, the step's index and the guard's amendments, so a
resumed run has them to the bit, wherever it was interrupted. Optimisers keep their own: `Rates` sets them anew before
every step, and what a checkpoint says of them is only for reading. Not covered: when the guard lowers a rate (`guard`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from trainplane.train.guard.policy import EVERYONE

Kind = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What each step's rates are multiplied by.

    warmup      -- steps in which the factor rises to 1 in a line, the first one at 1 / warmup
    decay_from  -- steps done at the full rate before it begins to fall
    decay_until -- steps done when it has fallen to `end`, and stays there
    end         -- the factor then
    """

    kind: Kind = "constant"
    warmup: int = 0
    decay_from: int = 0
    decay_until: int = 1
    end: float = 0.0

    @property
    def is_flat(self) -> bool:
        """Whether every step has the configured rates."""
        return self.kind == "constant" and self.warmup == 0

    def factor(self, index: int) -> float:
        """Of step `index`, counted from 0: how many are done before it. In (0, 1], or `end` behind the decay."""
        if index < self.warmup:
            return (index + 1) / self.warmup
        if self.kind == "constant":
            return 1.0
        fallen = min(1.0, max(0.0, (index - self.decay_from) / (self.decay_until - self.decay_from)))
        left = 1 - fallen if self.kind == "linear" else (1 + math.cos(math.pi * fallen)) / 2
        return self.end + (1 - self.end) * left


class Rates:
    """The rates of a task's optimisers, as they were when it was made: those of the configuration."""

    def __init__(self, schedule: Schedule, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._schedule = schedule
        self._optimizers = dict(optimizers)
        self._base = {name: [float(group["lr"]) for group in o.param_groups] for name, o in optimizers.items()}

    def set(self, index: int, *, slowed: Sequence[tuple[int, str]], slower: float) -> None:
        """Before step `index`. slowed: (step, optimiser or all), from which on its rates are `slower` times as high."""
        scheduled = self._schedule.factor(index)
        for name, optimizer in self._optimizers.items():
            times = sum(since <= index and player in (EVERYONE, name) for since, player in slowed)
            for group, base in zip(optimizer.param_groups, self._base[name], strict=True):
                rate = base
                for _ in range(times):
                    rate *= slower
                group["lr"] = rate * scheduled

    def shown(self) -> dict[str, float]:
        """The rates of the step before as `rate/NAME`, for the record; nothing where they never change."""
        if self._schedule.is_flat:
            return {}
        return {f"rate/{name}": float(o.param_groups[0]["lr"]) for name, o in self._optimizers.items()}
