"""Patch discriminator of EdgeConnect: one logit per 70×70 patch.

Not covered: its inputs and the losses of its logits (losses.py, gan.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from isnet.errors import InputError
from isnet.generator import MAX_WIDTH, is_count, is_positive
from isnet.layers import Activation, conv, initialise, num_parameters

# Below it the last convolution has no output.
MINIMUM_SIZE = 24


class Discriminator(nn.Module):
    """Five convolutions 4×4, LeakyReLU(0.2) after the first four.

    Channels 3 -> 64 -> 128 -> 256 -> 512 -> 1, strides 2, 2, 2, 1, 1; 2,763,776 parameters. All scale with `width`.
    As in the released code, spectral norm is on every convolution.
    """

    def __init__(self, *, width: int = 64, spectral: bool = True, init_std: float = 0.001) -> None:
        super().__init__()
        if not is_count(width, MAX_WIDTH):
            raise InputError(f"discriminator width is {width!r}; need a whole number, 1 to {MAX_WIDTH} (paper: 64)")
        if not isinstance(spectral, bool):
            raise InputError(f"discriminator spectral is {spectral!r}; need True or False")
        if not is_positive(init_std):
            raise InputError(f"discriminator init_std is {init_std!r}; need a positive number (paper: 0.001)")
        self.width = width
        self.spectral = spectral
        channels = [3, width, 2 * width, 4 * width, 8 * width, 1]
        self.convs = nn.ModuleList(
            conv(channels[i], channels[i + 1], 4, stride=2 if i < 3 else 1, padding=1, spectral=spectral)
            for i in range(5)
        )
        self.activation = Activation("leaky_relu")
        initialise(self, std=init_std)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Discriminator:
        """Builds it from options; an unknown one is an `InputError`."""
        names = {"width", "spectral", "init_std"}
        if unknown := sorted(set(options) - names):
            raise InputError(f"discriminator has no option {', '.join(unknown)}; it has {', '.join(sorted(names))}")
        return cls(**options)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """Returns the five maps, finest first, logits last."""
        if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3 or min(image_B3HW.shape[2:]) < MINIMUM_SIZE:
            raise InputError(
                f"discriminator got shape {tuple(image_B3HW.shape)}; need (B, 3, H, W) with sides from {MINIMUM_SIZE}; "
                "train on larger crops"
            )
        # Maps for feature matching, after their activation.
        maps = []
        x = image_B3HW
        for layer in self.convs[:-1]:
            x = self.activation(layer(x))
            maps.append(x)
        # Raw logits, (B, 1, H/8 - 2, W/8 - 2); the losses take them without a sigmoid, which could overflow.
        return [*maps, self.convs[-1](x)]

    def num_parameters(self) -> int:
        """Number of trainable values."""
        return num_parameters(self)
