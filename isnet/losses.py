"""The terms of Eq. 2 and Eq. 3.

Every loss is a sum over this call's samples divided by `global_batch`, the number of samples of the whole step: added
up over micro-batches and ranks it is the mean over the global batch, however that was divided.
All take tensors of any floating type and compute in at least float32, autocast or not.
Shapes: image, truth, prediction (B, 3, H, W) in [0, 1]; mask (B, 1, H, W), 1 valid and 0 hole.
Not covered: who calls them when, and whose gradients they give (gan.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from isnet.errors import InputError

GanKind = Literal["hinge", "nsgan", "lsgan"]
DSees = Literal["raw", "composite", "hole_only"]
L1Mode = Literal["hole_ratio", "per_sample", "plain"]


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Eq. 2's weights; a term whose weight is 0 is not computed."""

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
        return self.adversarial > 0 or self.feature_matching > 0

    @property
    def needs_vgg(self) -> bool:
        return self.perceptual > 0 or self.style > 0


def hole_ratio_sum(mask_B1HW: Tensor) -> Tensor:
    """Σ over samples of the hole's share of the picture, 0-dim."""
    return (1 - _full(mask_B1HW)).mean(dim=(1, 2, 3)).sum()


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
    """L_ℓ1: the mean absolute difference over the whole picture,

    hole_ratio -- divided by the mean hole ratio of the global batch (`hole_ratio`, 0-dim), as the released code does
    per_sample -- each sample divided by its own hole ratio
    plain      -- as it is (the paper's text)

    Ratios are clamped from below at `min_hole_ratio`, so that a mask without a hole gives a finite loss.
    """
    if mode == "per_sample":
        distance_B = (_full(prediction) - _full(truth)).abs().mean(dim=(1, 2, 3))
        ratio_B = (1 - _full(mask_B1HW)).mean(dim=(1, 2, 3)).clamp_min(min_hole_ratio)
        return (distance_B / ratio_B).sum() / global_batch
    distance = _mean_absolute(prediction, truth, global_batch)
    if mode == "hole_ratio":
        assert hole_ratio is not None, "the caller reduces it over ranks before the forward pass"
        return distance / hole_ratio.clamp_min(min_hole_ratio)
    if mode == "plain":
        return distance
    assert_never(mode)


def discriminator_views(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor, *, sees: DSees) -> tuple[Tensor, Tensor]:
    """The (real, fake) pictures that D judges.

    raw       -- the whole truth and the whole prediction, as the released code does
    composite -- the prediction inside the hole, the truth around it
    hole_only -- the hole alone, black around it, in both: Eq. 3 masks the fake only, and D would win by the black
    """
    hole_B1HW = 1 - mask_B1HW.to(prediction.dtype)
    if sees == "raw":
        return truth, prediction
    if sees == "composite":
        return truth, composite(prediction, truth, mask_B1HW)
    if sees == "hole_only":
        return truth * hole_B1HW, prediction * hole_B1HW
    assert_never(sees)


def composite(prediction: Tensor, truth: Tensor, mask_B1HW: Tensor) -> Tensor:
    """I_comp = I_pred ⊙ (1 - M) + I_gt ⊙ M (§3.1)."""
    mask_B1HW = mask_B1HW.to(prediction.dtype)
    return prediction * (1 - mask_B1HW) + truth * mask_B1HW


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, kind: GanKind, global_batch: int) -> Tensor:
    """Half of Eq. 3 (Adam does not see the half). hinge; nsgan: cross entropy; lsgan: squares of sigmoids."""
    real, fake = _full(real_logits), _full(fake_logits)
    if kind == "hinge":
        total = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    elif kind == "nsgan":
        # On logits: -log sigmoid(x) = softplus(-x) cannot overflow.
        total = F.softplus(-real).mean() + F.softplus(fake).mean()
    elif kind == "lsgan":
        total = (torch.sigmoid(real) - 1).square().mean() + torch.sigmoid(fake).square().mean()
    else:
        assert_never(kind)
    return 0.5 * total * (len(real) / global_batch)


def adversarial_loss(fake_logits: Tensor, *, kind: GanKind, global_batch: int) -> Tensor:
    """What G pays for not being taken for real. hinge: -E[D(I_pred)], which Eq. 2 means by -L_D."""
    fake = _full(fake_logits)
    if kind == "hinge":
        loss = -fake.mean()
    elif kind == "nsgan":
        loss = F.softplus(-fake).mean()
    elif kind == "lsgan":
        loss = (torch.sigmoid(fake) - 1).square().mean()
    else:
        assert_never(kind)
    return loss * (len(fake) / global_batch)


def mean_logit(logits: Tensor, *, global_batch: int) -> Tensor:
    """E[D(·)], without a gradient: how D stands."""
    return _full(logits.detach()).mean() * (len(logits) / global_batch)


def feature_matching_loss(fake_maps: Sequence[Tensor], real_maps: Sequence[Tensor], *, global_batch: int) -> Tensor:
    """L_FM: Σ over D's five maps of the mean absolute difference; the real side gets no gradient."""
    pairs = zip(fake_maps, real_maps, strict=True)
    return _total([_mean_absolute(fake, real.detach(), global_batch) for fake, real in pairs])


def perceptual_loss(
    fake_features: Mapping[str, Tensor],
    real_features: Mapping[str, Tensor],
    layers: Sequence[str],
    *,
    global_batch: int,
) -> Tensor:
    """L_perc: Σ over VGG layers of the mean absolute difference [15]."""
    return _total([_mean_absolute(fake_features[name], real_features[name], global_batch) for name in layers])


def style_loss(
    fake_features: Mapping[str, Tensor],
    real_features: Mapping[str, Tensor],
    layers: Sequence[str],
    *,
    global_batch: int,
) -> Tensor:
    """L_style: Σ over VGG layers of the mean absolute difference of Gram matrices."""
    return _total([_mean_absolute(gram(fake_features[n]), gram(real_features[n]), global_batch) for n in layers])


def gram(features_BCHW: Tensor) -> Tensor:
    """F·Fᵀ / (C·H·W), (B, C, C), with F the features as (C, H·W), in at least float32."""
    channels, height, width = features_BCHW.shape[1:]
    with torch.autocast(features_BCHW.device.type, enabled=False):
        features_BCN = _full(features_BCHW).flatten(2)
        return torch.bmm(features_BCN, features_BCN.transpose(1, 2)) / (channels * height * width)


def _mean_absolute(fake: Tensor, real: Tensor, global_batch: int) -> Tensor:
    return F.l1_loss(_full(fake), _full(real)) * (len(fake) / global_batch)


def _full(x: Tensor) -> Tensor:
    """At least float32: half types are widened, float64 stays."""
    return x.float() if x.dtype != torch.float64 else x


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()
