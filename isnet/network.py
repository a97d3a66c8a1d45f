"""ISNet and the paper's BaseModel and BaseModel+FF (Table 1).

Two branches run side by side. Hi keeps full resolution and its 32 channels. Lo halves its size and doubles its channels
at each of four stages. A stage is Inpainting (residual blocks), Interaction (each branch gets the other's maps at its
own size) and Aggregation (one convolution per branch), as in Figures 1 and 2. Final Fusion joins both into the picture.
Channel numbers below are for the paper's `width` of 32. Not covered: UNet-like (unet_like.py), training (gan.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    """Options common to all layers of a network.

    Attributes:
        activation: σ of every layer.
        spectral: Spectral norm wherever the released code has it.
        everywhere: Spectral norm also in the stem's shortcut and the heads. The released code leaves them out, against
            §2.2 of the paper ("each layer").
        dilation: Of the residual blocks of Lo.
    """

    activation: ActivationName
    spectral: bool
    everywhere: bool
    dilation: int

    def conv(self, channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Conv2d:
        """Convolution 3×3 without bias."""
        return conv(channels_in, channels_out, 3, stride=stride, spectral=self.spectral)

    def residual_blocks(self, count: int, channels: int, *, dilation: int) -> nn.Sequential:
        """The Inpainting part of one branch (§2.1)."""
        return nn.Sequential(
            *[
                ResidualBlock(channels, dilation=dilation, activation=self.activation, spectral=self.spectral)
                for _ in range(count)
            ]
        )


class Stem(nn.Module):
    """First layers, from the damaged picture to 32 maps (§2.2)."""

    def __init__(self, channels_in: int, width: int, style: Style) -> None:
        super().__init__()
        self.shortcut = conv(channels_in, width, 1, spectral=style.everywhere)
        self.expand = style.conv(channels_in, 2 * width)
        self.reduce = style.conv(2 * width, width)
        self.activation = Activation(style.activation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Computes σ(conv1×1(x) + conv3×3(σ(conv3×3(x))))."""
        inner = self.activation.of(self.expand, x_BCHW)
        return self.activation.of_sum(self.reduce, inner, self.shortcut(x_BCHW))


class Down(nn.Module):
    """Interaction from Hi to Lo by strided convolutions (§2.1)."""

    def __init__(self, channels: int, steps: int, style: Style) -> None:
        super().__init__()
        # The paper names the stride alone; doubled channels are the released code's (ISNET.md §8 row 13).
        self.steps = nn.ModuleList(
            style.conv(channels * 2**step, channels * 2 ** (step + 1), stride=2) for step in range(steps)
        )
        self.activation = Activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C·2^steps, H/2^steps, W/2^steps)."""
        for step in self.steps:
            x = self.activation.of(step, x)
        return x


class SubPixelUp(nn.Module):
    """Interaction from Lo to Hi by sub-pixel convolutions [12]."""

    def __init__(self, channels: int, steps: int, style: Style) -> None:
        super().__init__()
        # Each step: conv 3×3 c -> 2c, pixel shuffle to c/2 channels at twice the size, σ.
        self.steps = nn.ModuleList(style.conv(channels // 2**step, 2 * channels // 2**step) for step in range(steps))
        self.activation = Activation(style.activation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C/2^steps, H·2^steps, W·2^steps)."""
        for step in self.steps:
            x = self.activation.of_shuffled(step, x)
        return x


class BilinearUp(nn.Module):
    """Interaction from Lo to Hi of the base models (§3.1)."""

    def __init__(self, factor: int, *, extra_leaky: bool) -> None:
        super().__init__()
        self.factor = factor
        self.extra_leaky = extra_leaky

    def forward(self, x: Tensor) -> Tensor:
        """Enlarges x by `factor`, channels unchanged."""
        # BaseModel's extra LeakyReLU(0.2). Not in place: Lo's own way down reads the same maps.
        if self.extra_leaky:
            x = F.leaky_relu(x, LEAKY_SLOPE)
        return F.interpolate(x, scale_factor=self.factor, mode="bilinear", align_corners=False)


