"""Losses of PConv (Liu et al. 2018, §3.3).

Pictures are normalised by ImageNet; there is no discriminator. Every term is a mean over all pixels or features, as the
author says of the paper's sums (NVIDIA/partialconv, issue 9). VGG16 gets the normalised pictures as they are
(`Perceptual(network="vgg16", normalise=False)`), and both its losses compare the layers `perceptual.POOL_LAYERS` of
output and truth, and of composite and truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never

import torch.nn.functional as F
from torch import Tensor

from isnet import losses
from isnet.losses import Features, at_least_float32

WEIGHTS = {"valid": 1.0, "hole": 6.0, "perceptual": 0.05, "style": 120.0, "total_variation": 0.1}
"""Weights of the terms, Eq. 7 of the paper."""

Variation = Literal["hole", "released"]


def valid_loss(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, global_batch: int) -> Tensor:
    """Mean of |M·(prediction - truth)| over all pixels."""
    return losses.masked_l1_loss(prediction, truth, mask_B1HW, global_batch=global_batch)


def hole_loss(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, global_batch: int) -> Tensor:
    """Mean of |(1 - M)·(prediction - truth)| over all pixels."""
    return losses.masked_l1_loss(prediction, truth, 1 - mask_B1HW, global_batch=global_batch)


def perceptual_loss(
    fake: Features, composite: Features, real: Features, layers: Sequence[str], *, global_batch: int
) -> Tensor:
    """Differences of VGG16's maps for output and composite, summed."""
    return losses.perceptual_loss(fake, real, layers, global_batch=global_batch) + losses.perceptual_loss(
        composite, real, layers, global_batch=global_batch
    )


def style_loss(
    fake: Features, composite: Features, real: Features, layers: Sequence[str], *, global_batch: int
) -> Tensor:
    """Differences of Gram matrices for output and composite, summed."""
    return losses.style_loss(fake, real, layers, global_batch=global_batch) + losses.style_loss(
        composite, real, layers, global_batch=global_batch
    )


def total_variation_loss(
    composite_B3HW: Tensor, mask_B1HW: Tensor, *, over: Variation = "hole", global_batch: int
) -> Tensor:
    """Mean absolute differences of horizontal and of vertical neighbours.

    `hole` counts pairs of which both lie in the hole grown by one pixel (the paper), `released` all of them. Both
    divide by the number of all pairs, so that a picture that is all hole has one value.
    """
    x = at_least_float32(composite_B3HW)
    across, down = (x[..., 1:] - x[..., :-1]).abs(), (x[..., 1:, :] - x[..., :-1, :]).abs()
    if over == "hole":
        region = F.max_pool2d(1 - mask_B1HW.to(x.dtype), 3, stride=1, padding=1)
        across = across * region[..., 1:] * region[..., :-1]
        down = down * region[..., 1:, :] * region[..., :-1, :]
    elif over != "released":
        assert_never(over)
    return (across.mean() + down.mean()) * (len(x) / global_batch)
