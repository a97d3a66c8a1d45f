"""Crops, resizes and flips of RGB pictures.

Pure functions of pixels and a random generator. Not here: decoding (`isnet.images.decode`), padding to a network's
multiple (`isnet.inference.predictor`).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def random_crop(rgb: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """Random square crop: (H, W, 3) to (size, size, 3).

    A picture with a side below `size` is enlarged first, so that its shorter side is `size`.
    """
    # Always two draws, so that the picture's size does not shift the random sequence.
    u, v = rng.random(2)
    rgb = enlarge_to(rgb, size)
    top = int(u * (rgb.shape[0] - size + 1))
    left = int(v * (rgb.shape[1] - size + 1))
    return np.ascontiguousarray(rgb[top : top + size, left : left + size])


def resize_shorter_side(rgb: Pixels, side: int) -> Pixels:
    """Resizes in proportion to a shorter side of `side` pixels."""
    height, width = rgb.shape[:2]
    scale = side / min(height, width)
    return resize(rgb, max(side, round(height * scale)), max(side, round(width * scale)))


def enlarge_to(rgb: Pixels, size: int) -> Pixels:
    """Enlarges in proportion where the shorter side is below `size`."""
    return rgb if min(rgb.shape[:2]) >= size else resize_shorter_side(rgb, size)


def center_square(rgb: Pixels, size: int) -> Pixels:
    """Largest centred square, resized to `size`: uint8 (size, size, 3).

    The author's release brings pictures to 256 in this way.
    """
    height, width = rgb.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(rgb[top : top + side, left : left + side], size, size)


def resize(rgb: Pixels, height: int, width: int) -> Pixels:
    """Antialiased bilinear resize of uint8 (H, W, 3), writable.

    Torch's resize uses integer arithmetic: the same bits on any processor. It takes a third of Pillow's time, and
    differs from Pillow by one level in about one sample of a thousand.
    """
    import cv2

    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    # (1, 3, H, W): a view with the channels last in memory, as decoders store them.
    view = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).permute(2, 0, 1)[None]
    # Back to (height, width, 3): make the planes contiguous, then interleave them.
    shrunk = torch.nn.functional.interpolate(view, (height, width), mode="bilinear", antialias=True)
    return cast("Pixels", cv2.merge(list(shrunk[0].contiguous().numpy())))


def flip(rgb: Pixels) -> Pixels:
    """Mirrors left and right: (H, W) or (H, W, C)."""
    import cv2

    # numpy takes forty times as long to reverse groups of three bytes.
    return cast("Pixels", cv2.flip(np.ascontiguousarray(rgb), 1))


def channels_first(rgb: Pixels) -> Pixels:
    """Moves channels first: (H, W, 3) to (3, H, W)."""
    import cv2

    planes: Pixels = np.empty((3, *rgb.shape[:2]), np.uint8)
    # Five times faster than numpy's copy of a transposed view.
    cv2.split(np.ascontiguousarray(rgb), list(planes))
    return planes
