"""Generator of AOT-GAN; its discriminator is the patch discriminator.

Pictures are in [-1, 1], white (+1) in the hole; sides are multiples of 4, at least 36.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.layers import initialise
from isnet.methods.patch_discriminator import PatchDiscriminator

RATES = (1, 2, 4, 8)
"""Dilations of a block's branches."""


def _reflected(channels_in: int, channels_out: int, kernel: int = 3, *, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, padding_mode="reflect")


class AOTBlock(nn.Module):
    """Aggregated contextual transformation, with a gated residual."""

    def __init__(self, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_reflected(channels, channels // len(rates), dilation=rate) for rate in rates)
        self.fuse = _reflected(channels, channels)
        self.gate = _reflected(channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Computes x·(1 - g) + fuse(branches(x))·g, g the gate."""
        context = self.fuse(torch.cat([F.relu(branch(x_BCHW)) for branch in self.branches], dim=1))
        gate = torch.sigmoid(_gate_norm(self.gate(x_BCHW)))
        return x_BCHW * (1 - gate) + context * gate  # type: ignore[no-any-return]


def _gate_norm(gate_BCHW: Tensor) -> Tensor:
    # 5·(2·(g - μ)/(σ + 1e-9) - 1) over the pixels of each map; σ is unbiased, as in the released code.
    mean = gate_BCHW.mean((2, 3), keepdim=True)
    std = gate_BCHW.std((2, 3), keepdim=True) + 1e-9
    return 5 * (2 * (gate_BCHW - mean) / std - 1)


class AOTGenerator(nn.Module):
    """Encoder, AOT blocks, decoder; 15,200,835 parameters at width 64."""

    def __init__(self, *, width: int = 64, blocks: int = 8, rates: Sequence[int] = RATES) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            [
                _reflected(4, width, 7),
                nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
                nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            ]
        )
        self.middle = nn.Sequential(*(AOTBlock(4 * width, rates) for _ in range(blocks)))
        self.decoder = nn.ModuleList(
            [
                nn.Conv2d(4 * width, 2 * width, 3, padding=1),
                nn.Conv2d(2 * width, width, 3, padding=1),
                nn.Conv2d(width, 3, 3, padding=1),
            ]
        )
        initialise(self, std=0.02)

    def forward(self, x_B4HW: Tensor) -> Tensor:
        """Maps [picture with a white hole, hole] to [-1, 1]."""
        for layer in self.encoder:
            x_B4HW = F.relu(layer(x_B4HW))
        x = self.middle(x_B4HW)
        for layer in self.decoder[:-1]:
            x = F.relu(layer(F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)))
        return torch.tanh(self.decoder[-1](x))


def assemble(image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Builds the input from a picture in [0, 1]."""
    hole = 1 - mask_B1HW
    return torch.cat([(2 * image_B3HW - 1) * mask_B1HW + hole, hole], dim=1)


def discriminator(*, width: int = 64) -> PatchDiscriminator:
    """Builds its discriminator of RGB in [-1, 1]."""
    return PatchDiscriminator(3, width=width, plain_last=True)
