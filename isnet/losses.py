"""The terms of Eq. 2 and Eq. 3.

Every loss is a sum over this call's samples divided by `global_batch`, the number of samples of the whole step. Added
up over micro-batches and ranks it is the mean over the global batch, for any division of that batch.
All take tensors of any floating type and compute in at least float32, autocast or not.
Shapes: image, truth, prediction (B, 3, H, W) in [0, 1]; mask (B, 1, H, W), 1 valid and 0 hole.
Not covered: the order of the calls and the networks that get the gradients (gan.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from isnet.errors import InputError

GanKind = Literal["hinge", "nsgan", "lsgan"]
DSees = Literal["raw", "composite", "hole_only"]
L1Mode = Literal["hole_ratio", "per_sample", "plain"]
# VGG's maps by layer name.
Features = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Weights of Eq. 2; terms of weight 0 are skipped."""

    # Eq. 2: L_G = L_ℓ1 + 0.1 (−L_D) + 0.1 L_perc + 250 L_style + 10 L_FM.
    l1: float = 1.0
    adversarial: float = 0.1
    perceptual: float = 0.1
    style: float = 250.0
    feature_matching: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"loss weight {field.name} is {value!r}; need a finite number from 0")

    @property
    def needs_discriminator(self) -> bool:
        """True where a term reads D."""
        return self.adversarial > 0 or self.feature_matching > 0

    @property
    def needs_vgg(self) -> bool:
        """True where a term reads VGG19."""
        return self.perceptual > 0 or self.style > 0


def hole_ratio_sum(mask_B1HW: Tensor) -> Tensor:
    """Sums the samples' hole ratios; 0-dim."""
    return (1 - at_least_float32(mask_B1HW)).mean(dim=(1, 2, 3)).sum()


def l1_loss(
    prediction: Tensor,
    truth: Tensor,
    mask_B1HW: Tensor,
    *,
    mode: L1Mode,
    global_batch: int,
    hole_ratio: Tensor | None = None,
    min_hole_ratio: float = 0.01,
) -> Tensor:
    """L_ℓ1 of Eq. 2: mean absolute difference over the picture.

    `hole_ratio` is the mean of the global batch, 0-dim. Ratios are clamped from below at `min_hole_ratio`, so that a
    mask without a hole gives a finite loss. Modes are those of ISNET.md §8 row 6.
    """
    # Each sample divided by its own hole ratio.
    if mode == "per_sample":
        distance_B = (at_least_float32(prediction) - at_least_float32(truth)).abs().mean(dim=(1, 2, 3))
        ratio_B = (1 - at_least_float32(mask_B1HW)).mean(dim=(1, 2, 3)).clamp_min(min_hole_ratio)
        return (distance_B / ratio_B).sum() / global_batch
    distance = _mean_absolute(prediction, truth, global_batch)
    # Divided by the mean hole ratio of the global batch, as the released code does.
    if mode == "hole_ratio":
        assert hole_ratio is not None, "the caller reduces it over ranks before the forward pass"
        return distance / hole_ratio.clamp_min(min_hole_ratio)
    # Not divided: the paper's text.
    if mode == "plain":
        return distance
    assert_never(mode)


def masked_l1_loss(prediction: Tensor, truth: Tensor, weight_B1HW: Tensor, *, global_batch: int) -> Tensor:
    """Mean of |w·(prediction - truth)| over all pixels."""
    weight_B1HW = at_least_float32(weight_B1HW)
    return _mean_absolute(
        at_least_float32(prediction) * weight_B1HW, at_least_float32(truth) * weight_B1HW, global_batch
    )


def discriminator_views(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, sees: DSees) -> tuple[Tensor, Tensor]:
    """Returns D's (real, fake) pictures (ISNET.md §8 row 5)."""
    hole_B1HW = 1 - mask_B1HW.to(prediction.dtype)
    # The whole truth and the whole prediction, as the released code does.
    if sees == "raw":
        return truth, prediction
    # The prediction inside the hole, the truth around it.
    if sees == "composite":
        return truth, composite(prediction, truth, mask_B1HW)
    # Black around the hole, in both. Eq. 3 masks only the fake, I_pred ⊙ (1 − M), and D would win by the black.
    if sees == "hole_only":
        return truth * hole_B1HW, prediction * hole_B1HW
    assert_never(sees)


