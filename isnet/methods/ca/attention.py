"""Contextual attention: fills features of the hole with known ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCALE = 10.0
_EPS = 1e-4


def contextual_attention(features_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """Rebuilds every position from the usable patches that resemble it.

    Foreground and background are the same features, of even sides. A patch is usable when its neighbourhood has no
    hole; without any the output is 0. Memory grows with (H·W/4)² per sample.

    Args:
        features_BCHW: Features in at least float32.
        hole_B1HW: 1 in the hole, of any size.
    """
    hole = F.interpolate(hole_B1HW, size=(features_BCHW.shape[2] // 2, features_BCHW.shape[3] // 2), mode="nearest")
    return torch.cat([_attend(features_BCHW[i : i + 1], hole[i : i + 1]) for i in range(len(features_BCHW))])


def _attend(features_1CHW: Tensor, hole_11hw: Tensor) -> Tensor:
    channels = features_1CHW.shape[1]
    half = F.interpolate(features_1CHW, scale_factor=0.5, mode="nearest")
    height, width = half.shape[2:]
    count = height * width
    # Kernels: 3×3 patches of the halved features, of length one; raw patches: 4×4 of the features themselves.
    kernels = F.unfold(half, 3, padding=1)[0].t().reshape(count, channels, 3, 3)
    kernels = kernels / (kernels.square() + _EPS).sum((1, 2, 3), keepdim=True).sqrt()
    patches = F.unfold(features_1CHW, 4, stride=2, padding=1)[0].t().reshape(count, channels, 4, 4)
    scores = F.conv2d(half, kernels, padding=1).view(count, count)
    scores = _fuse(scores, (height, width)).view(1, count, height, width)
    # Patches that touch the hole keep a logit of 0 in the sum, and take no part in the result.
    usable = (F.max_pool2d(hole_11hw, 3, stride=1, padding=1) == 0).to(scores.dtype).view(1, count, 1, 1)
    attention = torch.softmax(SCALE * scores * usable, dim=1) * usable
    return F.conv_transpose2d(attention, patches, stride=2, padding=1) / 4


def _fuse(scores_LL: Tensor, size: tuple[int, int]) -> Tensor:
    """Prefers neighbours that match neighbours, along rows, then columns."""
    height, width = size
    count = height * width
    fused = _along_diagonal(scores_LL)
    columns = fused.view(height, width, height, width).permute(1, 0, 3, 2).reshape(count, count)
    columns = _along_diagonal(columns)
    return columns.view(width, height, width, height).permute(1, 0, 3, 2).reshape(count, count)


def _along_diagonal(scores_LL: Tensor) -> Tensor:
    # s[i-1, j-1] + s[i, j] + s[i+1, j+1], zero outside.
    padded = F.pad(scores_LL, (1, 1, 1, 1))
    return padded[:-2, :-2] + padded[1:-1, 1:-1] + padded[2:, 2:]
