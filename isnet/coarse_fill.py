"""Smooth fill of a hole, without learning.

A network with `coarse="harmonic"` adds to this fill, so that its first step is as good as the fill. It solves Laplace's
equation approximately, from coarse to fine: each level halves the picture, fills its hole from the level below, and
relaxes it. Plain tensor operations of fixed number: it is differentiated, exported and run like any layer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Halvings: sides are multiples of 16.
_LEVELS = 4
# Relaxations at the smallest level, where a hole may be wide, and at each other one.
_SMALLEST, _OTHERS = 32, 8


def harmonic_fill(damaged_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Fills the hole smoothly; sides are multiples of 16.

    Args:
        damaged_B3HW: picture, 0 in the hole.
        mask_B1HW: 1 on valid pixels, 0 in the hole.

    Returns:
        (B, 3, H, W), pixels around the hole unchanged; near the mean colour where a hole is far from all of them.
    """
    # Means of the known pixels of each block, level by level. A block without any is hole.
    pyramid = [(damaged_B3HW, mask_B1HW)]
    for _ in range(_LEVELS):
        outside, valid = pyramid[-1]
        share = F.avg_pool2d(valid, 2)
        pyramid.append((F.avg_pool2d(outside, 2) / share.clamp_min(0.25), (share > 0).to(outside.dtype)))
    # The smallest level begins with the mean colour.
    outside, valid = pyramid.pop()
    mean = outside.sum(dim=(2, 3), keepdim=True) / valid.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    filled = _relaxed(outside + (1 - valid) * mean, outside, valid, times=_SMALLEST)
    while pyramid:
        outside, valid = pyramid.pop()
        enlarged = F.interpolate(filled, scale_factor=2, mode="bilinear", align_corners=False)
        filled = _relaxed(outside + (1 - valid) * enlarged, outside, valid, times=_OTHERS)
    return filled


def _relaxed(filled: Tensor, outside: Tensor, valid: Tensor, *, times: int) -> Tensor:
    """Replaces hole pixels by means of their neighbours, repeatedly."""
    hole = 1 - valid
    for _ in range(times):
        around = F.pad(filled, (1, 1, 1, 1), mode="replicate")
        # In place: a new tensor for each sum takes a third longer.
        filled = around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
        filled += around[..., :-2, 1:-1]
        filled += around[..., 2:, 1:-1]
        filled *= 0.25
        filled *= hole
        filled += outside
    return filled
