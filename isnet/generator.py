"""What a generator is, whichever it is: its options, its call, and the sizes it takes.

Tensors carry their shape in their name: B batch, C channels, H height, W width; `image_B3HW` is RGB in [0, 1] and
`mask_B1HW` the paper's M, 1 on valid pixels and 0 in the hole.
Not covered: the layers (network.py, unet_like.py) and pictures of other sizes (inpaint.py pads and crops).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isnet.errors import InputError
from isnet.layers import ActivationName, num_parameters

GENERATORS = ("isnet", "base", "base_ff", "unet_like")
SpectralNorm = Literal["released", "all", "none"]

# Far beyond any use, and small enough that a wrong number in a file or a setting is an error and not all memory.
MOST_BLOCKS = 64
MOST_WIDTH = 1024
MOST_DILATION = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides which layers a generator has; saved beside its weights.

    name          -- isnet; base and base_ff (the paper's Table 1); unet_like
    blocks        -- residual blocks per stage and branch (Table 2: 1 to 4)
    width         -- channels of the full-resolution branch; all others scale with it
    in_channels   -- 3: the picture with black holes; 4: the mask beside it, so that black is not a hole
    activation    -- tanh or leaky_relu; None takes the released code's (tanh; leaky_relu in base and base_ff)
    dilation      -- of the first convolution of a residual block in the low-resolution branch
    spectral_norm -- released: where the released code has it; all: on every convolution (the paper's text); none
    skips         -- unet_like with skip connections, which the released one lacks
    prune         -- base without the 45 % of its weights that never get a gradient
    init_std      -- standard deviation of fresh weights; see `layers.initialise`
    """

    name: str
    blocks: int = 4
    width: int = 32
    in_channels: int = 3
    activation: ActivationName | None = None
    dilation: int = 2
    spectral_norm: SpectralNorm = "released"
    skips: bool = False
    prune: bool = False
    init_std: float = 0.001

    def __post_init__(self) -> None:
        _need(self.name in GENERATORS, "name", self.name, f"one of {', '.join(GENERATORS)}")
        _need(
            is_count(self.blocks, MOST_BLOCKS),
            "blocks",
            self.blocks,
            f"a whole number, 1 to {MOST_BLOCKS} (paper: 1 to 4)",
        )
        _need(is_count(self.width, MOST_WIDTH), "width", self.width, f"a whole number, 1 to {MOST_WIDTH} (paper: 32)")
        channels = is_count(self.in_channels, 4) and self.in_channels >= 3
        _need(channels, "in_channels", self.in_channels, "3 (picture) or 4 (picture and mask)")
        _need(self.activation in (None, "tanh", "leaky_relu"), "activation", self.activation, "'tanh' or 'leaky_relu'")
        dilation = is_count(self.dilation, MOST_DILATION)
        _need(dilation, "dilation", self.dilation, f"a whole number, 1 to {MOST_DILATION} (the paper's code: 2)")
        _need(
            self.spectral_norm in ("released", "all", "none"),
            "spectral_norm",
            self.spectral_norm,
            "'released', 'all' or 'none'",
        )
        _need(isinstance(self.skips, bool), "skips", self.skips, "True or False")
        _need(isinstance(self.prune, bool), "prune", self.prune, "True or False")
        _need(not self.skips or self.name == "unet_like", "skips", self.skips, "False unless name is unet_like")
        _need(not self.prune or self.name == "base", "prune", self.prune, "False unless name is base")
        _need(is_positive(self.init_std), "init_std", self.init_std, "a positive number (the paper's code: 0.001)")

    @property
    def resolved_activation(self) -> ActivationName:
        """The activation in force where the option is None."""
        if self.activation is not None:
            return self.activation
        return "leaky_relu" if self.name in ("base", "base_ff") else "tanh"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Architecture:
        """The inverse of `to_dict`; an option this version does not know is an `InputError`."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown or "name" not in options:
            raise InputError(
                f"architecture has the options {sorted(options)}; need 'name' and any of {sorted(known)}; "
                "was it written by another version of isnet?"
            )
        return cls(**options)


class Generator(nn.Module):
    """Maps (image_B3HW, mask_B1HW) to a whole predicted picture in [0, 1], at least float32.

    size_multiple -- height and width must be multiples of it
    minimum_size  -- and no smaller than this
    """

    def __init__(self, architecture: Architecture, *, size_multiple: int, minimum_size: int) -> None:
        super().__init__()
        self.architecture = architecture
        self.size_multiple = size_multiple
        self.minimum_size = minimum_size

    @abstractmethod
    def repair(self, damaged_BCHW: Tensor) -> Tensor:
        """The network proper, C = in_channels."""

    def forward(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Eq. 1, I_pred = G(I_gt ⊙ M). What the hole holds in `image_B3HW` does not matter unless it is NaN.

        Raises InputError when shapes or sizes do not fit.
        """
        # An exported program fixes its own rule for sizes, so the check would only add guards to it.
        if not torch.compiler.is_exporting():
            self._check(image_B3HW, mask_B1HW)
        damaged_B3HW = image_B3HW * mask_B1HW
        if self.architecture.in_channels == 4:
            return self.repair(torch.cat([damaged_B3HW, mask_B1HW.to(damaged_B3HW.dtype)], dim=1))
        return self.repair(damaged_B3HW)

    def num_parameters(self) -> int:
        """All trainable numbers, as the paper's tables count them (it prints them divided by 2^20 as "M")."""
        return num_parameters(self)

    def num_live_parameters(self) -> int:
        """Those that ever get a gradient; smaller in `base` alone."""
        return num_parameters(self)

    def _check(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> None:
        image, mask = tuple(image_B3HW.shape), tuple(mask_B1HW.shape)
        if len(image) != 4 or image[1] != 3 or mask != (image[0], 1, *image[2:]):
            raise InputError(
                f"image has shape {image} and mask {mask}; need (B, 3, H, W) and (B, 1, H, W) with equal B, H, W"
            )
        if not image_B3HW.is_floating_point():
            raise InputError(f"image is {image_B3HW.dtype}; need a floating type in [0, 1]; divide bytes by 255")
        height, width = image[2:]
        if height % self.size_multiple or width % self.size_multiple or min(height, width) < self.minimum_size:
            raise InputError(
                f"picture is {height}×{width} pixels; {self.architecture.name} needs both sides to be multiples of "
                f"{self.size_multiple}, at least {self.minimum_size}; pad it, or let isnet.inpaint pad and crop"
            )


def is_count(value: object, most: int) -> bool:
    """Whether an option is a whole number from 1 to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_positive(value: object) -> bool:
    """Whether an option is a positive, finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _need(met: bool, option: str, got: object, need: str) -> None:
    if not met:
        raise InputError(f"architecture option {option} is {got!r}; need {need}")
