"""Pictures to look at: labelled panels side by side, and sheets of several such strips.

Arrays in, arrays out: uint8 RGB of shape (H, W, 3), or (H, W) for greys such as masks. The same input gives the same
bytes on every machine (a bitmap font, no resampling except by whole factors). What the panels show, and where the
pictures are recorded, is the caller's business (`tracker.Recorder.log_picture`).
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
    """Panels of equal height and width, each under its caption: in one row, or `columns` beside one another.

    Panels lower than `least_height` pixels are enlarged by a whole factor (nearest neighbour), so that a thumbnail of
    a laptop run can be seen. Returns (H, W, 3).
    """
    if not panels:
        raise ValueError("a strip needs at least one panel")
    pictures = [_rgb(pixels, caption) for caption, pixels in panels]
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        raise ValueError(f"panels of one strip must have one size, got {sorted(sizes)}; crop them alike")
    factor = max(1, -(-least_height // pictures[0].shape[0]))
    # (H, W, 3) -> (factor * H, factor * W, 3)
    pictures = [picture.repeat(factor, axis=0).repeat(factor, axis=1) for picture in pictures]
    height, width = pictures[0].shape[:2]
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (CAPTION_HEIGHT + height), columns * (width + GAP) - GAP, 3), _PAPER, dtype=np.uint8)
    for index, ((caption, _), picture) in enumerate(zip(panels, pictures, strict=True)):
        top, left = index // columns * (CAPTION_HEIGHT + height), index % columns * (width + GAP)
        canvas[top : top + CAPTION_HEIGHT, left : left + width] = _caption(caption, width)
        canvas[top + CAPTION_HEIGHT : top + CAPTION_HEIGHT + height, left : left + width] = picture
    return canvas


def contact_sheet(strips: Sequence[tuple[str, Pixels]], *, columns: int = 1) -> Pixels:
    """Strips with a title above each, of one line or several, `columns` beside one another; shorter and narrower strips
    are padded with white.

    Returns (H, W, 3).
    """
    if not strips:
        raise ValueError("a contact sheet needs at least one strip")
    width = max(pixels.shape[1] for _, pixels in strips)
    titled = max(title.count("\n") + 1 for title, _ in strips) * CAPTION_HEIGHT
    height = max(pixels.shape[0] for _, pixels in strips) + titled
    rows = -(-len(strips) // columns)
    canvas = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), _PAPER, dtype=np.uint8)
    for index, (title, pixels) in enumerate(strips):
        top = (index // columns) * (height + GAP)
        left = (index % columns) * (width + GAP)
        for number, line in enumerate(title.split("\n")):
            place = top + number * CAPTION_HEIGHT
            canvas[place : place + CAPTION_HEIGHT, left : left + width] = _caption(line, width)
        below = top + titled
        canvas[below : below + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return canvas


def _caption(text: str, width: int) -> Pixels:
    """One line of text on white, (CAPTION_HEIGHT, width, 3), cut at the right edge."""
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