def composite(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Composite I_comp: prediction in the hole, truth around it."""
    # §3.1: I_comp = I_pred ⊙ (1 − M) + I_gt ⊙ M.
    mask_B1HW = mask_B1HW.to(prediction.dtype)
    return prediction * (1 - mask_B1HW) + truth * mask_B1HW


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, kind: GanKind, global_batch: int) -> Tensor:
    """D's loss: half of Eq. 3, or nsgan, or lsgan."""
    real, fake = at_least_float32(real_logits), at_least_float32(fake_logits)
    if kind == "hinge":
        # Eq. 3: L_D = E[ψ(1 − D(I_gt))] + E[ψ(1 + D(fake))], ψ = ReLU.
        total = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    elif kind == "nsgan":
        # Cross entropy on logits: -log sigmoid(x) = softplus(-x) cannot overflow.
        total = F.softplus(-real).mean() + F.softplus(fake).mean()
    elif kind == "lsgan":
        # Squares of sigmoids, as in the released code.
        total = (torch.sigmoid(real) - 1).square().mean() + torch.sigmoid(fake).square().mean()
    else:
        assert_never(kind)
    # The released code's half; Adam's step does not depend on it.
    return 0.5 * total * (len(real) / global_batch)


def adversarial_loss(fake_logits: Tensor, *, kind: GanKind, global_batch: int) -> Tensor:
    """G's adversarial loss in Eq. 2, low where D errs."""
    fake = at_least_float32(fake_logits)
    if kind == "hinge":
        # The −L_D of Eq. 2 is −E[D(I_pred)] (ISNET.md §8 row 4).
        loss = -fake.mean()
    elif kind == "nsgan":
        loss = F.softplus(-fake).mean()
    elif kind == "lsgan":
        loss = (torch.sigmoid(fake) - 1).square().mean()
    else:
        assert_never(kind)
    return loss * (len(fake) / global_batch)


def mean_logit(logits: Tensor, *, global_batch: int) -> Tensor:
    """Mean logit E[D(·)], without a gradient."""
    return at_least_float32(logits.detach()).mean() * (len(logits) / global_batch)


def feature_matching_loss(fake_maps: Sequence[Tensor], real_maps: Sequence[Tensor], *, global_batch: int) -> Tensor:
    """L_FM of Eq. 2: mean absolute differences of D's maps."""
    # Summed over the five maps; the real side gets no gradient.
    return _mean_absolutes(list(fake_maps), [real.detach() for real in real_maps], global_batch)


def perceptual_loss(fake: Features, real: Features, layers: Sequence[str], *, global_batch: int) -> Tensor:
    """L_perc of Eq. 2 [15]: differences of VGG features, summed."""
    return _mean_absolutes([fake[name] for name in layers], [real[name] for name in layers], global_batch)


def style_loss(fake: Features, real: Features, layers: Sequence[str], *, global_batch: int) -> Tensor:
    """L_style of Eq. 2: differences of Gram matrices, summed."""
    return _mean_absolutes([gram(fake[name]) for name in layers], [gram(real[name]) for name in layers], global_batch)


def gram(features_BCHW: Tensor) -> Tensor:
    """Gram matrices F·Fᵀ / (C·H·W), (B, C, C)."""
    channels, height, width = features_BCHW.shape[1:]
    with torch.autocast(features_BCHW.device.type, enabled=False):
        features_BCN = at_least_float32(features_BCHW).flatten(2)
        return torch.bmm(features_BCN, features_BCN.transpose(1, 2)) / (channels * height * width)


def _mean_absolute(fake: Tensor, real: Tensor, global_batch: int) -> Tensor:
    # This call's share of the mean over the global batch.
    return F.l1_loss(at_least_float32(fake), at_least_float32(real)) * (len(fake) / global_batch)


def at_least_float32(x: Tensor) -> Tensor:
    """At least float32: half types are widened, float64 stays."""
    return x.float() if x.dtype != torch.float64 else x


def _mean_absolutes(fake: Sequence[Tensor], real: Sequence[Tensor], global_batch: int) -> Tensor:
    # The sum of `_mean_absolute` over pairs of maps; `real` gets no gradient.
    factors = [len(maps) / (global_batch * maps.numel()) for maps in fake]
    total: Tensor = _AbsoluteSum.apply(factors, *fake, *real)  # type: ignore[no-untyped-call]
    return total


class _AbsoluteSum(torch.autograd.Function):
    """Σ factor·|fake - real| over pairs of maps.

    All pairs go through each operator together: on a GPU five pairs cost the launches of one.
    """

    @staticmethod
    def forward(ctx: Any, factors: list[float], *maps: Tensor) -> Tensor:
        fake, real = _widened(maps[: len(factors)]), _widened(maps[len(factors) :])
        differences = torch._foreach_sub(fake, real)
        ctx.factors, ctx.dtypes = factors, [maps[i].dtype for i in range(len(factors))]
        ctx.save_for_backward(*differences)
        sums = torch._foreach_norm(differences, 1)
        torch._foreach_mul_(sums, factors)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        signs = torch._foreach_sign(ctx.saved_tensors)
        torch._foreach_mul_(signs, ctx.factors)
        torch._foreach_mul_(signs, gradients[0])
        back = [sign.to(dtype) for sign, dtype in zip(signs, ctx.dtypes, strict=True)]
        return None, *back, *[None] * len(back)


def _widened(maps: Sequence[Tensor]) -> list[Tensor]:
    # `at_least_float32`, of all maps together.
    if all(part.dtype in (torch.float32, torch.float64) for part in maps):
        return list(maps)
    wide = [torch.empty_like(part, dtype=torch.float32) for part in maps]
    torch._foreach_copy_(wide, list(maps))
    return wide
