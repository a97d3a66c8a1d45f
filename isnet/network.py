"""ISNet and the two networks its paper compares it with (Table 1): BaseModel and BaseModel+FF.

Two branches run side by side: Hi keeps full resolution and its 32 channels, Lo halves its size and doubles its channels
at each of four stages. A stage is Inpainting (residual blocks), Interaction (each branch gets the other's maps at its
own size) and Aggregation (one convolution per branch), as in Figures 1 and 2; Final Fusion makes the picture of both.
Channel numbers below are for the paper's `width` of 32. Not covered: UNet-like (unet_like.py), training (gan.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isnet.generator import Architecture, Generator
from isnet.layers import (
    LEAKY_SLOPE,
    Activation,
    ActivationName,
    ResidualBlock,
    conv,
    initialise,
    num_parameters,
    to_unit_range,
)

NUM_STAGES = 4


@dataclass(frozen=True)
class Style:
    """What all layers of a network have in common.

    spectral   -- spectral norm wherever the released code has it
    everywhere -- and in the stem's shortcut and the heads, which the released code leaves out against §2.2 of the paper
    dilation   -- in the residual blocks of Lo
    """

    activation: ActivationName
    spectral: bool
    everywhere: bool
    dilation: int

    def conv(self, channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Conv2d:
        return conv(channels_in, channels_out, 3, stride=stride, spectral=self.spectral)

    def residual_blocks(self, count: int, channels: int, *, dilation: int) -> nn.Sequential:
        options = {"dilation": dilation, "activation": self.activation, "spectral": self.spectral}
        return nn.Sequential(*[ResidualBlock(channels, **options) for _ in range(count)])  # type: ignore[arg-type]


class Stem(nn.Module):
    """The picture as 32 maps: conv 1×1 plus (conv 3×3 to 64, σ, conv 3×3 to 32), then σ."""

    def __init__(self, channels_in: int, width: int, style: Style) -> None:
        super().__init__()
        self.shortcut = conv(channels_in, width, 1, spectral=style.everywhere)
        self.expand = style.conv(channels_in, 2 * width)
        self.reduce = style.conv(2 * width, width)
        self.activation = Activation(style.activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner = self.activation.of(self.expand, x_BCHW)
        return self.activation.of_sum(self.reduce, inner, self.shortcut(x_BCHW))


class Down(nn.Module):
    """Interaction, Hi to Lo: as many strided convolutions as given, each halving the size and doubling the channels."""

    def __init__(self, channels: int, steps: int, style: Style) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            style.conv(channels * 2**step, channels * 2 ** (step + 1), stride=2) for step in range(steps)
        )
        self.activation = Activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = self.activation.of(step, x)
        return x


class SubPixelUp(nn.Module):
    """Interaction, Lo to Hi: conv 3×3 c -> 2c, pixel shuffle to c/2 at twice the size, σ; repeated [12]."""

    def __init__(self, channels: int, steps: int, style: Style) -> None:
        super().__init__()
        self.steps = nn.ModuleList(style.conv(channels // 2**step, 2 * channels // 2**step) for step in range(steps))
        self.activation = Activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = self.activation.of_shuffled(step, x)
        return x


class BilinearUp(nn.Module):
    """The base models' way up: bilinear, channels unchanged. BaseModel puts one more LeakyReLU(0.2) before it."""

    def __init__(self, factor: int, *, extra_leaky: bool) -> None:
        super().__init__()
        self.factor = factor
        self.extra_leaky = extra_leaky

    def forward(self, x: Tensor) -> Tensor:
        if self.extra_leaky:
            # Not in place: Lo's own way down reads the same maps.
            x = F.leaky_relu(x, LEAKY_SLOPE)
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)


class Stage(nn.Module):
    """Inpainting, Interaction, Aggregation (Figure 2). Stage 1 has no Lo branch yet; it is born in the interaction.

    up            -- brings Lo to Hi's size with `up_channels` channels; None in stage 1
    lo_out        -- channels of Lo after aggregation; None leaves Lo out altogether, as nothing reads it
    """

    def __init__(
        self,
        number: int,
        *,
        width: int,
        blocks: int,
        style: Style,
        up: nn.Module | None,
        up_channels: int,
        lo_out: int | None,
    ) -> None:
        super().__init__()
        lo = width * 2 ** (number - 1)
        has_lo = number > 1
        self.hi_blocks = style.residual_blocks(blocks, width, dilation=1)
        self.lo_blocks = style.residual_blocks(blocks, lo, dilation=style.dilation) if has_lo else None
        self.up = up
        self.aggregate_hi = style.conv(width + up_channels, width)
        self.down_hi = Down(width, number, style) if lo_out is not None else None
        self.down_lo = Down(lo, 1, style) if has_lo and lo_out is not None else None
        self.aggregate_lo = style.conv(4 * lo if has_lo else 2 * lo, lo_out) if lo_out is not None else None
        self.activation = Activation(style.activation)

    def forward(self, hi: Tensor, lo: Tensor | None, *, want_lo: bool = True) -> tuple[Tensor, Tensor | None]:
        """hi (B, 32, H, W); lo (B, C, H/2^(n-1), W/2^(n-1)) or None in stage 1; the new pair, lo at half the size."""
        hi = self.hi_blocks(hi)
        if lo is not None and self.lo_blocks is not None:
            lo = self.lo_blocks(lo)
        for_hi = [hi] if self.up is None else [hi, self.up(lo)]
        new_hi = self.activation.of(self.aggregate_hi, torch.cat(for_hi, dim=1))
        if not want_lo or self.down_hi is None or self.aggregate_lo is None:
            return new_hi, None
        for_lo = [self.down_hi(hi)] if self.down_lo is None else [self.down_hi(hi), self.down_lo(lo)]
        return new_hi, self.activation.of(self.aggregate_lo, torch.cat(for_lo, dim=1))


