"""Cuts large pictures into tiles, and weights for their blending."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Corners of crops are multiples of it: torch keeps memory for each size of picture, so there should be few.
_CROP_STEP = 64


@dataclass(frozen=True)
class Tile:
    """Rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> tuple[slice, slice]:
        """Index of the tile in an (H, W, ...) array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def padded_length(length: int, *, multiple: int, minimum: int) -> int:
    """Least multiple that is at least `length` and `minimum`."""
    return math.ceil(max(length, minimum) / multiple) * multiple


def tiles(height: int, width: int, *, max_pixels: int, multiple: int, minimum: int) -> list[Tile]:
    """Overlapping tiles that cover a picture, in reading order.

    One tile if the padded picture has at most `max_pixels`. A tile has at most `max_pixels` when padded (or the
    smallest size possible, if that is more). Neighbours overlap by an eighth of a tile or more.
    """
    full = [padded_length(length, multiple=multiple, minimum=minimum) for length in (height, width)]
    if full[0] * full[1] <= max_pixels:
        return [Tile(0, 0, height, width)]
    smallest = padded_length(1, multiple=multiple, minimum=minimum)
    side = max(smallest, math.isqrt(max_pixels) // multiple * multiple)
    # Square tiles, but longer ones where the picture is a strip narrower than a square.
    rows = min(full[0], max(side, max_pixels // full[1] // multiple * multiple))
    columns = min(full[1], max(smallest, max_pixels // rows // multiple * multiple))
    return [
        Tile(top, left, min(rows, height), min(columns, width))
        for top in _starts(height, rows)
        for left in _starts(width, columns)
    ]


def _starts(length: int, tile: int) -> list[int]:
    if tile >= length:
        return [0]
    # The fewest tiles that overlap by an eighth, evenly spaced from edge to edge.
    count = math.ceil((length - tile) / (tile - tile // 8)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def around(tile: Tile, hole_HW: NDArray[np.bool_], *, margin: int) -> Tile:
    """Cuts a tile down to its holes and a margin."""
    rows, columns = (np.flatnonzero(hole_HW[tile.area].any(axis=axis)) for axis in (1, 0))
    top, left = (max(0, int(holes[0]) - margin) // _CROP_STEP * _CROP_STEP for holes in (rows, columns))
    bottom, right = (math.ceil((int(holes[-1]) + 1 + margin) / _CROP_STEP) * _CROP_STEP for holes in (rows, columns))
    return Tile(tile.top + top, tile.left + left, min(tile.height, bottom) - top, min(tile.width, right) - left)


def blend_weights(tile: Tile, height: int, width: int) -> NDArray[np.float32]:
    """Weight of each pixel of a tile: (tile.height, tile.width, 1).

    Above 0. Falls towards borders inside the picture, so that seams fade.
    """
    down = _ramp(tile.top, tile.height, height)
    across = _ramp(tile.left, tile.width, width)
    return (down[:, None] * across[None, :])[..., None]


def _ramp(start: int, length: int, whole: int) -> NDArray[np.float32]:
    distance = np.arange(length, dtype=np.float32) + 1
    reach = max(1, length // 8)
    ramp = np.full(length, 1, np.float32)
    # Only borders inside the picture have a neighbour to blend with.
    if start > 0:
        ramp = np.minimum(ramp, distance / reach)
    if start + length < whole:
        ramp = np.minimum(ramp, distance[::-1] / reach)
    return ramp
