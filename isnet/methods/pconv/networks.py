"""U-Net of partial convolutions.

Pictures are normalised by ImageNet's mean and deviation and 0 in the hole; the output is in the same space, unbounded.
Sides are multiples of 2^levels. Masks must be exactly 0 or 1.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Form = Literal["paper", "released"]
"""Weight of a window: N/S as in the paper, or 1/S as in one released code, whose kernels are N times as large."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_EPS = 1e-8


class WindowConv(nn.Conv2d):
    """Weights of a partial convolution, never packed."""


class PartialConv2d(nn.Module):
    """Convolution over valid pixels alone.

    y = (W ∗ (x·m))·N/S + b where the window has a valid pixel, else 0; N is the number of weights of one output and S
    the number of valid values in the window. The new mask is 1 where S > 0.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, bias: bool = False, form: Form
    ) -> None:
        super().__init__()
        self.conv = WindowConv(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=bias)
        self.form = form

    def forward(self, x_BCHW: Tensor, masks: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        """Returns the features and their mask (B, 1, H', W').

        `masks` has a mask (B, 1, H, W) for each group of channels, with the number of those channels: after a
        concatenation the two halves have different ones.
        """
        conv = self.conv
        mask_BCHW = torch.cat([mask.expand(-1, channels, -1, -1) for mask, channels in masks], dim=1)
        y = F.conv2d(x_BCHW * mask_BCHW, conv.weight, stride=conv.stride, padding=conv.padding)
        # S by one box sum over the masks, each times its channels, instead of a second convolution.
        values = torch.stack([mask * channels for mask, channels in masks]).sum(0)
        box = values.new_ones(1, 1, *conv.kernel_size)
        count_B1HW = F.conv2d(values, box, stride=conv.stride, padding=conv.padding)
        valid = (count_B1HW > 0).to(y.dtype)
        total = conv.weight[0].numel() if self.form == "paper" else 1
        y = y * (total / (count_B1HW + _EPS) if self.form == "paper" else 1 / count_B1HW.clamp(min=1))
        if conv.bias is not None:
            y = y + conv.bias.view(1, -1, 1, 1)
        return y * valid, valid


class _Level(nn.Module):
    """Partial convolution, BatchNorm where there is one, activation."""

    def __init__(self, channels: tuple[int, int], kernel: int, *, norm: bool, form: Form, stride: int = 1) -> None:
        super().__init__()
        self.conv = PartialConv2d(*channels, kernel, stride=stride, form=form)
        self.bn = nn.BatchNorm2d(channels[1]) if norm else nn.Identity()

    def forward(self, x: Tensor, masks: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
        y, mask = self.conv(x, masks)
        return self.bn(y), mask


class PConvUNet(nn.Module):
    """U-Net with masks that shrink; 25,779,796 parameters at 7 levels.

    Args:
        width: Channels of the first level; at most 8 times as many below.
        levels: Halvings.
        form: Weight of a window.
    """

    def __init__(self, *, width: int = 64, levels: int = 7, form: Form = "paper") -> None:
        super().__init__()
        kernels = [7, 5, 5, *[3] * (levels - 3)][:levels]
        out = [min(width * 2**level, 8 * width) for level in range(levels)]
        ins = [3, *out[:-1]]
        self.encoder = nn.ModuleList(
            _Level((ins[i], out[i]), kernels[i], norm=i > 0, form=form, stride=2) for i in range(levels)
        )
        # Level i joins the features from below with those of encoder level i - 1, the last one with the picture.
        decoder: list[nn.Module] = [
            _Level((out[i] + out[i - 1], out[i - 1]), 3, norm=True, form=form) for i in range(levels - 1, 0, -1)
        ]
        decoder.append(PartialConv2d(out[0] + 3, 3, 3, bias=True, form=form))
        self.decoder = nn.ModuleList(decoder)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Maps a normalised picture and M to a normalised picture."""
        skips = [(x_B3HW, mask_B1HW)]
        x, mask = x_B3HW, mask_B1HW
        for level in self.encoder:
            x, mask = level(x, [(mask, x.shape[1])])
            x = F.relu(x)
            skips.append((x, mask))
        skips.pop()
        for level in self.decoder:
            skip, skip_mask = skips.pop()
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            mask = F.interpolate(mask, scale_factor=2, mode="nearest")
            joined = torch.cat([x, skip], dim=1)
            x, mask = level(joined, [(mask, x.shape[1]), (skip_mask, skip.shape[1])])
            if skips:
                x = F.leaky_relu(x, 0.2)
        return x


def assemble(image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Normalises a picture in [0, 1]; 0 in the hole."""
    return normalised(image_B3HW) * mask_B1HW


def normalised(image_B3HW: Tensor) -> Tensor:
    """Normalises a picture in [0, 1]."""
    mean, std = (image_B3HW.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (image_B3HW - mean) / std


def picture_of(raw_B3HW: Tensor) -> Tensor:
    """Inverse of `normalised`."""
    mean, std = (raw_B3HW.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return raw_B3HW * std + mean
