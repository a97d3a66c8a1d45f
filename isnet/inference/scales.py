"""Halves a photo and its hole, again and again.

Known pixels alone are averaged: no scale sees what the hole held. Push–pull interpolation is that of Gortler et al.,
"The Lumigraph", SIGGRAPH 1996.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isnet.inference.filler import Hole, Rgb


def depth_of(hole_HW: Hole) -> NDArray[np.float32]:
    """Distance of each pixel to the nearest known one, pixels.

    0 on known pixels; infinite where none is known.
    """
    import cv2

    if hole_HW.all():
        return np.full(hole_HW.shape, np.inf, np.float32)
    distance: NDArray[np.float32] = cv2.distanceTransform(
        hole_HW.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )
    return distance


def halved(rgb_HW3: Rgb, hole_HW: Hole) -> tuple[Rgb, Hole]:
    """Halves a picture and its hole, odd sides rounded up.

    A pixel is the mean of the known ones among its four, and hole where none is known.
    """
    # Sums of colours and of known pixels, (H/2, W/2, 4), from each of the four places in turn.
    sums = np.zeros(((hole_HW.shape[0] + 1) // 2, (hole_HW.shape[1] + 1) // 2, 4), np.float32)
    for place in ((slice(top, None, 2), slice(left, None, 2)) for top in (0, 1) for left in (0, 1)):
        valid = ~hole_HW[place][..., None]
        total = sums[: valid.shape[0], : valid.shape[1]]
        # Not a product: NaN · 0 is NaN.
        total[..., :3] += np.where(valid, rgb_HW3[place], np.float32(0))
        total[..., 3:] += valid
    mean: Rgb = np.divide(sums[..., :3], np.maximum(sums[..., 3:], 1))
    hole: Hole = sums[..., 3] == 0
    return mean, hole


def doubled(rgb_HW3: Rgb, height: int, width: int) -> Rgb:
    """Enlarges the result of `halved` to its size before."""
    import cv2

    size = (2 * rgb_HW3.shape[1], 2 * rgb_HW3.shape[0])
    large: Rgb = cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_LINEAR)
    return large[:height, :width]


def scales(rgb_HW3: Rgb, hole_HW: Hole, *, reach: float, smallest: int) -> list[tuple[Rgb, Hole]]:
    """Lists all scales down to one with a shallow hole.

    The last one's hole is at most `reach` pixels deep, or its longer side would fall below `smallest` pixels.
    """
    pyramid = [(rgb_HW3, hole_HW)]
    while max(pyramid[-1][1].shape) >= 2 * smallest and depth_of(pyramid[-1][1]).max() > reach:
        pyramid.append(halved(*pyramid[-1]))
    return pyramid


def continued(values_HW3: Rgb, hole_HW: Hole) -> Rgb:
    """Continues known values smoothly into the hole (push–pull).

    Zeros where nothing is known.
    """
    if not hole_HW.any():
        return values_HW3
    if hole_HW.all():
        return np.zeros_like(values_HW3)
    # Push to the scale without a hole, then pull up to this one.
    coarse = continued(*halved(values_HW3, hole_HW))
    return np.where(hole_HW[..., None], doubled(coarse, *hole_HW.shape), values_HW3)
