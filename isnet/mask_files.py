"""Reads users' masks from files and arrays by explicit rules.

The rules are the same for training, evaluation and use, and anything odd about a mask becomes a note. White is hole
unless the rules have `hole="black"`; a pixel counts as white when any of its channels reaches `threshold`; transparent
pixels get the colour that means "keep"; a mask whose colours are all alike is read from its alpha. A resize is always
nearest.

`resize_like_loader` also has the author's two ways of bringing a mask to a picture's size; both change how large the
hole is. `isnet evaluate --mask-study` measures the effect.

Not here: drawing masks (`isnet.masks`).
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.files import PictureError, display_name, read_bytes
from isnet.images.folders import find_pictures
from isnet.images.open_image import MAX_PIXELS, load_samples, open_picture, orientation_of
from isnet.images.pixels import apply_orientation, checked_float, to_rgb8
from isnet.masks import Hole, hole_ratio, resized_hole

Polarity = Literal["white", "black"]
Loading = Literal["nearest", "legacy-png", "legacy-jpeg"]
LOADINGS: tuple[Loading, ...] = get_args(Loading)
Array = NDArray[Any]

# The largest ratio that has a bin in the published test masks; beyond it a mask is more often inverted than meant.
INVERTED_ABOVE = 0.6
# Anti-aliased edges make few gray pixels, a photo taken for a mask many.
GRAY_ABOVE = 0.25
# Of loading legacy-jpeg. The author's own quality is unknown.
_JPEG_QUALITY = 75


@dataclass(frozen=True, kw_only=True)
class MaskRules:
    """Rules for reading a mask.

    Stored beside the weights, so that use and training agree.

    Attributes:
        hole: Colour that means hole.
        threshold: Smallest value that counts as white, 1 to 255.
    """

    hole: Polarity = "white"
    threshold: int = 128

    def __post_init__(self) -> None:
        if self.hole not in get_args(Polarity):
            raise InputError(f"mask rule hole={self.hole!r}; need 'white' or 'black'")
        if not 1 <= self.threshold <= 255:
            raise InputError(f"mask rule threshold={self.threshold}; need 1 to 255")


@dataclass(frozen=True, kw_only=True)
class ReadMask:
    """Mask, True in the hole, with notes for the user."""

    hole: Hole
    ratio: float
    notes: tuple[str, ...] = ()

    def resized(self, height: int, width: int) -> ReadMask:
        """Resizes by nearest neighbour and notes it."""
        if self.hole.shape == (height, width):
            return self
        hole = resized_hole(self.hole, height, width)
        note = f"mask resized from {self.hole.shape[1]}x{self.hole.shape[0]} to {width}x{height}"
        return replace(self, hole=hole, ratio=hole_ratio(hole), notes=(*self.notes, note))


def read_mask(
    source: str | os.PathLike[str] | bytes,
    *,
    rules: MaskRules | None = None,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> ReadMask:
    """Reads a mask from a file or bytes, turned upright.

    With `size` (height, width) it is resized, and its ratio measured after that. Raises PictureError where it cannot be
    read.
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    with open_picture(data, max_pixels=max_pixels) as image:
        pixels, mode, palette = load_samples(image, data)
        orientation = orientation_of(image)
    # A palette without transparency has no alpha.
    alpha = None
    if mode == "P" and palette is not None:
        alpha = palette[:, 3][pixels] if (palette[:, 3] < 255).any() else None
    elif mode in ("LA", "RGBA"):
        alpha = pixels[..., -1]
    # 16-bit gray keeps its range until `_decide`: some programs store 0 and 255, or 0 and 1, in it.
    values = pixels if mode in ("I;16", "L", "1", "F") else to_rgb8(pixels, mode, palette).max(axis=2)
    mask = _decide(
        apply_orientation(values, orientation), None if alpha is None else apply_orientation(alpha, orientation), rules
    )
    return mask if size is None else mask.resized(*size)


def mask_from_array(array: Array, *, rules: MaskRules | None = None) -> ReadMask:
    """Reads a mask from an array.

    Shape (H, W) or (H, W, 1 to 4); bool, integers 0 to 255 (or 0 and 1), uint16, or float 0 to 1.
    """
    shape = array.shape
    if array.ndim not in (2, 3) or array.size == 0 or (array.ndim == 3 and shape[2] > 4):
        raise InputError(f"mask has shape {shape}; need (height, width) or (height, width, 1 to 4)")
    # A type in the other byte order is not equal to its native twin, and the checks below compare types.
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind == "f":
        array = checked_float(array)
    elif array.dtype.kind in "iu" and array.dtype != np.uint16:
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise InputError(
                f"mask has {array.dtype} values from {low} to {high}; need 0 to 255, bool, or float 0 to 1"
            )
        array = array.astype(np.uint8)
    elif array.dtype.kind not in "bu":
        raise InputError(f"mask has dtype {array.dtype}; need bool, uint8, uint16 or float")
    # Two or four channels end in alpha; of the colours the largest counts.
    alpha = None
    if array.ndim == 3:
        if shape[2] in (2, 4):
            alpha = _bytes(array[..., -1])
            array = array[..., :-1]
        array = array.max(axis=2)
    return _decide(array, alpha, rules)


