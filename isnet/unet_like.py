"""UNet-like, the paper's third comparison network (Table 1).

EdgeConnect's encoder and decoder around dilated residual blocks: instance norm, biases, no spectral norm and, despite
its name, no skip connections unless asked for (ISNET.md §8 row 15). Not covered: the two-branch networks (network.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.generator import Architecture, Generator
from isnet.layers import ResidualBlock, conv, conv_transpose, initialise, to_unit_range

NUM_HALVINGS = 3
# Half of the 7×7 kernels of the first and the last convolution.
RIM = 3


class UNetLike(Generator):
    """Encoder, residual blocks, decoder; 24,403,715 parameters."""

    def __init__(self, architecture: Architecture) -> None:
        # conv 7×7 -> 64, three times conv 4×4 /2 to 512, residual blocks, three transposed convolutions, conv 7×7 -> 3.
        # A side that is no multiple of 8 would give a silently smaller picture (250 -> 248).
        super().__init__(architecture, size_multiple=2**NUM_HALVINGS, minimum_size=16)
        spectral = architecture.spectral_norm == "all"
        widths = [2 * architecture.width * 2**level for level in range(NUM_HALVINGS + 1)]
        self.first = conv(architecture.in_channels, widths[0], 7, padding=0, spectral=spectral, bias=True)
        self.down = nn.ModuleList(
            conv(widths[level], widths[level + 1], 4, stride=2, padding=1, spectral=spectral, bias=True)
            for level in range(NUM_HALVINGS)
        )
        self.middle = nn.Sequential(
            *[
                ResidualBlock(
                    widths[-1],
                    dilation=architecture.dilation,
                    activation=architecture.resolved_activation,
                    spectral=spectral,
                    bias=True,
                )
                for _ in range(architecture.blocks)
            ]
        )
        # With skips, every level but the deepest gets the encoder's maps of its size beside its own.
        inputs = 2 if architecture.skips else 1
        self.up = nn.ModuleList(
            conv_transpose(
                widths[level + 1] * (inputs if level + 1 < NUM_HALVINGS else 1),
                widths[level],
                4,
                stride=2,
                padding=1,
                spectral=spectral,
            )
            for level in reversed(range(NUM_HALVINGS))
        )
        self.last = conv(widths[0] * inputs, 3, 7, padding=0, spectral=spectral, bias=True)
        initialise(self, std=architecture.init_std, init=architecture.init)

    def repair(self, damaged_BCHW: Tensor) -> Tensor:
        """Runs encoder, residual blocks and decoder; RGB in [0, 1]."""
        # Encoder; its maps are stacked for the skips.
        x = _norm_relu(self.first(F.pad(damaged_BCHW, [RIM] * 4, mode="reflect")))
        encoded = []
        for down in self.down:
            encoded.append(x)
            x = _norm_relu(down(x))
        x = self.middle(x)
        # Decoder, deepest level first.
        for up in self.up:
            x = _norm_relu(up(x))
            if self.architecture.skips:
                x = torch.cat([x, encoded.pop()], dim=1)
        return to_unit_range(self.last(F.pad(x, [RIM] * 4, mode="reflect")))


def _norm_relu(x: Tensor) -> Tensor:
    # Instance norm without affine parameters and running statistics, as in the released code.
    return F.relu_(F.instance_norm(x, eps=1e-5))
