"""Networks of LPIPS and FID, and FID by hole ratio.

They measure the same composites as PSNR (`isnet.metrics_perceptual`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from isnet.errors import InputError
from trainplane.errors import UserError

if TYPE_CHECKING:
    from isnet.metrics_perceptual import Backbone, InceptionFeatures, Lpips

# Inception's features of a composite and its truth, float64 (2, 2048).
PairFeatures = NDArray[np.float64]


@dataclass(frozen=True)
class Networks:
    """Networks of perceptual metrics; pickles, for tasks on other hosts."""

    backbone: Backbone | None  # of LPIPS
    lpips: Lpips | None
    inception: InceptionFeatures | None

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that are measured, such as `lpips-alex` and `fid`."""
        names = () if self.backbone is None else (f"lpips-{self.backbone}",)
        return names if self.inception is None else (*names, "fid")

    def distance(self, composite_13HW: Tensor, truth_13HW: Tensor) -> float | None:
        """LPIPS of a composite, RGB in [0, 1]."""
        return None if self.lpips is None else float(self.lpips(composite_13HW, truth_13HW)[0])

    def features(self, composite_13HW: Tensor, truth_13HW: Tensor) -> PairFeatures | None:
        """Features of a composite and its truth; None without FID."""
        if self.inception is None:
            return None
        return np.concatenate([self.inception(composite_13HW), self.inception(truth_13HW)])


def open_networks(backbone: Backbone | None, *, fid: bool) -> Networks | None:
    """Opens the networks of the metrics asked for.

    Weights come from torch's folder of checkpoints, or are downloaded to it.

    Args:
        backbone: of LPIPS; None for no LPIPS.
        fid: whether to measure FID, P-IDS and U-IDS.

    Raises:
        UserError: a package or weights are missing.
    """
    if backbone is None and not fid:
        return None
    # Imported here: an evaluation without these metrics needs none of it.
    from isnet.metrics_perceptual import InceptionFeatures, Lpips

    try:
        lpips = None if backbone is None else Lpips(backbone)
        return Networks(backbone, lpips, InceptionFeatures() if fid else None)
    except InputError as error:
        raise UserError(str(error)) from error


def check_pictures(pictures: int, size: int, *, backbone: Backbone | None, fid: bool) -> None:
    """Refuses pictures that these metrics cannot be measured on.

    Args:
        pictures: number of pictures.
        size: side of the measured square, pixels.
        backbone: of LPIPS; None for no LPIPS.
        fid: whether FID is asked for.
    """
    if backbone is None and not fid:
        return
    from isnet.metrics_perceptual import MIN_LPIPS_SIDE, MIN_PICTURES

    if backbone is not None and size < MIN_LPIPS_SIDE:
        raise UserError(f"LPIPS needs squares of {MIN_LPIPS_SIDE} pixels, and got {size}; give --size {MIN_LPIPS_SIDE}")
    if fid and pictures < MIN_PICTURES:
        raise UserError(
            f"FID needs {MIN_PICTURES:,} pictures or more, and got {pictures:,}; with fewer it is noise: "
            "leave --fid out, or evaluate on more pictures"
        )


def distances_by_bin(
    bins: Sequence[str], features: Sequence[PairFeatures], *, groups: Sequence[str]
) -> Mapping[str, dict[str, float]]:
    """FID, P-IDS and U-IDS of each large bin.

    A bin has them if it has the number of pairs that FID needs.

    Args:
        bins: bin of each pair.
        features: of each pair.
        groups: names of the bins, `all` among them.
    """
    from isnet.metrics_perceptual import MIN_PICTURES, distances

    by_group = {}
    for group in groups:
        pairs = [table for name, table in zip(bins, features, strict=True) if group in (name, "all")]
        if len(pairs) >= MIN_PICTURES:
            filled_ND, real_ND = np.stack(pairs, axis=1)
            by_group[group] = distances(real_ND, filled_ND)
    return by_group
