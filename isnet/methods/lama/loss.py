"""Losses of LaMa (Suvorov et al. 2022, §2.3).

All are on the raw prediction in [0, 1]. G: `losses.masked_l1_loss` on known pixels, `losses.adversarial_loss` in kind
`nsgan` everywhere, `feature_matching_loss`, `perceptual_loss` over `resnet.DilatedResNet`. D: `discriminator_loss` +
`R1` · `r1_penalty`; not multiplied by the weight of G's adversarial term. The loss on known pixels and the clipping of
gradients to norm 1 are the released code's alone. BatchNorm on batch statistics joins the samples of a batch: terms of
micro-batches then do not add up to those of the whole batch, here and in R1, unless the statistics are synchronised.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from isnet.losses import at_least_float32

WEIGHTS = {"l1": 10.0, "adversarial": 10.0, "feature_matching": 100.0, "perceptual": 30.0}
"""Weights of G's terms, from the released configurations."""

R1 = 0.001
"""Weight of the gradient penalty in D's loss."""

GRADIENT_NORM = 1.0
"""Largest norm of each network's gradient; it is scaled down to it."""


def feature_matching_loss(fake_maps: Sequence[Tensor], real_maps: Sequence[Tensor], *, global_batch: int) -> Tensor:
    """Mean squared differences of D's five maps, averaged over maps.

    Squares as in the released code; the paper's words suggest absolute differences.
    """
    pairs = zip(fake_maps, real_maps, strict=True)
    return torch.stack([_mean_square(fake, real.detach(), global_batch) for fake, real in pairs]).mean()


def perceptual_loss(fake_maps: Sequence[Tensor], real_maps: Sequence[Tensor], *, global_batch: int) -> Tensor:
    """Mean squared differences of the ResNet's maps, summed (Eq. 2)."""
    pairs = zip(fake_maps, real_maps, strict=True)
    return torch.stack([_mean_square(fake, real, global_batch) for fake, real in pairs]).sum()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, mask_B1HW: Tensor, *, global_batch: int) -> Tensor:
    """D's loss, Eq. 4: fake where the hole is.

    The hole is resized by nearest neighbour to the logits' size, so a cell whose centre misses it counts as real, as
    does the prediction of known pixels.
    """
    real, fake = at_least_float32(real_logits), at_least_float32(fake_logits)
    size = (fake.shape[2], fake.shape[3])
    hole = F.interpolate(1 - mask_B1HW.to(fake.dtype), size=size, mode="nearest")
    loss = F.softplus(-real) + hole * F.softplus(fake) + (1 - hole) * F.softplus(-fake)
    return loss.mean() * (len(real) / global_batch)


def r1_penalty(real_logits: Tensor, truth_B3HW: Tensor, *, global_batch: int) -> Tensor:
    """Mean over samples of ‖∇ ΣD(truth)‖².

    Its graph is of second order. `truth_B3HW` must require gradients, and D must have run on it in full precision,
    uncompiled.
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), truth_B3HW, create_graph=True)
    return gradient.square().sum((1, 2, 3)).sum() / global_batch


def _mean_square(fake: Tensor, real: Tensor, global_batch: int) -> Tensor:
    return F.mse_loss(at_least_float32(fake), at_least_float32(real)) * (len(fake) / global_batch)
