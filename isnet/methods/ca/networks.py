"""Two-stage generator and critics of CA.

Pictures are in [-1, 1], mid-grey (0) in the hole; sides are multiples of 8. Critics are built for one size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.methods.ca.attention import contextual_attention


def _conv(channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation)


def _encoder(channels: tuple[int, ...]) -> list[nn.Conv2d]:
    # Six layers to a quarter of the size: the first 5×5, the second and fourth halve it.
    strides = (1, 2, 1, 2, 1, 1)
    ins = (5, *channels[:-1])
    return [_conv(ins[i], channels[i], 5 if i == 0 else 3, stride=strides[i]) for i in range(6)]


def _dilated(channels: int) -> list[nn.Conv2d]:
    return [_conv(channels, channels, dilation=dilation) for dilation in (2, 4, 8, 16)]


class _Decoder(nn.Module):
    """Seven layers back to full size; the last is linear."""

    def __init__(self, channels_in: int, width: int) -> None:
        super().__init__()
        w = width
        sizes = [(channels_in, 4 * w), (4 * w, 4 * w), (4 * w, 2 * w), (2 * w, 2 * w), (2 * w, w), (w, w // 2)]
        self.layers = nn.ModuleList([*(_conv(*size) for size in sizes), _conv(w // 2, 3)])

    def forward(self, x: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers[:-1]):
            # Twice as large before the third and the fifth layer.
            if number in (2, 4):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.elu(layer(x))
        return self.layers[-1](x).clamp(-1, 1)  # type: ignore[no-any-return]


class CoarseNetwork(nn.Module):
    """First guess; 1,448,227 parameters at width 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.layers = nn.ModuleList([*_encoder((w, 2 * w, 2 * w, 4 * w, 4 * w, 4 * w)), *_dilated(4 * w)])
        self.decoder = _Decoder(4 * w, w)

    def forward(self, x_B5HW: Tensor) -> Tensor:
        """Returns the first picture in [-1, 1]."""
        for layer in self.layers:
            x_B5HW = F.elu(layer(x_B5HW))
        return self.decoder(x_B5HW)  # type: ignore[no-any-return]


class RefineNetwork(nn.Module):
    """Second guess, from a dilated branch and one with attention.

    2,153,315 parameters at width 32.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.dilated = nn.ModuleList([*_encoder((w, w, 2 * w, 2 * w, 4 * w, 4 * w)), *_dilated(4 * w)])
        self.matching = nn.ModuleList(_encoder((w, w, 2 * w, 4 * w, 4 * w, 4 * w)))
        self.after = nn.ModuleList([_conv(4 * w, 4 * w), _conv(4 * w, 4 * w)])
        self.decoder = _Decoder(8 * w, w)

    def forward(self, x_B5HW: Tensor, hole_B1HW: Tensor) -> Tensor:
        """Returns the second picture in [-1, 1]."""
        x = x_B5HW
        for layer in self.dilated:
            x = F.elu(layer(x))
        y = x_B5HW
        for layer in self.matching[:-1]:
            y = F.elu(layer(y))
        y = F.relu(self.matching[-1](y))
        y = contextual_attention(y, hole_B1HW)
        for layer in self.after:
            y = F.elu(layer(y))
        return self.decoder(torch.cat([x, y], dim=1))  # type: ignore[no-any-return]


class CAGenerator(nn.Module):
    """Coarse network, then refinement of its hole; 3,601,542 parameters."""

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        self.coarse = CoarseNetwork(width)
        self.refine = RefineNetwork(width)

    def forward(self, damaged_B3HW: Tensor, hole_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns both pictures; `damaged_B3HW` is 0 in the hole."""
        planes = [torch.ones_like(hole_B1HW), hole_B1HW]
        first = self.coarse(torch.cat([damaged_B3HW, *planes], dim=1))
        joined = first * hole_B1HW + damaged_B3HW * (1 - hole_B1HW)
        return first, self.refine(torch.cat([joined, *planes], dim=1), hole_B1HW)


class Critic(nn.Module):
    """Four convolutions 5×5 and one number.

    2,684,289 parameters for crops of 128² whose last layer has 4·width channels, 2,733,441 for pictures of 256²; the
    authors' local critic ends in 8·width.

    Args:
        size: Side of the picture, a multiple of 16.
        width: Channels of the first layer.
        last: Channels of the last layer, in units of `width`.
    """

    def __init__(self, *, size: int, width: int = 64, last: int = 4) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, last * width]
        self.layers = nn.ModuleList(_conv(channels[i], channels[i + 1], 5, stride=2) for i in range(4))
        self.linear = nn.Linear(channels[-1] * (size // 16) ** 2, 1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """Returns the critic's value (B, 1)."""
        for layer in self.layers:
            image_B3HW = F.leaky_relu(layer(image_B3HW), 0.2)
        return self.linear(image_B3HW.flatten(1))  # type: ignore[no-any-return]
