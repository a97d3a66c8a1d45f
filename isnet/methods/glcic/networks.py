"""Completion network and context discriminator of GLCIC.

Pictures are in [0, 1]; the hole holds the mean colour of the training pictures. The network takes sides that are
multiples of 4; the discriminator is built for one size of picture and of crop.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Order = Literal["relu_norm", "norm_relu"]
"""Order behind a convolution: ReLU, then BatchNorm (released weights), or the other way round (the paper)."""


def _layer(conv: nn.Module, channels: int, order: Order) -> nn.Sequential:
    norm = nn.BatchNorm2d(channels)
    return nn.Sequential(conv, nn.ReLU(), norm) if order == "relu_norm" else nn.Sequential(conv, norm, nn.ReLU())


class CompletionNetwork(nn.Module):
    """Seventeen layers, four dilated; 6,072,131 parameters at width 64."""

    def __init__(self, *, width: int = 64, order: Order = "relu_norm") -> None:
        super().__init__()
        w = width
        # (in, out, kernel, stride, dilation); a kernel of 4 is a transposed convolution.
        layers = [
            (4, w, 5, 1, 1),
            (w, 2 * w, 3, 2, 1),
            (2 * w, 2 * w, 3, 1, 1),
            (2 * w, 4 * w, 3, 2, 1),
            *[(4 * w, 4 * w, 3, 1, dilation) for dilation in (1, 1, 2, 4, 8, 16, 1, 1)],
            (4 * w, 2 * w, 4, 2, 1),
            (2 * w, 2 * w, 3, 1, 1),
            (2 * w, w, 4, 2, 1),
            (w, w // 2, 3, 1, 1),
        ]
        self.layers = nn.ModuleList()
        for channels_in, channels_out, kernel, stride, dilation in layers:
            if kernel == 4:
                conv: nn.Module = nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)
            else:
                padding = dilation * (kernel - 1) // 2
                conv = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation)
            self.layers.append(_layer(conv, channels_out, order))
        self.last = nn.Conv2d(w // 2, 3, 3, padding=1)

    def forward(self, x_B4HW: Tensor) -> Tensor:
        """Maps [picture with a filled hole, hole] to [0, 1]."""
        x = x_B4HW
        for layer in self.layers:
            x = layer(x)
        return torch.sigmoid(self.last(x))


class _Encoder(nn.Module):
    """Halving convolutions 5×5, and a vector of 16·width."""

    def __init__(self, channels: list[int], *, size: int, order: Order) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _layer(nn.Conv2d(a, b, 5, stride=2, padding=2), b, order) for a, b in itertools.pairwise(channels)
        )
        cells = (size >> len(self.layers)) ** 2
        self.linear = nn.Linear(channels[-1] * cells, 16 * channels[1])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return F.relu(self.linear(x.flatten(1)))


class ContextDiscriminator(nn.Module):
    """Judges a whole picture and a crop around its hole.

    39,557,121 parameters for 160² and crops of 96², 45,063,681 for 256² and 128² (which halves the picture once more).

    Args:
        size: Side of the picture: 160, or 256 and more.
        crop: Side of the crop, a multiple of 32.
        width: Channels of the first layer.
        order: As in the completion network.
    """

    def __init__(self, *, size: int = 160, crop: int = 96, width: int = 64, order: Order = "relu_norm") -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.local = _Encoder(channels, size=crop, order=order)
        deeper = [*channels, 8 * width] if size >= 256 else channels
        self.whole = _Encoder(deeper, size=size, order=order)
        self.last = nn.Linear(32 * width, 1)

    def forward(self, image_B3HW: Tensor, crop_B3hw: Tensor) -> Tensor:
        """Returns the probability (B, 1) that a picture is real."""
        return torch.sigmoid(self.logits(image_B3HW, crop_B3hw))

    def logits(self, image_B3HW: Tensor, crop_B3hw: Tensor) -> Tensor:
        """Returns the logit (B, 1) of that probability, for losses."""
        return self.last(torch.cat(self.features(image_B3HW, crop_B3hw), dim=1))  # type: ignore[no-any-return]

    def features(self, image_B3HW: Tensor, crop_B3hw: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the vectors of crop and picture, (B, 16·width) each."""
        return self.local(crop_B3hw), self.whole(image_B3HW)


def assemble(image_B3HW: Tensor, mask_B1HW: Tensor, mean_color_3: Tensor) -> Tensor:
    """Builds the input from a picture in [0, 1]."""
    hole = 1 - mask_B1HW
    return torch.cat([image_B3HW * mask_B1HW + mean_color_3.view(1, 3, 1, 1) * hole, hole], dim=1)
