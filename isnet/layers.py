"""Layers of all networks: convolution, activation, residual block, initialisation.

Not covered: how they are put together (network.py, unet_like.py, discriminator.py).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.inference.fast_conv import PackedConv2d
from isnet.spectral_norm import SpectralConv2d, SpectralConvTranspose2d, spectral_layers
from isnet.training.step_weights import power_iteration

ActivationName = Literal["tanh", "leaky_relu"]
LEAKY_SLOPE = 0.2

# The number of torch's own parametrisation. Without them σ of a fresh network is the quadratic form of two random
# vectors, which can be near zero, and its output means nothing.
WARM_UP_ITERATIONS = 15


class Activation(nn.Module):
    """Tanh or LeakyReLU(0.2), written over its input.

    Safe after a convolution or a sum, whose backward passes do not read their own output; saves an allocation each.
    """

    def __init__(self, name: ActivationName) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Computes σ(x) in place."""
        if self.name == "tanh":
            return torch.tanh_(x)
        return F.leaky_relu_(x, LEAKY_SLOPE)

    def of(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Computes σ(conv(x)), in one call where the convolution can."""
        if isinstance(conv, PackedConv2d):
            return conv.activated(x, self.name, [LEAKY_SLOPE] if self.name == "leaky_relu" else [])
        return self(conv(x))  # type: ignore[no-any-return]

    def of_sum(self, conv: nn.Module, x: Tensor, addend: Tensor) -> Tensor:
        """Computes σ(conv(x) + addend)."""
        if isinstance(conv, PackedConv2d):
            return self(conv.added(x, addend))  # type: ignore[no-any-return]
        return self(conv(x).add_(addend))  # type: ignore[no-any-return]

    def of_shuffled(self, conv: nn.Module, x: Tensor) -> Tensor:
        """Computes σ(pixel_shuffle(conv(x), 2))."""
        if isinstance(conv, PackedConv2d):
            return F.pixel_shuffle(self.of(conv, x), 2)
        # σ after the shuffle, which copies: backward then keeps one tensor, not two.
        return self(F.pixel_shuffle(conv(x), 2))  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        """Name of the activation, for printing."""
        return self.name


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int,
    *,
    spectral: bool,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    bias: bool = False,
) -> nn.Conv2d:
    """Builds a convolution, zero padded by dilation·(kernel-1)/2 by default."""
    if padding is None:
        padding = dilation * (kernel - 1) // 2
    layer = SpectralConv2d if spectral else nn.Conv2d
    return layer(channels_in, channels_out, kernel, stride=stride, padding=padding, dilation=dilation, bias=bias)


def conv_transpose(
    channels_in: int, channels_out: int, kernel: int, *, spectral: bool, stride: int, padding: int
) -> nn.ConvTranspose2d:
    """Builds a transposed convolution with bias."""
    layer = SpectralConvTranspose2d if spectral else nn.ConvTranspose2d
    return layer(channels_in, channels_out, kernel, stride=stride, padding=padding)


class ResidualBlock(nn.Module):
    """Residual block (the paper's reference [11]); channels and size unchanged."""

    def __init__(
        self, channels: int, *, dilation: int, activation: ActivationName, spectral: bool, bias: bool = False
    ) -> None:
        super().__init__()
        self.dilated = conv(channels, channels, 3, dilation=dilation, spectral=spectral, bias=bias)
        self.plain = conv(channels, channels, 3, spectral=spectral, bias=bias)
        self.activation = Activation(activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Computes σ(x + conv3×3(σ(conv3×3_dilated(x))))."""
        return self.activation.of_sum(self.plain, self.activation.of(self.dilated, x_BCHW), x_BCHW)


def to_unit_range(y_B3HW: Tensor) -> Tensor:
    """Computes (tanh(y) + 1) / 2 in at least float32."""
    # In bfloat16 the upper half of [0, 1] would have 128 levels.
    if y_B3HW.dtype in (torch.bfloat16, torch.float16):
        y_B3HW = y_B3HW.float()
    return torch.tanh(y_B3HW).add(1).mul_(0.5)


@torch.no_grad()
def initialise(network: nn.Module, *, std: float, init: Literal["normal", "kaiming"] = "normal") -> None:
    """Draws weights from N(0, std) and sets biases to 0.

    As the released code does, from torch's global generator. Under spectral norm `std` does not change the function but
    sets the effective learning rate: with the paper's 0.001 and rate 1e-4 the first Adam step moves a raw weight by a
    tenth of itself. With `init` kaiming each layer has its own deviation, √(2 / number of inputs) [He et al. 2015].
    """
    # The meta device has no values. Drawing "normal" ones there would import torch's compiler, for seconds.
    if any(p.is_meta for p in network.parameters()):
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            inputs = module.weight[0].numel()
            module.weight.normal_(0.0, std if init == "normal" else math.sqrt(2 / inputs))
            if module.bias is not None:
                module.bias.zero_()
    # Random u and v, then brought near the singular vectors.
    for layer in spectral_layers(network):
        layer.randomise_vectors()
    power_iteration(network, times=WARM_UP_ITERATIONS)


def num_parameters(network: nn.Module) -> int:
    """Number of trainable values: raw weights and biases."""
    return sum(p.numel() for p in network.parameters())
