"""PSNR, SSIM and L1 under three named definitions.

Per picture and per bin of hole ratio, on the composite `pred·(1−M) + truth·M` (§3.1). Figures under different
definitions do not compare (ISNET.md §7):

* `isnet`: the author's release, hence the paper's Tables 1, 2 and 4. PSNR: RGB, both ×255 truncated to integers.
  SSIM: RGB, Gaussian window 11×11 with σ 1.5, zeros beyond the border. L1: 100·mean|a−b|.
* `edge_connect`: EdgeConnect's script, hence the columns the paper copied (Table 3, footnote 1). PSNR and SSIM on gray,
  SSIM with a uniform window of 51, borders cut; L1: 100·Σ|a−b| / Σ(a+b) on gray.
* `skimage`: scikit-image's defaults on RGB: SSIM with a uniform window of 7, sample covariance, borders cut.

Every value is finite: PSNR is cut at 100 dB, which identical pictures get; a quotient 0/0 counts as 0.
`l1_hole` is mean|a−b| within the hole, 0 to 1, the same under every definition; 0 without a hole.

Not here: LPIPS, FID, P-IDS and U-IDS (`isnet.metrics_perceptual`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from isnet.errors import InputError
from isnet.masks import RATIO_BINS, ratio_bin
from isnet.torchvision_shim import ensure_torchvision

Definition = Literal["isnet", "edge_connect", "skimage"]
METRICS = ("psnr", "ssim", "l1_percent", "l1_hole")
MAX_PSNR_DB = 100.0

# Constants of Wang et al. 2004 [18] for a data range of 1.
_C1, _C2 = 0.01**2, 0.03**2
# scikit-image's rgb2gray, which EdgeConnect's script calls.
_GRAY = (0.2125, 0.7154, 0.0721)


def composite(pred_B3HW: Tensor, truth_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
    """I_comp of §3.1, outside the hole bit-equal to the truth."""
    return torch.where(mask_B1HW > 0.5, truth_B3HW, pred_B3HW)


@torch.no_grad()
def measure(
    pred_B3HW: Tensor, truth_B3HW: Tensor, mask_B1HW: Tensor, *, definition: Definition = "isnet"
) -> dict[str, Tensor]:
    """Measures each picture: `psnr` (dB), `ssim`, `l1_percent`, `l1_hole`.

    Pictures are RGB in [0, 1]; values outside are cut off. Returns float64 tensors of shape (B,) on the device of
    `truth_B3HW`. Raises InputError on an unknown definition, unequal shapes, or pictures smaller than SSIM's window.
    """
    check_definition(definition)
    if pred_B3HW.shape != truth_B3HW.shape or mask_B1HW.shape != truth_B3HW[:, :1].shape:
        raise InputError(
            f"prediction {tuple(pred_B3HW.shape)}, truth {tuple(truth_B3HW.shape)} and mask {tuple(mask_B1HW.shape)}; "
            "need (B, 3, H, W) twice and (B, 1, H, W)"
        )
    # Everything below reads the composite.
    truth = truth_B3HW.float().clamp(0, 1)
    filled = composite(pred_B3HW.float().clamp(0, 1), truth, mask_B1HW)
    metrics = {"isnet": _isnet, "edge_connect": _edge_connect, "skimage": _skimage}[definition](filled, truth)
    hole = (mask_B1HW <= 0.5).to(truth.dtype)
    metrics["l1_hole"] = ((filled - truth).abs() * hole).sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3))).clamp_min(1)
    return {name: metrics[name].double() for name in METRICS}


def check_definition(definition: str) -> None:
    """Raises InputError for an unknown definition."""
    if definition not in get_args(Definition):
        names = ", ".join(get_args(Definition))
        raise InputError(f"metric definition {definition!r} is unknown; need one of {names}")


def _isnet(filled: Tensor, truth: Tensor) -> dict[str, Tensor]:
    # The tiny offset keeps k/255·255 from falling to k−1; it is far below one step.
    levels = [((picture * 255) + 1e-4).floor() for picture in (filled, truth)]
    return {
        "psnr": _psnr(*levels, data_range=255.0),
        "ssim": _ssim(filled, truth, _gaussian(11, 1.5), zero_pad=True, sample=False),
        "l1_percent": 100 * (filled - truth).abs().mean((1, 2, 3)),
    }


def _edge_connect(filled: Tensor, truth: Tensor) -> dict[str, Tensor]:
    weights = torch.tensor(_GRAY, dtype=truth.dtype, device=truth.device).view(1, 3, 1, 1)
    # Gray, (B, 1, H, W).
    a, b = ((picture * weights).sum(1, keepdim=True) for picture in (filled, truth))
    total = (a + b).sum((1, 2, 3))
    difference = (a - b).abs().sum((1, 2, 3))
    return {
        "psnr": _psnr(a, b, data_range=1.0),
        "ssim": _ssim(a, b, _uniform(51), zero_pad=False, sample=True),
        # Not the mean absolute difference; the paper's footnote 1.
        "l1_percent": 100 * torch.where(total > 0, difference / total.clamp_min(1e-30), 0),
    }


def _skimage(filled: Tensor, truth: Tensor) -> dict[str, Tensor]:
    return {
        "psnr": _psnr(filled, truth, data_range=1.0),
        "ssim": _ssim(filled, truth, _uniform(7), zero_pad=False, sample=True),
        "l1_percent": 100 * (filled - truth).abs().mean((1, 2, 3)),
    }


def _psnr(a: Tensor, b: Tensor, *, data_range: float) -> Tensor:
    ensure_torchvision()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    # (B,) in dB; infinity for identical pictures, cut here.
    decibels: Tensor = peak_signal_noise_ratio(a, b, data_range=data_range, reduction="none", dim=(1, 2, 3))
    return decibels.clamp(max=MAX_PSNR_DB)


def _ssim(a: Tensor, b: Tensor, window: tuple[float, ...], *, zero_pad: bool, sample: bool) -> Tensor:
    """Structural similarity [18], (B,): mean of its map.

    In float32: depthwise convolutions in double are twenty times slower, and the mean changes by less than 1e-6.
    torchmetrics has neither variant: it mirrors the border instead of padding with zeros, and has no sample covariance.
    """
    size = len(window)
    if not zero_pad and min(a.shape[-2:]) < size:
        raise InputError(
            f"pictures of {a.shape[-1]}x{a.shape[-2]} are smaller than this SSIM's window of {size}; "
            "take larger pictures or definition 'isnet'"
        )
    num_maps = 5 * a.shape[1]
    # Everything to average over the window, (B, 5C, H, W), in one convolution along each axis.
    maps = torch.cat([a, b, a * a, b * b, a * b], dim=1)
    kernel = torch.tensor(window, dtype=a.dtype, device=a.device)
    padding = size // 2 if zero_pad else 0
    column, row = kernel.view(1, 1, size, 1), kernel.view(1, 1, 1, size)
    maps = F.conv2d(maps, column.expand(num_maps, 1, size, 1), padding=(padding, 0), groups=num_maps)
    maps = F.conv2d(maps, row.expand(num_maps, 1, 1, size), padding=(0, padding), groups=num_maps)
    mean_a, mean_b, aa, bb, ab = maps.chunk(5, dim=1)
    # Variances and covariance; `sample` divides by n − 1.
    unbias = size**2 / (size**2 - 1) if sample else 1.0
    var_a, var_b = unbias * (aa - mean_a**2), unbias * (bb - mean_b**2)
    cov = unbias * (ab - mean_a * mean_b)
    # Wang et al., Eq. 13: numerator, then the quotient's mean over the map.
    similarity = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    return (similarity / ((mean_a**2 + mean_b**2 + _C1) * (var_a + var_b + _C2))).mean((1, 2, 3))


@cache
def _gaussian(size: int, sigma: float) -> tuple[float, ...]:
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets**2) / (2 * sigma**2))
    return tuple(float(weight) for weight in weights / weights.sum())


@cache
def _uniform(size: int) -> tuple[float, ...]:
    return (1 / size,) * size


@dataclass(frozen=True)
class MetricSums:
    """Sums of metrics by bin of hole ratio.

    Those of ranks are added through `sums`, in any order: float64 of shape (7, 5), rows the six bins and the ratios
    beyond 60 %, columns the number of pictures and the sums of `METRICS`.
    """

    sums: NDArray[np.float64]

    @classmethod
    def empty(cls) -> MetricSums:
        """Sums over no pictures."""
        return cls(np.zeros((len(RATIO_BINS) + 1, 1 + len(METRICS))))

    def plus(self, metrics: dict[str, Tensor], mask_B1HW: Tensor) -> MetricSums:
        """Returns sums with the pictures of one `measure` added."""
        sums = self.sums.copy()
        ratios = (mask_B1HW <= 0.5).double().mean((1, 2, 3)).tolist()
        values = torch.stack([metrics[name] for name in METRICS], dim=1).cpu().numpy()
        for ratio, row in zip(ratios, values, strict=True):
            name = ratio_bin(ratio)
            sums[RATIO_BINS.index(name) if name else len(RATIO_BINS)] += (1, *row)
        return MetricSums(sums)

    def __add__(self, other: MetricSums) -> MetricSums:
        return MetricSums(self.sums + other.sums)

    def table(self) -> dict[str, dict[str, float]]:
        """Means and picture count `n` by bin, without empty bins."""
        rows = zip((*RATIO_BINS, "60-100"), self.sums, strict=True)
        return {name: _means(row) for name, row in rows if row[0] > 0}

    def overall(self) -> dict[str, float]:
        """Means over all pictures; empty without pictures."""
        total = self.sums.sum(axis=0)
        return _means(total) if total[0] > 0 else {}


def _means(row: NDArray[np.float64]) -> dict[str, float]:
    means = {name: float(value / row[0]) for name, value in zip(METRICS, row[1:], strict=True)}
    return {**means, "n": int(row[0])}
