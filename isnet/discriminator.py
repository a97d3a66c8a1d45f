"""The patch discriminator, EdgeConnect's: five convolutions, a logit for each 70×70 patch.

Not covered: what it is shown and how its answers become losses (losses.py, gan.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from isnet.errors import InputError
from isnet.generator import MOST_WIDTH, is_count, is_positive
from isnet.layers import Activation, conv, initialise, num_parameters

MINIMUM_SIZE = 24


class Discriminator(nn.Module):
    """Five conv 4×4 (3 -> 64 -> 128 -> 256 -> 512 -> 1; strides 2, 2, 2, 1, 1), LeakyReLU(0.2) after the first four.

    width    -- channels of the first convolution; the others scale with it
    spectral -- spectral norm on every convolution, as the released code has it
    init_std -- standard deviation of fresh weights
    """

    def __init__(self, *, width: int = 64, spectral: bool = True, init_std: float = 0.001) -> None:
        super().__init__()
        if not is_count(width, MOST_WIDTH):
            raise InputError(f"discriminator width is {width!r}; need a whole number, 1 to {MOST_WIDTH} (paper: 64)")
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
        """With the options of the constructor by name; an unknown one is an `InputError`."""
        known = {"width", "spectral", "init_std"}
        if unknown := sorted(set(options) - known):
            raise InputError(f"discriminator has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**options)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """The five maps, finest first: four after their activation, then the raw logits (B, 1, H/8 - 2, W/8 - 2)."""
        if image_B3HW.ndim != 4 or image_B3HW.shape[1] != 3 or min(image_B3HW.shape[2:]) < MINIMUM_SIZE:
            raise InputError(
                f"discriminator got shape {tuple(image_B3HW.shape)}; need (B, 3, H, W) with sides from {MINIMUM_SIZE}; "
                "train on larger crops"
            )
        maps = []
        x = image_B3HW
        for layer in self.convs[:-1]:
            x = self.activation(layer(x))
            maps.append(x)
        return [*maps, self.convs[-1](x)]

    def num_parameters(self) -> int:
        return num_parameters(self)
