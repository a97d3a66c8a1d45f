"""Edge and inpainting generator of EdgeConnect.

Both have one shape; pictures and edges are in [0, 1], white (1) in the hole; sides are multiples of 4, at least 12.
Discriminators are patch discriminators: of [gray, edges], and of RGB.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.layers import conv, conv_transpose, initialise, to_unit_range

# Weights of gray = 0.2125 R + 0.7154 G + 0.0721 B.
_GRAY = (0.2125, 0.7154, 0.0721)


class DilatedResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(dilated conv(x))))); nothing after the sum."""

    def __init__(self, channels: int, *, spectral: bool) -> None:
        super().__init__()
        # Under spectral norm the released blocks have no bias.
        self.dilated = conv(channels, channels, 3, dilation=2, padding=0, spectral=spectral, bias=not spectral)
        self.plain = conv(channels, channels, 3, padding=0, spectral=spectral, bias=not spectral)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keeps channels and size."""
        y = F.relu(F.instance_norm(self.dilated(F.pad(x_BCHW, (2, 2, 2, 2), mode="reflect"))))
        return x_BCHW + F.instance_norm(self.plain(F.pad(y, (1, 1, 1, 1), mode="reflect")))


class EdgeConnectGenerator(nn.Module):
    """Two halvings, eight residual blocks, two doublings.

    Args:
        kind: `edge` maps [gray, edges, hole] to edges, with spectral norm (10,761,089 parameters at width 64);
            `inpaint` maps [RGB, edges] to RGB (10,774,595).
        width: Channels at full size.
        blocks: Residual blocks.
    """

    def __init__(self, kind: Literal["edge", "inpaint"], *, width: int = 64, blocks: int = 8) -> None:
        super().__init__()
        self.kind = kind
        spectral = kind == "edge"
        channels_in, channels_out = (3, 1) if kind == "edge" else (4, 3)
        self.encoder = nn.ModuleList(
            [
                conv(channels_in, width, 7, padding=0, spectral=spectral, bias=True),
                conv(width, 2 * width, 4, stride=2, padding=1, spectral=spectral, bias=True),
                conv(2 * width, 4 * width, 4, stride=2, padding=1, spectral=spectral, bias=True),
            ]
        )
        self.middle = nn.Sequential(*(DilatedResidualBlock(4 * width, spectral=spectral) for _ in range(blocks)))
        self.decoder = nn.ModuleList(
            [
                conv_transpose(4 * width, 2 * width, 4, stride=2, padding=1, spectral=spectral),
                conv_transpose(2 * width, width, 4, stride=2, padding=1, spectral=spectral),
                conv(width, channels_out, 7, padding=0, spectral=False, bias=True),
            ]
        )
        initialise(self, std=0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Returns edges or RGB in [0, 1]."""
        x = F.pad(x_BCHW, (3, 3, 3, 3), mode="reflect")
        for layer in self.encoder:
            x = F.relu(F.instance_norm(layer(x)))
        x = self.middle(x)
        for layer in self.decoder[:-1]:
            x = F.relu(F.instance_norm(layer(x)))
        y = self.decoder[-1](F.pad(x, (3, 3, 3, 3), mode="reflect"))
        return torch.sigmoid(y) if self.kind == "edge" else to_unit_range(y)


def gray_of(image_B3HW: Tensor) -> Tensor:
    """Returns gray (B, 1, H, W) of RGB."""
    weights = image_B3HW.new_tensor(_GRAY).view(1, 3, 1, 1)
    return (image_B3HW * weights).sum(1, keepdim=True)


def assemble_edge(gray_B1HW: Tensor, edges_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Builds the edge generator's input."""
    hole = 1 - mask_B1HW
    return torch.cat([gray_B1HW * mask_B1HW + hole, edges_B1HW * mask_B1HW, hole], dim=1)


def assemble_inpaint(image_B3HW: Tensor, edges_B1HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Builds the inpainting generator's input; edges are whole."""
    return torch.cat([image_B3HW * mask_B1HW + 1 - mask_B1HW, edges_B1HW], dim=1)
