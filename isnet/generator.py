"""Base class of all generators: options and input checks.

Tensors carry their shape in their name: B batch, C channels, H height, W width. `image_B3HW` is RGB in [0, 1] and
`mask_B1HW` the paper's M, 1 on valid pixels and 0 in the hole.
Not covered: the layers (network.py, unet_like.py) and pictures of other sizes (inpaint.py pads and crops).
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from isnet.coarse_fill import harmonic_fill
from isnet.errors import InputError
from isnet.layers import ActivationName, num_parameters

GENERATORS = ("isnet", "base", "base_ff", "unet_like")
# Those whose sides are multiples of 16.
COARSE_GENERATORS = ("isnet", "base_ff")
SpectralNorm = Literal["released", "all", "none"]
Coarse = Literal["none", "harmonic"]
Init = Literal["normal", "kaiming"]

# Far beyond any use. A wrong number in a file or a setting becomes an error before it takes all memory.
MAX_BLOCKS = 64
MAX_WIDTH = 1024
MAX_DILATION = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """Options that decide a generator's layers, saved beside its weights.

    Attributes:
        name: isnet; base and base_ff (the paper's Table 1); unet_like.
        blocks: Residual blocks per stage and branch (Table 2: 1 to 4).
        width: Channels of the full-resolution branch; all others scale with it.
        in_channels: 3 for the picture with black holes; 4 adds the mask, so that a black pixel is not taken for a hole.
        activation: tanh or leaky_relu; None takes the released code's (tanh; leaky_relu in base and base_ff).
        dilation: Of the first convolution of a residual block in the low-resolution branch.
        spectral_norm: released = where the released code has it; all = on every convolution (the paper's text); none.
        skips: unet_like with skip connections, which the released one lacks.
        prune: base without the 45 % of its weights that never get a gradient.
        init_std: Standard deviation of fresh weights; see `layers.initialise`.
        init: normal = N(0, init_std); kaiming = N(0, 2 / inputs of the layer), for networks without spectral norm.
        coarse: harmonic = the network gets the smoothly filled picture and adds to it, inside the hole alone; a fresh
            network adds nothing. Not in the paper. none = the paper's.
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
    init: Init = "normal"
    coarse: Coarse = "none"

    def __post_init__(self) -> None:
        for valid, option, need in self._checks():
            if not valid:
                raise InputError(f"architecture option {option} is {getattr(self, option)!r}; need {need}")

    def _checks(self) -> Iterator[tuple[bool, str, str]]:
        # A generator: a later check may rely on the types that an earlier one made sure of.
        yield self.name in GENERATORS, "name", f"one of {', '.join(GENERATORS)}"
        yield is_count(self.blocks, MAX_BLOCKS), "blocks", f"a whole number, 1 to {MAX_BLOCKS} (paper: 1 to 4)"
        yield is_count(self.width, MAX_WIDTH), "width", f"a whole number, 1 to {MAX_WIDTH} (paper: 32)"
        channels = is_count(self.in_channels, 4) and self.in_channels >= 3
        yield channels, "in_channels", "3 (picture) or 4 (picture and mask)"
        yield self.activation in (None, "tanh", "leaky_relu"), "activation", "'tanh' or 'leaky_relu'"
        dilation = f"a whole number, 1 to {MAX_DILATION} (the paper's code: 2)"
        yield is_count(self.dilation, MAX_DILATION), "dilation", dilation
        norms = ("released", "all", "none")
        yield self.spectral_norm in norms, "spectral_norm", "'released', 'all' or 'none'"
        yield isinstance(self.skips, bool), "skips", "True or False"
        yield isinstance(self.prune, bool), "prune", "True or False"
        yield not self.skips or self.name == "unet_like", "skips", "False unless name is unet_like"
        yield not self.prune or self.name == "base", "prune", "False unless name is base"
        yield is_positive(self.init_std), "init_std", "a positive number (the paper's code: 0.001)"
        yield self.init in ("normal", "kaiming"), "init", "'normal' or 'kaiming'"
        yield self.coarse in ("none", "harmonic"), "coarse", "'none' or 'harmonic'"
        # The fill halves a picture four times, and a head under spectral norm cannot begin at zero.
        plain = self.name in COARSE_GENERATORS and self.spectral_norm == "none"
        yield self.coarse == "none" or plain, "coarse", "'none' unless name is isnet or base_ff, spectral_norm 'none'"

    @property
    def resolved_activation(self) -> ActivationName:
        """The activation in force where the option is None."""
        if self.activation is not None:
            return self.activation
        # The paper names none. The released ablation networks kept LeakyReLU when ISNet changed to Tanh.
        return "leaky_relu" if self.name in ("base", "base_ff") else "tanh"

    def to_dict(self) -> dict[str, Any]:
        """Options by name, as they are stored beside the weights."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Architecture:
        """Inverse of `to_dict`; an unknown option is an `InputError`."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not set(options) <= names or "name" not in options:
            raise InputError(
                f"architecture has the options {sorted(options)}; need 'name' and any of {sorted(names)}; "
                "was it written by another version of isnet?"
            )
        return cls(**options)


class Generator(nn.Module):
    """Network from (image_B3HW, mask_B1HW) to a picture in [0, 1]."""

    def __init__(self, architecture: Architecture, *, size_multiple: int, minimum_size: int) -> None:
        super().__init__()
        self.architecture = architecture
        # Height and width must be multiples of the one and not below the other.
        self.size_multiple = size_multiple
        self.minimum_size = minimum_size

    @abstractmethod
    def repair(self, damaged_BCHW: Tensor) -> Tensor:
        """Runs the layers on a picture, C = in_channels.

        The damaged one, or with `coarse` the filled one.
        """

    def forward(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Predicts the whole picture (Eq. 1), in at least float32.

        Pixels inside the hole do not matter unless they are NaN. Raises InputError where shapes or sizes do not fit.
        """
        # An exported program has its own rule for sizes; the check would only add guards to it.
        if not torch.compiler.is_exporting():
            self._check(image_B3HW, mask_B1HW)
        # Eq. 1: I_pred = G(I_gt ⊙ M).
        damaged_B3HW = image_B3HW * mask_B1HW
        mask_B1HW = mask_B1HW.to(damaged_B3HW.dtype)
        if self.architecture.coarse == "none":
            return self.repair(self._with_mask(damaged_B3HW, mask_B1HW))
        # The network's answer, -1 to 1, is added to the smooth fill inside the hole.
        filled_B3HW = harmonic_fill(damaged_B3HW, mask_B1HW)
        given_BCHW = self._with_mask(filled_B3HW, mask_B1HW)
        # The fill loses the memory order that makes convolutions a third faster.
        if image_B3HW.is_contiguous(memory_format=torch.channels_last):
            given_BCHW = given_BCHW.contiguous(memory_format=torch.channels_last)
        residual_B3HW = 2 * self.repair(given_BCHW) - 1
        return (filled_B3HW + residual_B3HW * (1 - mask_B1HW)).clamp(0, 1)

    def _with_mask(self, picture_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        # ISNET.md §8 row 16: with the mask as fourth channel, black pixels and holes differ.
        return torch.cat([picture_B3HW, mask_B1HW], dim=1) if self.architecture.in_channels == 4 else picture_B3HW

    def num_parameters(self) -> int:
        """Number of trainable values, as the paper's tables count."""
        # The paper prints it divided by 2^20 as "M".
        return num_parameters(self)

    def num_live_parameters(self) -> int:
        """Number of values with a gradient; smaller only in `base`."""
        return num_parameters(self)

    def _check(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> None:
        image, mask = tuple(image_B3HW.shape), tuple(mask_B1HW.shape)
        if len(image) != 4 or image[1] != 3 or mask != (image[0], 1, *image[2:]):
            raise InputError(
                f"image has shape {image} and mask {mask}; need (B, 3, H, W) and (B, 1, H, W) with equal B, H, W"
            )
        if not image_B3HW.is_floating_point():
            raise InputError(f"image is {image_B3HW.dtype}; need a floating type in [0, 1]; divide bytes by 255")
        # Other sizes would fail in the concatenations, or give a silently smaller picture (unet_like).
        height, width = image[2:]
        if height % self.size_multiple or width % self.size_multiple or min(height, width) < self.minimum_size:
            raise InputError(
                f"picture is {height}×{width} pixels; {self.architecture.name} needs both sides to be multiples of "
                f"{self.size_multiple}, at least {self.minimum_size}; pad it, or let isnet.inpaint pad and crop"
            )


def is_count(value: object, maximum: int) -> bool:
    """True for a whole number from 1 to `maximum`."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= maximum


def is_positive(value: object) -> bool:
    """True for a positive, finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
