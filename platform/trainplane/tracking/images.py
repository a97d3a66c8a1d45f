"""Strips of labelled panels, and sheets of several strips.

Arrays in, arrays out: uint8 RGB of shape (H, W, 3), or (H, W) for grey panels such as masks. The same input gives the
same bytes on every machine (a bitmap font, no resampling except by whole factors).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Pixels = NDArray[np.uint8]

CAPTION_HEIGHT = 14
GAP = 4
_PAPER = 255
_INK = (40, 40, 40)


def strip(panels: Sequence[tuple[str, NDArray[Any]]], *, least_height: int = 128, columns: int | None = None) -> Pixels:
    """Draws captioned panels of one size side by side.

    Args:
        panels: Captions with pixels, (H, W, 3) or (H, W), uint8.
        least_height: Lower panels are enlarged by a whole factor (nearest neighbour), to be seen as thumbnails.
        columns: Panels in one row; None: all.
    """
    if not panels:
        raise ValueError("a strip needs at least one panel")
    images = [_rgb(pixels, caption) for caption, pixels in panels]
    sizes = {image.shape[:2] for image in images}
    if len(sizes) > 1:
        raise ValueError(f"panels of one strip must have one size, got {sorted(sizes)}; crop them alike")
    factor = max(1, -(-least_height // images[0].shape[0]))
    # (H, W, 3) -> (factor * H, factor * W, 3)
    images = [image.repeat(factor, axis=0).repeat(factor, axis=1) for image in images]
    height, width = images[0].shape[:2]
    # Rounded up: the last row may be shorter.
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    canvas = np.full((rows * (CAPTION_HEIGHT + height), columns * (width + GAP) - GAP, 3), _PAPER, dtype=np.uint8)
    for index, ((caption, _), image) in enumerate(zip(panels, images, strict=True)):
        top, left = index // columns * (CAPTION_HEIGHT + height), index % columns * (width + GAP)
        canvas[top : top + CAPTION_HEIGHT, left : left + width] = _caption(caption, width)
        canvas[top + CAPTION_HEIGHT : top + CAPTION_HEIGHT + height, left : left + width] = image
    return canvas


def contact_sheet(strips: Sequence[tuple[str, Pixels]], *, columns: int = 1) -> Pixels:
    """Draws strips in a grid, each under its title.

    Titles have one or more lines; strips are (H, W, 3). A row is as high as its highest strip, all columns are as wide
    as the widest.
    """
    if not strips:
        raise ValueError("a contact sheet needs at least one strip")
    width = max(pixels.shape[1] for _, pixels in strips)
    title_height = max(title.count("\n") + 1 for title, _ in strips) * CAPTION_HEIGHT
    rows = [strips[start : start + columns] for start in range(0, len(strips), columns)]
    heights = [title_height + max(pixels.shape[0] for _, pixels in row) for row in rows]
    canvas_height = sum(heights) + GAP * (len(rows) - 1)
    canvas = np.full((canvas_height, columns * (width + GAP) - GAP, 3), _PAPER, dtype=np.uint8)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, (title, pixels) in enumerate(row):
            left = column * (width + GAP)
            for number, line in enumerate(title.split("\n")):
                line_top = top + number * CAPTION_HEIGHT
                canvas[line_top : line_top + CAPTION_HEIGHT, left : left + width] = _caption(line, width)
            strip_top = top + title_height
            canvas[strip_top : strip_top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        top += height + GAP
    return canvas


def _caption(text: str, width: int) -> Pixels:
    """One line of text on white, (CAPTION_HEIGHT, width, 3), cropped."""
    line = Image.new("RGB", (width, CAPTION_HEIGHT), (_PAPER, _PAPER, _PAPER))
    # The bitmap font has Latin-1 letters only.
    drawable = text.encode("latin-1", errors="replace").decode("latin-1")
    ImageDraw.Draw(line).text((2, 1), drawable, fill=_INK, font=ImageFont.load_default_imagefont())
    return np.asarray(line)


def _rgb(pixels: NDArray[Any], caption: str) -> Pixels:
    if pixels.dtype != np.uint8:
        raise ValueError(f"panel {caption!r} has dtype {pixels.dtype}, need uint8 with values 0 to 255")
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        return pixels
    raise ValueError(f"panel {caption!r} has shape {pixels.shape}, need (H, W, 3) or (H, W)")
