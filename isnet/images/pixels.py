"""Samples and modes of a picture, and conversion to RGB.

Modes have Pillow's names. For samples that Pillow cannot hold: `RGB;16`, `RGBA;16`, `LA;16` (uint16) and `RGB;F`,
`RGBA;F` (float). Arrays are (H, W) for one sample a pixel and (H, W, C) otherwise. Palette pictures are indices beside
an RGBA palette (N, 4). Alpha is never mixed into the colours: RGB is what is stored.

Not here: files (`isnet.images.decode`, `isnet.images.photo`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError

Array = NDArray[Any]
Palette = NDArray[np.uint8]

# Weights of ITU-R BT.601, as Pillow's own conversion to gray.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_PLAIN = ("1", "L", "LA", "RGB", "RGBA", "CMYK")


def samples_from_pillow(image: Image.Image) -> tuple[Array, str, Palette | None]:
    """Samples, mode and palette of a loaded Pillow image.

    Modes that no `Photo` has are converted to the nearest one.
    """
    mode = image.mode
    # Indices stay indices.
    if mode in ("P", "PA"):
        if mode == "PA":
            return np.asarray(image.convert("RGBA")), "RGBA", None
        indices = np.asarray(image)
        return indices, "P", _covering(read_palette(image), int(indices.max()))
    if mode in _PLAIN:
        return np.asarray(image), mode, None
    # Integers of 16 bits come as I;16, I;16B or, from some formats, as 32-bit I.
    if mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), "I;16", None
    if mode == "I":
        return _from_int32(np.asarray(image)), "I;16", None
    if mode == "F":
        return checked_float(np.asarray(image)), "F", None
    # Colours multiplied by alpha become straight; LAB, YCbCr and HSV become RGB.
    target = {"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")
    return np.asarray(image.convert(target)), target, None


def read_palette(image: Image.Image) -> Palette:
    """Reads the palette as RGBA entries, uint8 (N, 4)."""
    flat = image.getpalette("RGBA") or []
    palette = np.array(flat, np.uint8).reshape(-1, 4)
    # Without a palette, indices are levels of gray.
    if len(palette) == 0:
        palette = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 4, axis=1)
        palette[:, 3] = 255
    # One transparent index, or the alpha of the first entries; the others are opaque.
    transparency = image.info.get("transparency")
    if isinstance(transparency, int) and 0 <= transparency < len(palette):
        palette[transparency, 3] = 0
    elif isinstance(transparency, bytes):
        count = min(len(transparency), len(palette))
        palette[:count, 3] = np.frombuffer(transparency, np.uint8)[:count]
    return palette


def _covering(palette: Palette, largest_index: int) -> Palette:
    """Adds opaque black up to the largest index, like viewers."""
    missing = np.zeros((max(0, largest_index + 1 - len(palette)), 4), np.uint8)
    missing[:, 3] = 255
    return np.concatenate([palette, missing])


def _from_int32(values: Array) -> NDArray[np.uint16]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise InputError(f"integer pixels from {low} to {high}; need 0 to 65535; rescale the picture")
    return values.astype(np.uint16)


def checked_float(values: Array) -> Array:
    """Checks that floats are finite and within [0, 1].

    Their scale is never guessed.
    """
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            f"{values.size - int(finite.sum())} of {values.size} samples are NaN or infinite, the first at {where}; "
            "need finite values; mend or mask them before"
        )
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        raise InputError(f"float pixels from {low:.6g} to {high:.6g}; need 0 to 1; divide by the largest value first")
    return values


def invert_gray(values: Array) -> Array:
    """Inverts gray: uint16, or float in [0, 1]."""
    return 65535 - values if values.dtype == np.uint16 else 1 - values


def unpremultiply(samples_HW4: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Divides the colours of RGBA by alpha, rounded.

    Black where alpha is 0.
    """
    alpha = samples_HW4[..., 3:].astype(np.uint32)
    # 65535 · 65535 + 32767 fits into 32 bits.
    colours = (samples_HW4[..., :3] * np.uint32(65535) + alpha // 2) // np.maximum(alpha, 1)
    colours = np.minimum(colours, 65535) * (alpha > 0)
    return np.concatenate([colours.astype(np.uint16), samples_HW4[..., 3:]], axis=2)


def to_rgb8(pixels: Array, mode: str, palette: Palette | None = None) -> NDArray[np.uint8]:
    """Converts to RGB: uint8 (H, W, 3)."""
    colours = _colours(pixels, mode, palette)
    # 16 bits keep their high byte.
    if colours.dtype == np.uint16:
        colours = (colours >> 8).astype(np.uint8)
    elif colours.dtype == np.bool_:
        colours = colours.astype(np.uint8) * np.uint8(255)
    elif colours.dtype != np.uint8:
        colours = np.rint(colours * 255).astype(np.uint8)
    return np.ascontiguousarray(_three(colours))


def to_rgb(pixels: Array, mode: str, palette: Palette | None = None) -> NDArray[np.float32]:
    """Converts to RGB: float32 (H, W, 3) in [0, 1]."""
    colours = _colours(pixels, mode, palette)
    largest = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(colours.dtype, 1)
    scaled = colours.astype(np.float32) / np.float32(largest)
    return np.ascontiguousarray(_three(scaled))


def _colours(pixels: Array, mode: str, palette: Palette | None) -> Array:
    """Gray (H, W) or RGB (H, W, 3), without alpha."""
    if mode == "P":
        assert palette is not None
        return palette[:, :3][pixels]
    if mode == "CMYK":
        inks = pixels.astype(np.uint16)
        white = 255 - inks[..., 3:]
        # (H, W, 3): the rounded product of two 8-bit fractions.
        product = inks[..., :3] * white + 128
        return (white - ((product + (product >> 8)) >> 8)).astype(np.uint8)
    if mode.startswith("LA"):
        return pixels[..., 0]
    return pixels[..., :3] if pixels.ndim == 3 else pixels


def _three(colours: Array) -> Array:
    return np.repeat(colours[..., None], 3, axis=2) if colours.ndim == 2 else colours


def luma(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """Converts RGB to gray: (..., 3) to (...)."""
    return rgb @ _LUMA


def apply_orientation(pixels: Array, orientation: int) -> Array:
    """Turns an array upright by EXIF orientation 1 to 8.

    Any array (H, W, ...); the result is writable and contiguous.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    # Pillow's arrays are read-only, which torch complains about.
    return np.require(pixels, requirements=["C", "W"])