class FinalFusion(nn.Module):
    """Lo brought up to full size, beside Hi, through conv 7×7 with bias to 32 maps, σ."""

    def __init__(self, up: nn.Module, channels_in: int, width: int, style: Style) -> None:
        super().__init__()
        self.up = up
        self.conv = conv(channels_in, width, 7, spectral=style.spectral, bias=True)
        self.activation = Activation(style.activation)

    def forward(self, hi: Tensor, lo: Tensor) -> Tensor:
        return self.activation.of(self.conv, torch.cat([hi, self.up(lo)], dim=1))


class TwoBranchNetwork(Generator):
    """Stem, four stages, a fusion of the two branches or none, head. The functions below choose the parts."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        stem: Stem,
        stages: list[Stage],
        fusion: FinalFusion | None,
        head: nn.Conv2d,
        size_multiple: int,
    ) -> None:
        super().__init__(architecture, size_multiple=size_multiple, minimum_size=size_multiple)
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.fusion = fusion
        self.head = head

    def repair(self, damaged_BCHW: Tensor) -> Tensor:
        hi, lo = self.stem(damaged_BCHW), None
        for stage in self.stages:
            # BaseModel reads Hi alone at the end: its last Lo would be computed and thrown away.
            hi, lo = stage(hi, lo, want_lo=self.fusion is not None or stage is not self.stages[-1])
        return to_unit_range(self.head(hi if self.fusion is None else self.fusion(hi, lo)))

    def num_live_parameters(self) -> int:
        last = self.stages[-1]
        assert isinstance(last, Stage)
        unread = [last.down_hi, last.down_lo, last.aggregate_lo] if self.fusion is None else []
        return num_parameters(self) - sum(num_parameters(part) for part in unread if part is not None)


def isnet(architecture: Architecture) -> TwoBranchNetwork:
    """The paper's ISNet: sub-pixel convolutions up, final fusion, Tanh. 24,774,307 parameters at 4 blocks."""
    style, width = _style(architecture), architecture.width
    stages = []
    for number in range(1, NUM_STAGES + 1):
        up = SubPixelUp(width * 2 ** (number - 1), number - 1, style) if number > 1 else None
        lo_out = width * 2**number
        stages.append(_stage(number, architecture, style, up=up, up_channels=width if up else 0, lo_out=lo_out))
    fusion = FinalFusion(SubPixelUp(width * 2**NUM_STAGES, NUM_STAGES, style), 2 * width, width, style)
    head = conv(width, 3, 3, spectral=style.spectral, bias=True)
    return _network(architecture, style, stages, fusion, head, size_multiple=16)


def base(architecture: Architecture) -> TwoBranchNetwork:
    """Table 1's BaseModel: bilinear up, no fusion, LeakyReLU. 16,516,995 parameters, 45 % of them dead."""
    style, width = _style(architecture), architecture.width
    stages = []
    for number in range(1, NUM_STAGES + 1):
        lo = width * 2 ** (number - 1)
        up = BilinearUp(2 ** (number - 1), extra_leaky=True) if number > 1 else None
        lo_out = None if architecture.prune and number == NUM_STAGES else 2 * lo
        stages.append(_stage(number, architecture, style, up=up, up_channels=lo if up else 0, lo_out=lo_out))
    head = conv(width, 3, 1, spectral=style.everywhere, bias=True)
    return _network(architecture, style, stages, None, head, size_multiple=8)


def base_ff(architecture: Architecture) -> TwoBranchNetwork:
    """Table 1's BaseModel+FF: bilinear up, a fusion of 256 Lo maps brought up bilinearly. 14,610,083 parameters."""
    style, width = _style(architecture), architecture.width
    # The one number by which the released code reduces channels: the last Lo, 512 -> 256.
    lo_outs = {1: 2 * width, 2: 4 * width, 3: 8 * width, 4: 8 * width}
    stages = []
    for number, lo_out in lo_outs.items():
        lo = width * 2 ** (number - 1)
        up = BilinearUp(2 ** (number - 1), extra_leaky=False) if number > 1 else None
        stages.append(_stage(number, architecture, style, up=up, up_channels=lo if up else 0, lo_out=lo_out))
    up = BilinearUp(2**NUM_STAGES, extra_leaky=False)
    fusion = FinalFusion(up, width + lo_outs[NUM_STAGES], width, style)
    head = conv(width, 3, 3, spectral=style.everywhere, bias=True)
    return _network(architecture, style, stages, fusion, head, size_multiple=16)


def _style(architecture: Architecture) -> Style:
    return Style(
        activation=architecture.resolved_activation,
        spectral=architecture.spectral_norm != "none",
        everywhere=architecture.spectral_norm == "all",
        dilation=architecture.dilation,
    )


def _stage(
    number: int,
    architecture: Architecture,
    style: Style,
    *,
    up: nn.Module | None,
    up_channels: int,
    lo_out: int | None,
) -> Stage:
    return Stage(
        number,
        width=architecture.width,
        blocks=architecture.blocks,
        style=style,
        up=up,
        up_channels=up_channels,
        lo_out=lo_out,
    )


def _network(
    architecture: Architecture,
    style: Style,
    stages: list[Stage],
    fusion: FinalFusion | None,
    head: nn.Conv2d,
    *,
    size_multiple: int,
) -> TwoBranchNetwork:
    stem = Stem(architecture.in_channels, architecture.width, style)
    network = TwoBranchNetwork(
        architecture, stem=stem, stages=stages, fusion=fusion, head=head, size_multiple=size_multiple
    )
    initialise(network, std=architecture.init_std)
    return network
