"""Widens holes, and softens the change at their border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isnet.errors import InputError
from isnet.inference.filler import Hole, Rgb
from isnet.inference.scales import depth_of

# Far beyond any use; a third of the shorter side of a photo of 12 megapixels.
MAX_BORDER_PX = 1024
_STRIP_ROWS = 256


def checked_border(name: str, value: object) -> int:
    """Checks a width in pixels, 0 to `MAX_BORDER_PX`."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer) or not 0 <= value <= MAX_BORDER_PX:
        raise InputError(f"{name} is {value!r}; need a whole number of pixels from 0 to {MAX_BORDER_PX}")
    return int(value)


def grown(hole_HW: Hole, grow_px: int) -> Hole:
    """Adds all pixels within `grow_px` of the hole to it.

    Raises:
        InputError: Nothing is known any more.
    """
    if grow_px == 0 or hole_HW.all():
        return hole_HW
    wider: Hole = depth_of(~hole_HW) <= grow_px
    if wider.all():
        height, width = hole_HW.shape
        raise InputError(
            f"the mask grown by {grow_px} pixels covers all of the picture of {width}x{height}, and nothing known is "
            "left to fill from; grow it by less"
        )
    return wider


def feathered(rgb_HW3: Rgb, known_HW3: Rgb, hole_HW: Hole, feather_px: int) -> Rgb:
    """Fades the colour's jump at the border, inside the hole.

    The jump is the difference of the known pixels around a place from the filled ones around it, averaged over the
    feather's width. All of it is added at the border, and nothing from `feather_px` inwards.

    Args:
        rgb_HW3: Filled picture.
        known_HW3: The picture before; its values in the hole are never used.
        hole_HW: True in the hole.
        feather_px: Width of the rim that changes.
    """
    if feather_px == 0 or not hole_HW.any() or hole_HW.all():
        return rgb_HW3
    depth = depth_of(hole_HW)
    rim = hole_HW & (depth <= feather_px)
    # Pixels on both sides of the border; at least two, because a neighbour may be a diagonal one.
    reach = max(2.0, feather_px / 2)
    outside = ~hole_HW & (depth_of(~hole_HW) <= reach)
    inside = hole_HW & (depth <= reach)
    softened = rgb_HW3.copy()
    # In strips, whose means need the rows around them.
    for top in range(0, hole_HW.shape[0], _STRIP_ROWS):
        around = slice(max(0, top - feather_px), top + _STRIP_ROWS + feather_px)
        rows = slice(top, top + _STRIP_ROWS)
        if not (at := rim[rows]).any():
            continue
        jump = _local_mean(known_HW3[around], outside[around], feather_px)
        jump -= _local_mean(rgb_HW3[around], inside[around], feather_px)
        jump = jump[top - around.start :][: at.shape[0]]
        share = 1 - (depth[rows][at] - 1) / feather_px
        softened[rows][at] = np.clip(softened[rows][at] + share[:, None] * jump[at], 0, 1)
    return softened


def _local_mean(values_HW3: Rgb, where_HW: NDArray[np.bool_], radius_px: int) -> Rgb:
    """Mean over a square around each pixel, of some pixels."""
    import cv2

    size = (2 * radius_px + 1, 2 * radius_px + 1)
    weight = cv2.blur(where_HW.astype(np.float32), size)
    mean: Rgb = cv2.blur(np.where(where_HW[..., None], values_HW3, np.float32(0)), size)
    mean /= np.maximum(weight, np.float32(1e-9))[..., None]
    return mean
