"""Crops and flips of an RGB picture, as pure functions of pixels and a random generator.

Not here: decoding (`isnet.images.decode`), padding to a network's multiple (`isnet.inpaint`).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def random_crop(rgb: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A square of `size` at a place drawn from `rng`: uint8 (H, W, 3) to (size, size, 3).

    A picture with a side below `size` is enlarged first, so that its shorter side is `size`. Two numbers are drawn
    from `rng` whatever the picture's size.
    """
    u, v = rng.random(2)
    rgb = at_least(rgb, size)
    top = int(u * (rgb.shape[0] - size + 1))
    left = int(v * (rgb.shape[1] - size + 1))
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])


def shorter_side(rgb: Pixels, side: int) -> Pixels:
    """Resized in proportion so that the shorter side is `side`: uint8 (H, W, 3) in and out."""
    height, width = rgb.shape[:2]
    scale = side / min(height, width)
    return resized(rgb, max(side, round(height * scale)), max(side, round(width * scale)))


def at_least(rgb: Pixels, size: int) -> Pixels:
    """The picture itself, or enlarged in proportion so that its shorter side is `size`."""
    return rgb if min(rgb.shape[:2]) >= size else shorter_side(rgb, size)


def center_square(rgb: Pixels, size: int) -> Pixels:
    """The largest centred square, resized to `size`: how the author's release brings pictures to 256.

    uint8 (H, W, 3) to (size, size, 3).
    """
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resized(rgb[top : top + side, left : left + side], size, size)


def resized(rgb: Pixels, height: int, width: int) -> Pixels:
    """Bilinear resize of uint8 (H, W, 3), the support widened when it shrinks; the same array when the size is right.

    Writable, for torch, whose resize this is: integer arithmetic, the same bits on any processor, Pillow's result
    but for one level in about one sample of a thousand, in a third of its time.
    """
    import cv2

    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    # (1, 3, H, W), a view with the channels last in memory, as decoders lay them
    planes = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).permute(2, 0, 1)[None]
    # (1, 3, height, width), now truly so in memory
    shrunk = torch.nn.functional.interpolate(planes, (height, width), mode="bilinear", antialias=True)
    return cast("Pixels", cv2.merge(list(shrunk[0].contiguous().numpy())))


def flip(rgb: Pixels) -> Pixels:
    """Left and right exchanged, for (H, W) or (H, W, C)."""
    import cv2

    # numpy takes forty times as long to reverse groups of three bytes.
    return cast("Pixels", cv2.flip(np.ascontiguousarray(rgb), 1))


def planes(rgb: Pixels) -> Pixels:
    """Pixels as networks want them: uint8 (H, W, 3) to (3, H, W)."""
    import cv2

    apart: Pixels = np.empty((3, *rgb.shape[:2]), np.uint8)
    # Five times faster than numpy's copy of a transposed view.
    cv2.split(np.ascontiguousarray(rgb), list(apart))
    return apart
