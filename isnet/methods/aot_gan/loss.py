"""Losses of AOT-GAN, above all its soft-mask GAN.

L1 compares whole pictures in [-1, 1] (`losses.l1_loss`, mode `plain`). VGG19 sees whole pictures normalised by
ImageNet (`Perceptual(normalise=True)`, on what `to_unit` returns), with EdgeConnect's layers. D sees `composite`.

The soft-mask GAN labels pixels, not pictures: D's map is resized to the picture and compared with a map of labels.
`paper`: 1 is real, the composite's label is the blurred mask, and G's square counts in the hole alone. `released`: D is
taught 1 for the hole, while G still asks for 1 everywhere, so that G is asked for what D calls synthetic (issues 2 and
11 of the released code); its division by the mean of the hole multiplies a mean that was taken before.
"""

from __future__ import annotations

from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from isnet.losses import at_least_float32, composite

Labels = Literal["paper", "released"]

WEIGHTS = {"l1": 1.0, "style": 250.0, "perceptual": 0.1, "adversarial": 0.01}
"""Weights of G's terms, from the released configuration."""

# Gaussian of the released code: 71 taps, standard deviation 10 pixels.
_TAPS, _SIGMA = 71, 10.0

__all__ = ["WEIGHTS", "Labels", "adversarial_loss", "composite", "discriminator_loss", "soft_mask", "to_unit"]


def to_unit(image_B3HW: Tensor) -> Tensor:
    """Maps [-1, 1] to [0, 1]."""
    return (image_B3HW + 1) / 2


def soft_mask(mask_B1HW: Tensor) -> Tensor:
    """Blurs a mask by a Gaussian, zero beyond the border."""
    offsets = torch.arange(_TAPS, dtype=mask_B1HW.dtype, device=mask_B1HW.device) - _TAPS // 2
    kernel = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    kernel = kernel / kernel.sum()
    columns = F.conv2d(mask_B1HW, kernel.view(1, 1, 1, -1), padding=(0, _TAPS // 2))
    return F.conv2d(columns, kernel.view(1, 1, -1, 1), padding=(_TAPS // 2, 0))


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, mask_B1HW: Tensor, *, labels: Labels = "paper", global_batch: int
) -> Tensor:
    """D's loss: squared differences of its maps and their labels.

    Logits are (B, 1, h, w) and resized to the mask's size.
    """
    mask = mask_B1HW.to(at_least_float32(fake_logits).dtype)
    real, fake = (_resized(logits, mask) for logits in (real_logits, fake_logits))
    if labels == "paper":
        total = (real - 1).square().mean() + (fake - soft_mask(mask)).square().mean()
    elif labels == "released":
        total = real.square().mean() + (fake - soft_mask(1 - mask)).square().mean()
    else:
        assert_never(labels)
    return total * (len(real) / global_batch)


def adversarial_loss(
    fake_logits: Tensor,
    mask_B1HW: Tensor,
    *,
    labels: Labels = "paper",
    global_batch: int,
    hole_ratio: Tensor,
    min_hole_ratio: float = 0.01,
) -> Tensor:
    """G's loss: squared differences of D's map and 1.

    `hole_ratio` is the mean of the global batch, 0-dim, and clamped from below: a batch without a hole has loss 0.
    The released form does not use it.
    """
    mask = mask_B1HW.to(at_least_float32(fake_logits).dtype)
    squares = (_resized(fake_logits, mask) - 1).square()
    if labels == "paper":
        squares = squares * (1 - mask) / hole_ratio.clamp_min(min_hole_ratio)
    return squares.mean() * (len(squares) / global_batch)


def _resized(logits: Tensor, mask: Tensor) -> Tensor:
    size = (mask.shape[2], mask.shape[3])
    return F.interpolate(at_least_float32(logits), size=size, mode="bilinear", align_corners=True)