class Stage(nn.Module):
    """One stage: Inpainting, Interaction, Aggregation (Figure 2).

    `number` is the paper's n. Stage 1 has no Lo branch yet; its interaction creates Lo. `up` brings Lo to Hi's size
    with `up_channels` channels. `lo_out` are Lo's channels after aggregation; None leaves Lo out, as nothing reads it.
    """

    def __init__(
        self,
        number: int,
        architecture: Architecture,
        style: Style,
        *,
        up: nn.Module | None,
        up_channels: int,
        lo_out: int | None,
    ) -> None:
        super().__init__()
        width, blocks = architecture.width, architecture.blocks
        lo = width * 2 ** (number - 1)
        has_lo = number > 1
        # Inpainting: residual blocks, dilated in Lo alone.
        self.hi_blocks = style.residual_blocks(blocks, width, dilation=1)
        self.lo_blocks = style.residual_blocks(blocks, lo, dilation=style.dilation) if has_lo else None
        # Interaction and Aggregation. The order fixes which random numbers each layer gets.
        self.up = up
        self.aggregate_hi = style.conv(width + up_channels, width)
        self.down_hi = Down(width, number, style) if lo_out is not None else None
        self.down_lo = Down(lo, 1, style) if has_lo and lo_out is not None else None
        self.aggregate_lo = style.conv(4 * lo if has_lo else 2 * lo, lo_out) if lo_out is not None else None
        self.activation = Activation(style.activation)

    def forward(self, hi: Tensor, lo: Tensor | None, *, want_lo: bool = True) -> tuple[Tensor, Tensor | None]:
        """Returns the new Hi and the halved new Lo.

        `hi` is (B, 32, H, W); `lo` is (B, C, H/2^(n-1), W/2^(n-1)), or None in stage 1.
        """
        # Inpainting.
        hi = self.hi_blocks(hi)
        if lo is not None and self.lo_blocks is not None:
            lo = self.lo_blocks(lo)
        # Interaction [hi, up(lo)] and Aggregation of Hi.
        for_hi = [hi] if self.up is None else [hi, self.up(lo)]
        new_hi = self.activation.of(self.aggregate_hi, torch.cat(for_hi, dim=1))
        if not want_lo or self.down_hi is None or self.aggregate_lo is None:
            return new_hi, None
        # Interaction [down(hi), down(lo)] and Aggregation of Lo, both from the maps before Aggregation.
        for_lo = [self.down_hi(hi)] if self.down_lo is None else [self.down_hi(hi), self.down_lo(lo)]
        return new_hi, self.activation.of(self.aggregate_lo, torch.cat(for_lo, dim=1))


class FinalFusion(nn.Module):
    """Final Fusion of both branches to 32 maps (§2.2)."""

    def __init__(self, up: nn.Module, channels_in: int, width: int, style: Style) -> None:
        super().__init__()
        self.up = up
        self.conv = conv(channels_in, width, 7, spectral=style.spectral, bias=True)
        self.activation = Activation(style.activation)

    def forward(self, hi: Tensor, lo: Tensor) -> Tensor:
        """Computes σ(conv7×7([hi, up(lo)])) at full size."""
        return self.activation.of(self.conv, torch.cat([hi, self.up(lo)], dim=1))


class TwoBranchNetwork(Generator):
    """Stem, four stages, fusion or none, head (Figure 1)."""

    def __init__(
        self,
        architecture: Architecture,
        style: Style,
        stages: list[Stage],
        fusion: FinalFusion | None,
        head: nn.Conv2d,
        *,
        size_multiple: int,
    ) -> None:
        super().__init__(architecture, size_multiple=size_multiple, minimum_size=size_multiple)
        self.stem = Stem(architecture.in_channels, architecture.width, style)
        self.stages = nn.ModuleList(stages)
        self.fusion = fusion
        self.head = head
        # True: a backward pass computes a stage's activations again instead of keeping them.
        self.recompute = False
        initialise(self, std=architecture.init_std, init=architecture.init)
        # Nothing is added to the smooth fill until the head has learned something.
        if architecture.coarse != "none":
            nn.init.zeros_(head.weight)

    def repair(self, damaged_BCHW: Tensor) -> Tensor:
        """Runs stem, stages, fusion and head; RGB in [0, 1]."""
        hi, lo = self.stem(damaged_BCHW), None
        for stage in self.stages:
            # BaseModel reads Hi alone at the end: its last Lo would be computed and thrown away.
            want_lo = self.fusion is not None or stage is not self.stages[-1]
            if self.recompute and torch.is_grad_enabled():
                # No layer draws random numbers.
                hi, lo = checkpoint(stage, hi, lo, want_lo=want_lo, use_reentrant=False, preserve_rng_state=False)
            else:
                hi, lo = stage(hi, lo, want_lo=want_lo)
        return to_unit_range(self.head(hi if self.fusion is None else self.fusion(hi, lo)))

    def num_live_parameters(self) -> int:
        """All parameters but those of an unread last Lo."""
        last = self.stages[-1]
        assert isinstance(last, Stage)
        unread = [last.down_hi, last.down_lo, last.aggregate_lo] if self.fusion is None else []
        return num_parameters(self) - sum(num_parameters(part) for part in unread if part is not None)


