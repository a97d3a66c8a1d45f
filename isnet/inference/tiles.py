"""Where to cut a large picture so that its pieces fit a limit, and how to put them together again. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tile:
    """A rectangle in pixels, `height` rows from `top` and `width` columns from `left`."""

    top: int
    left: int
    height: int
    width: int

    @property
    def area(self) -> tuple[slice, slice]:
        """For indexing an (H, W, ...) array."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def padded_length(length: int, *, multiple: int, minimum: int) -> int:
    """The least multiple that holds `length` and `minimum`."""
    return math.ceil(max(length, minimum) / multiple) * multiple


def tiles(height: int, width: int, *, max_pixels: int, multiple: int, minimum: int) -> list[Tile]:
    """Overlapping tiles that cover the picture, in reading order; one tile if the padded picture has `max_pixels`.

    A tile has at most `max_pixels` when padded (or the smallest size possible, if that is more). Neighbours overlap by
    an eighth of a tile or more.
    """
    full = [padded_length(length, multiple=multiple, minimum=minimum) for length in (height, width)]
    if full[0] * full[1] <= max_pixels:
        return [Tile(0, 0, height, width)]
    smallest = padded_length(1, multiple=multiple, minimum=minimum)
    side = max(smallest, math.isqrt(max_pixels) // multiple * multiple)
    # A strip's short side leaves room for a longer tile.
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
    count = math.ceil((length - tile) / (tile - tile // 8)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blend_weights(tile: Tile, height: int, width: int) -> NDArray[np.float32]:
    """How much each pixel of a tile counts where tiles overlap: (tile.height, tile.width, 1), above 0.

    Falls towards the borders that lie inside the picture, so that seams fade.
    """
    down = _ramp(tile.top, tile.height, height)
    across = _ramp(tile.left, tile.width, width)
    return (down[:, None] * across[None, :])[..., None]


def _ramp(start: int, length: int, whole: int) -> NDArray[np.float32]:
    place = np.arange(length, dtype=np.float32) + 1
    reach = max(1, length // 8)
    ramp = np.full(length, 1, np.float32)
    if start > 0:
        ramp = np.minimum(ramp, place / reach)
    if start + length < whole:
        ramp = np.minimum(ramp, place[::-1] / reach)
    return ramp
