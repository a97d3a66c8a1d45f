"""Patch discriminator that EdgeConnect, AOT-GAN and ISNet share."""

from __future__ import annotations

from torch import Tensor, nn

from isnet.layers import Activation, conv, initialise

MINIMUM_SIZE = 24
"""Below it the last convolution has no output."""


class PatchDiscriminator(nn.Module):
    """Five convolutions 4×4, LeakyReLU(0.2) after the first four.

    Strides 2, 2, 2, 1, 1, padding 1, no bias.

    Args:
        channels_in: 2 for gray and edges, 3 for RGB.
        width: Channels of the first layer; the others are 2, 4 and 8 times as many.
        plain_last: The last convolution has a bias and no spectral norm (AOT-GAN).
    """

    def __init__(self, channels_in: int = 3, *, width: int = 64, plain_last: bool = False) -> None:
        super().__init__()
        channels = [channels_in, width, 2 * width, 4 * width, 8 * width]
        self.convs = nn.ModuleList(
            conv(channels[i], channels[i + 1], 4, stride=2 if i < 3 else 1, padding=1, spectral=True) for i in range(4)
        )
        self.convs.append(conv(8 * width, 1, 4, padding=1, spectral=not plain_last, bias=plain_last))
        self.activation = Activation("leaky_relu")
        initialise(self, std=0.02)

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Returns the five maps, finest first, logits last."""
        maps = []
        for layer in self.convs[:-1]:
            x_BCHW = self.activation(layer(x_BCHW))
            maps.append(x_BCHW)
        return [*maps, self.convs[-1](x_BCHW)]