def isnet(architecture: Architecture) -> TwoBranchNetwork:
    """The paper's ISNet: sub-pixel convolutions up, final fusion, Tanh."""
    # 24,774,307 parameters at 4 blocks (Tables 1 and 2: 23.63M).
    style, width = _style(architecture), architecture.width
    stages = []
    for number in range(1, NUM_STAGES + 1):
        # §2.1: n − 1 sub-pixel convolutions, from 32·2^(n−1) channels to 32.
        up = SubPixelUp(width * 2 ** (number - 1), number - 1, style) if number > 1 else None
        lo_out = width * 2**number
        stages.append(Stage(number, architecture, style, up=up, up_channels=width if up else 0, lo_out=lo_out))
    fusion = FinalFusion(SubPixelUp(width * 2**NUM_STAGES, NUM_STAGES, style), 2 * width, width, style)
    head = conv(width, 3, 3, spectral=style.spectral, bias=True)
    return TwoBranchNetwork(architecture, style, stages, fusion, head, size_multiple=16)


def base(architecture: Architecture) -> TwoBranchNetwork:
    """Table 1's BaseModel: bilinear up, no fusion, LeakyReLU."""
    # 16,516,995 parameters, 45 % of them without a gradient: nothing reads the Lo of stage 4.
    style, width = _style(architecture), architecture.width
    stages = []
    for number in range(1, NUM_STAGES + 1):
        lo = width * 2 ** (number - 1)
        up = BilinearUp(2 ** (number - 1), extra_leaky=True) if number > 1 else None
        # `prune` leaves out the Lo that nothing reads (ISNET.md §8 row 14).
        lo_out = None if architecture.prune and number == NUM_STAGES else 2 * lo
        stages.append(Stage(number, architecture, style, up=up, up_channels=lo if up else 0, lo_out=lo_out))
    head = conv(width, 3, 1, spectral=style.everywhere, bias=True)
    return TwoBranchNetwork(architecture, style, stages, None, head, size_multiple=8)


def base_ff(architecture: Architecture) -> TwoBranchNetwork:
    """Table 1's BaseModel+FF: bilinear up, fusion of 256 Lo maps."""
    # 14,610,083 parameters (Table 1: 13.93M).
    style, width = _style(architecture), architecture.width
    # §3.1 reduces channels when FF is added. In the released code that is one number: the last Lo, 512 -> 256.
    lo_outs = {1: 2 * width, 2: 4 * width, 3: 8 * width, 4: 8 * width}
    stages = []
    for number, lo_out in lo_outs.items():
        lo = width * 2 ** (number - 1)
        up = BilinearUp(2 ** (number - 1), extra_leaky=False) if number > 1 else None
        stages.append(Stage(number, architecture, style, up=up, up_channels=lo if up else 0, lo_out=lo_out))
    up = BilinearUp(2**NUM_STAGES, extra_leaky=False)
    fusion = FinalFusion(up, width + lo_outs[NUM_STAGES], width, style)
    head = conv(width, 3, 3, spectral=style.everywhere, bias=True)
    return TwoBranchNetwork(architecture, style, stages, fusion, head, size_multiple=16)


def _style(architecture: Architecture) -> Style:
    return Style(
        activation=architecture.resolved_activation,
        spectral=architecture.spectral_norm != "none",
        everywhere=architecture.spectral_norm == "all",
        dilation=architecture.dilation,
    )