def _decide(values: Array, alpha: NDArray[np.uint8] | None, rules: MaskRules | None) -> ReadMask:
    """Applies the rules to gray values (H, W)."""
    rules = rules or MaskRules()
    notes: list[str] = []
    # Values that use a small part of their type's range.
    if values.dtype.kind == "u" and 0 < values.max() <= 1:
        values = values.astype(np.uint8) * np.uint8(255)
        notes.append("mask has only the values 0 and 1; 1 was read as white")
    elif values.dtype == np.uint16 and values.max() <= 255:
        values = values.astype(np.uint8)
        notes.append("mask is 16-bit with values up to 255; they were read as 8-bit")
    # Transparency, then the threshold.
    gray = _bytes(values)
    if alpha is not None:
        gray, from_alpha = _flattened(gray, alpha, rules)
        if from_alpha:
            notes.append(f"the hole was read from the mask's alpha: {from_alpha}")
    hole = gray >= rules.threshold if rules.hole == "white" else gray < rules.threshold
    ratio = hole_ratio(hole)
    return ReadMask(hole=hole, ratio=ratio, notes=(*notes, *_findings(gray, ratio, rules)))


def _flattened(gray: NDArray[np.uint8], alpha: NDArray[np.uint8], rules: MaskRules) -> tuple[NDArray[np.uint8], str]:
    # Gray without transparency, and a note where alpha itself is the mask: there the colours are all alike.
    if gray.min() == gray.max() and alpha.min() != alpha.max():
        return alpha, "opaque is hole" if rules.hole == "white" else "transparent is hole"
    # Transparent pixels get the colour that means keep; rounded to the nearest integer.
    keep = 0 if rules.hole == "white" else 255
    weight = alpha.astype(np.uint16)
    return ((gray * weight + keep * (255 - weight) + 127) // 255).astype(np.uint8), ""


def _findings(gray: NDArray[np.uint8], ratio: float, rules: MaskRules) -> list[str]:
    opposite = "black" if rules.hole == "white" else "white"
    inverted = f"{rules.hole} means hole here, set it to {opposite} if the mask is inverted"
    largest = int(gray.max())
    if ratio == 0 and rules.hole == "white" and largest > 0:
        return [f"mask has no hole: its largest value is {largest}, below the threshold {rules.threshold}"]
    if ratio == 0:
        return ["mask has no hole"]
    if ratio == 1:
        return [f"everything is hole; {inverted}"]
    findings = []
    if ratio > INVERTED_ABOVE:
        findings.append(f"{ratio:.0%} is hole; {inverted}")
    # Neither near black nor near white.
    grays = float(np.mean((gray > 32) & (gray < 224)))
    if grays > GRAY_ABOVE:
        findings.append(f"{grays:.0%} of the mask is neither dark nor light; is it a mask?")
    return findings


def _bytes(values: Array) -> NDArray[np.uint8]:
    """Converts bool, uint16 or float 0 to 1 to uint8."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return (values >> 8).astype(np.uint8)
    return values if values.dtype == np.uint8 else np.rint(checked_float(values) * 255).astype(np.uint8)


def read_silhouettes(folder: str | os.PathLike[str], *, rules: MaskRules | None = None) -> tuple[Hole, ...]:
    """Reads a folder's shapes for `isnet.masks.silhouette`.

    Each is cut to its bounding box. Files without a shape are skipped; `InputError` where no shape remains or a file
    cannot be read.
    """
    shapes = []
    for path in find_pictures(folder)[0]:
        try:
            hole = read_mask(path, rules=rules).hole
        except PictureError as error:
            raise PictureError(error.kind, f"{display_name(path)}: {error.message}") from error
        rows, columns = np.flatnonzero(hole.any(axis=1)), np.flatnonzero(hole.any(axis=0))
        if len(rows) and not hole.all():
            shapes.append(hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    if not shapes:
        raise InputError(f"{display_name(folder)} has no mask with a shape in it; need white objects on black")
    return tuple(shapes)


def resize_like_loader(hole_HW: Hole, height: int, width: int, *, loader: Loading = "nearest") -> Hole:
    """Resizes a hole as one of three loaders does.

    * nearest: ours, nearest neighbour; the hole stays as large as it was drawn.
    * legacy-png: the author's (ISNET.md §8 row 18). Valid pixels are white, the resize is bilinear, and all values
      above 0 are valid; a hole loses the rim in which the resize mixed both.
    * legacy-jpeg: the same from a mask that was stored as JPEG of quality 75, whose ringing makes valid pixels deep
      inside the hole.
    """
    if loader not in LOADINGS:
        raise InputError(f"mask loading {loader!r} is unknown; need one of {', '.join(LOADINGS)}")
    if loader == "nearest":
        return resized_hole(hole_HW, height, width)
    valid = Image.fromarray(np.where(hole_HW, np.uint8(0), np.uint8(255)))
    if loader == "legacy-jpeg":
        file = io.BytesIO()
        valid.save(file, "JPEG", quality=_JPEG_QUALITY)
        valid = Image.open(file)
    # Everything above 0 is valid: the line that makes the author's holes shrink.
    hole: Hole = np.asarray(valid.resize((width, height), Image.Resampling.BILINEAR)) == 0
    return hole
