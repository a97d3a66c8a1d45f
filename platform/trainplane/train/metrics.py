"""Training metrics: sums over ranks and means over an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainplane.train.world import World


def sum_over_ranks(shares: Mapping[str, Tensor], world: World) -> dict[str, float]:
    """Sums 0-dim shares of each metric; waits for the device."""
    if not shares:
        return {}
    # Sorted, so that all ranks stack the same metrics in the same order.
    names = sorted(shares)
    total = torch.stack([shares[name].detach().double() for name in names])
    world.sum_([total])
    return dict(zip(names, total.tolist(), strict=True))


@dataclass
class EpochMeans:
    """Means over an epoch's recorded steps; part of checkpoints."""

    totals: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, done: int, values: Mapping[str, float], steps_per_epoch: int) -> dict[str, float]:
        """Adds a recorded step; returns means at an epoch's end.

        Leaves out a step that was skipped, or whose values are not all finite.
        """
        # One bad step must not spoil the mean of an epoch.
        if values and all(map(math.isfinite, values.values())):
            for name, value in values.items():
                self.totals[name] = self.totals.get(name, 0.0) + value
            self.count += 1
        if done % steps_per_epoch:
            return {}
        means = {name: total / self.count for name, total in self.totals.items()}
        self.totals, self.count = {}, 0
        return means
