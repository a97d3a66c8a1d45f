"""Training metrics: sums over ranks."""

from __future__ import annotations

from collections.abc import Mapping

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
