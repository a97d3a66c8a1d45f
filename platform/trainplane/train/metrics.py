"""Training metrics: summed over ranks when they are recorded, and their means over an epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainplane.train.world import World


def reduced(shares: Mapping[str, Tensor], world: World) -> dict[str, float]:
    """The metrics of the global batch, from every rank's share of them. Waits for the device."""
    if not shares:
        return {}
    names = sorted(shares)
    total = torch.stack([shares[name].detach().double() for name in names])
    world.sum_([total])
    return dict(zip(names, total.tolist(), strict=True))


@dataclass
class EpochMeans:
    """Means over the recorded steps of the current epoch; part of a checkpoint, so that a resume changes nothing."""

    totals: dict[str, float] = field(default_factory=dict)
    count: int = 0

    def add(self, done: int, values: Mapping[str, float], steps_per_epoch: int) -> dict[str, float]:
        """Take in one recorded step. Returns the means of the epoch when `done` is the last step recorded in it.

        A step that was passed over, or whose values are not all finite, counts for nothing.
        """
        if values and all(map(math.isfinite, values.values())):
            for name, value in values.items():
                self.totals[name] = self.totals.get(name, 0.0) + value
            self.count += 1
        if done % steps_per_epoch:
            return {}
        means = {name: total / self.count for name, total in self.totals.items()}
        self.totals, self.count = {}, 0
        return means
