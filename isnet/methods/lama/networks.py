"""Generator and discriminator of LaMa.

Pictures are in [0, 1], black (0) in the hole; sides are multiples of 8, at least 16.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.methods.lama.fourier import FourierConv


class FourierBlock(nn.Module):
    """Two Fourier convolutions and the sum with the input."""

    def __init__(self, local: int, far: int) -> None:
        super().__init__()
        self.first = FourierConv((local, local), (far, far))
        self.second = FourierConv((local, local), (far, far))

    def forward(self, local: Tensor, far: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps channels and size; nothing after the sum."""
        near, wide = self.second(*self.first(local, far))
        assert wide is not None
        return local + near, far + wide


class LamaGenerator(nn.Module):
    """Three halvings, Fourier blocks, three doublings.

    Args:
        blocks: 9 (27,048,835 parameters at width 64), or 18 for the big model (50,975,875).
        width: Channels at full size; 8 times as many in the middle, three quarters of them global.
    """

    def __init__(self, *, blocks: int = 9, width: int = 64) -> None:
        super().__init__()
        w = width
        local, far = 2 * w, 6 * w
        self.stem = FourierConv((4, w), kernel=7, padding=0)
        self.down = nn.ModuleList(
            [
                FourierConv((w, 2 * w), stride=2),
                FourierConv((2 * w, 4 * w), stride=2),
                FourierConv((4 * w, local), (0, far), stride=2),
            ]
        )
        self.middle = nn.ModuleList(FourierBlock(local, far) for _ in range(blocks))
        self.up = nn.ModuleList()
        for channels in (8 * w, 4 * w, 2 * w):
            conv = nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
            self.up.append(nn.Sequential(conv, nn.BatchNorm2d(channels // 2), nn.ReLU()))
        self.head = nn.Conv2d(w, 3, 7)

    def forward(self, x_B4HW: Tensor) -> Tensor:
        """Maps [damaged picture, hole] to a picture in [0, 1]."""
        local, far = self.stem(F.pad(x_B4HW, (3, 3, 3, 3), mode="reflect"), None)
        for layer in (*self.down, *self.middle):
            local, far = layer(local, far)
        x = torch.cat([local, far], dim=1)
        for layer in self.up:
            x = layer(x)
        return torch.sigmoid(self.head(F.pad(x, (3, 3, 3, 3), mode="reflect")))


class LamaDiscriminator(nn.Module):
    """Six convolutions 4×4, padding 2; 6,962,369 parameters at width 64."""

    def __init__(self, *, width: int = 64) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.layers = nn.ModuleList()
        for i in range(5):
            conv = nn.Conv2d(channels[i], channels[i + 1], 4, stride=2 if i < 4 else 1, padding=2)
            norm = [nn.BatchNorm2d(channels[i + 1])] if i else []
            self.layers.append(nn.Sequential(conv, *norm, nn.LeakyReLU(0.2)))
        self.last = nn.Conv2d(8 * width, 1, 4, padding=2)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Returns the logits, and the five maps for feature matching."""
        maps = []
        for layer in self.layers:
            image_B3HW = layer(image_B3HW)
            maps.append(image_B3HW)
        return self.last(image_B3HW), maps


def assemble(image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """Builds the input from a picture in [0, 1]."""
    return torch.cat([image_B3HW * mask_B1HW, 1 - mask_B1HW], dim=1)
