"""Fast Fourier convolution of local and global channels."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FourierUnit(nn.Module):
    """Convolution 1×1 of the spectrum: every pixel reaches every other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(2 * channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keeps channels and size; any sides."""
        batch, channels, height, width = x_BCHW.shape
        # There is no Fourier transform below float32.
        x = x_BCHW.float() if x_BCHW.dtype in (torch.bfloat16, torch.float16) else x_BCHW
        spectrum = torch.view_as_real(torch.fft.rfft2(x, norm="ortho"))
        # Channel 2i is the real part of i, channel 2i + 1 the imaginary one.
        planes = spectrum.permute(0, 1, 4, 2, 3).reshape(batch, 2 * channels, height, -1)
        planes = F.relu(self.bn(self.conv(planes)))
        parts = planes.view(batch, channels, 2, height, -1).permute(0, 1, 3, 4, 2).contiguous()
        return torch.fft.irfft2(  # type: ignore[no-any-return]
            torch.view_as_complex(parts), s=(height, width), norm="ortho"
        )


class SpectralTransform(nn.Module):
    """Fourier unit at half the channels, with a shortcut."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.reduce = nn.Sequential(nn.Conv2d(channels_in, half, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU())
        self.fourier = FourierUnit(half)
        self.expand = nn.Conv2d(half, channels_out, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Keeps the size."""
        z = self.reduce(x_BCHW)
        return self.expand(z + self.fourier(z))  # type: ignore[no-any-return]


def _conv(channels: tuple[int, int], kernel: int, stride: int, padding: int) -> nn.Conv2d:
    mode: Literal["reflect", "zeros"] = "reflect" if padding else "zeros"
    return nn.Conv2d(*channels, kernel, stride=stride, padding=padding, bias=False, padding_mode=mode)


class FourierConv(nn.Module):
    """Convolution of (local, global) channels, BatchNorm, ReLU.

    Args:
        local: Channels of the local group, in and out.
        far: Channels of the global group, in and out; 0 leaves it out.
        kernel: Side of the local convolutions.
        stride: Of the local convolutions; a global group that comes in needs 1.
        padding: Reflected rows and columns.
    """

    def __init__(
        self,
        local: tuple[int, int],
        far: tuple[int, int] = (0, 0),
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
    ) -> None:
        super().__init__()
        self.local_to_local = _conv(local, kernel, stride, padding)
        self.local_to_far = _conv((local[0], far[1]), kernel, stride, padding) if far[1] else None
        self.far_to_local = _conv((far[0], local[1]), kernel, stride, padding) if far[0] else None
        self.far_to_far = SpectralTransform(*far) if far[0] else None
        self.bn_local = nn.BatchNorm2d(local[1])
        self.bn_far = nn.BatchNorm2d(far[1]) if far[1] else None

    def forward(self, local: Tensor, far: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Returns both groups; None is a group left out."""
        near = self.local_to_local(local)
        if self.far_to_local is not None:
            near = near + self.far_to_local(far)
        near = F.relu(self.bn_local(near))
        if self.local_to_far is None or self.bn_far is None:
            return near, None
        wide = self.local_to_far(local)
        if self.far_to_far is not None:
            wide = wide + self.far_to_far(far)
        return near, F.relu(self.bn_far(wide))
