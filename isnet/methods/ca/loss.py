"""Losses of CA (Yu et al. 2018, §3), with WGAN-GP.

Pictures are in [-1, 1]. Both stages of G are supervised: a term of the first counts `COARSE` times. `x` is the truth,
`c` a composite cropped to the box that holds the hole, `s` its discount:

    l1           1.2·mean|(c₁ - g)·s| + mean|(c₂ - g)·s|      `discounted_l1_loss` of each
    known        1.2·mean|(x₁ - x)·M| + mean|(x₂ - x)·M|      `known_loss` of each
    adversarial  -mean of both critics of the second stage    `generator_loss`
    critics      mean(fake - real) + 10·penalty, both added   `critic_loss`, `gradient_penalty`

`authors` divides the known pixels' term by their share and penalises gradients in the hole alone, as their code does;
`released` is the port to PyTorch, which does neither. For holes of any shape the discount makes no sense (issue 172
of the authors' code): L1 is then taken on the whole picture, with s = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from isnet import losses
from isnet.losses import at_least_float32

Form = Literal["authors", "released"]

WEIGHTS = {"l1": 1.2, "known": 1.2, "adversarial": 0.001}
"""Weights of G's terms, from the released configurations."""

COARSE = 1.2
"""Weight of the first stage within `l1` and `known`."""

PENALTY = 10.0
"""Weight of the gradient penalty in the critics' loss."""

DISCOUNT = 0.9
"""γ of the discount: 0.9 in both codes, 0.99 in the paper."""

CRITIC_STEPS = 5
"""Steps of the critics for one of G."""


def spatial_discount(size: int, *, gamma: float = DISCOUNT, like: Tensor) -> Tensor:
    """Discounts pixels by their distance to the box's border (§3.2).

    max(γ^min(i, n-i), γ^min(j, n-j)) at row i and column j of n, (1, 1, n, n), of the type and device of `like`.
    """
    position = torch.arange(size, dtype=like.dtype, device=like.device)
    power = gamma ** torch.minimum(position, size - position)
    return torch.maximum(power[:, None], power[None, :])[None, None]


def discounted_l1_loss(
    prediction: Tensor, truth: Tensor, discount_11hw: Tensor | None = None, *, global_batch: int
) -> Tensor:
    """Mean of |(prediction - truth)·s| over box or picture."""
    weight = truth.new_ones(()) if discount_11hw is None else discount_11hw
    return losses.masked_l1_loss(prediction, truth, weight, global_batch=global_batch)


def known_loss(
    prediction: Tensor,
    truth: Tensor,
    mask_B1HW: Tensor,
    *,
    form: Form = "authors",
    valid_ratio: Tensor,
    global_batch: int,
) -> Tensor:
    """Mean of |(prediction - truth)·M|.

    `valid_ratio` is the mean of M over the global batch, 0-dim; `authors` divides by it, clamped from below at 0.01.
    """
    loss = losses.masked_l1_loss(prediction, truth, mask_B1HW, global_batch=global_batch)
    return loss / valid_ratio.clamp_min(0.01) if form == "authors" else loss


def generator_loss(fake_values: Tensor, *, global_batch: int) -> Tensor:
    """Minus the mean value of one critic."""
    return -at_least_float32(fake_values).sum() / global_batch


def critic_loss(real_values: Tensor, fake_values: Tensor, *, global_batch: int) -> Tensor:
    """Mean value of fakes less that of truths."""
    return (at_least_float32(fake_values) - at_least_float32(real_values)).sum() / global_batch


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    share_B: Tensor,
    mask_B1HW: Tensor | None = None,
    *,
    global_batch: int,
) -> Tensor:
    """Mean of (‖∇critic‖₂ - 1)² between truths and fakes.

    Its graph is of second order. Runs `critic`, which must be in full precision and uncompiled, on share·real + (1 -
    share)·fake; gradients do not reach the pictures.

    Args:
        critic: Maps pictures to values (B, 1).
        real: Truths, (B, 3, H, W).
        fake: Completed pictures of the same shape.
        share_B: Share of the truth in each sample, drawn uniformly from [0, 1] for each critic.
        mask_B1HW: Counts gradients in the hole alone (`authors`); None counts all (`released`).
        global_batch: Samples of the whole step.
    """
    share = share_B.to(real.dtype).view(-1, 1, 1, 1)
    between = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    if mask_B1HW is not None:
        gradient = gradient * (1 - mask_B1HW.to(gradient.dtype))
    # A norm whose gradient at zero is zero: a sample without a hole must not give NaN.
    norms = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
    penalty: Tensor = (norms - 1).square().sum() / global_batch
    return penalty
