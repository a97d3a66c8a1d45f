"""Bytes of a picture file to pixels, and the crops made of them: what training and evaluation read.

Every picture comes out as 8-bit RGB, upright. How each kind is brought there:

* gray, bilevel and palette pictures are expanded; alpha is dropped, the stored colours below it are kept;
* CMYK is converted without its profile, 16-bit samples keep their high byte, float samples must say their range;
* of an animation or a multi-page file the first frame is taken; the EXIF orientation is applied;
* a size beyond `max_pixels` is refused from the header, before anything is allocated;
* a broken or cut file is refused whole: half a picture is never returned.

Not here: how bytes are opened and checked (`isnet.images.open_image`), photos that are written back in their own mode
(`isnet.images.photo`), finding pictures in a folder (`isnet.images.folders`), masks (`isnet.masks`,
`isnet.mask_files`).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.crops import center_square, flip, random_crop
from isnet.images.files import MAX_FILE_BYTES, PictureError, read_bytes, shown
from isnet.images.open_image import (
    DECODE_ERRORS,
    MAX_PIXELS,
    broken,
    check_size,
    is_jpeg_damage,
    native,
    opened,
    orientation_of,
    pillow_is_quiet,
)
from isnet.images.pixels import to_rgb8, turned

__all__ = [
    "MAX_FILE_BYTES", "MAX_PIXELS", "PictureError", "center_square", "decode_rgb", "flip", "random_crop", "read_bytes",
    "shown",
]  # fmt: skip

Pixels = NDArray[np.uint8]


def decode_rgb(data: bytes, *, shortest: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an encoded picture to upright RGB: uint8 of shape (H, W, 3).

    With `shortest`, a picture at least twice as large is reduced while it is decoded, by the largest of 1, 2, 4, 8
    that leaves its shorter side at `shortest` pixels or more; the factor does not depend on the file format.

    Raises `PictureError` naming what is wrong.
    """
    if shortest is not None and shortest < 1:
        raise InputError(f"shortest is {shortest}; need at least 1 pixel, or None for the full size")
    if data[:3] == b"\xff\xd8\xff":
        rgb = _decode_jpeg(data, shortest, max_pixels)
        if rgb is not None:
            return rgb
    with opened(data, max_pixels=max_pixels) as image:
        factor = reduction(image.size, shortest)
        pixels, mode, palette = native(image, data)
        rgb = to_rgb8(pixels, mode, palette)
        orientation = orientation_of(image)
    if factor > 1:
        rgb = np.asarray(Image.fromarray(rgb).reduce(factor))
    return turned(rgb, orientation)


def _decode_jpeg(data: bytes, shortest: int | None, max_pixels: int) -> Pixels | None:
    """The same with libjpeg-turbo, twice as fast and strict about damage; None where Pillow has to do it."""
    import simplejpeg

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None  # unusual sampling factors, or no JPEG after all
    if colours not in ("YCbCr", "Gray", "RGB"):
        return None  # CMYK: turbo's conversion differs from Pillow's
    check_size(width, height, max_pixels)
    factor = reduction((width, height), shortest)
    smallest = {"min_height": -(-height // factor), "min_width": -(-width // factor)} if factor > 1 else {}
    try:
        rgb: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, **smallest)
    except ValueError as error:
        if is_jpeg_damage(error):
            raise broken(error, f"JPEG of {width}x{height}") from error
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, strict=False, **smallest)
    return turned(rgb, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    # Looking for the words is far cheaper than asking Pillow, and most pictures of a data set have neither.
    end = _start_of_scan(data)
    if data.find(b"Exif\0\0", 0, end) < 0 and data.find(b"tiff:Orientation", 0, end) < 0:
        return 1
    with pillow_is_quiet():
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
                return orientation_of(image)
        except (*DECODE_ERRORS, Image.DecompressionBombError):
            return 1  # a broken EXIF block is no reason to lose the picture


def _start_of_scan(data: bytes) -> int:
    """Where a JPEG's header segments end; the end of the file where they make no sense."""
    place = 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xDA:
            return place
        # Any number of 0xFF may fill the space before a marker (ITU-T T.81, B.1.1.2).
        place += 1 if marker == 0xFF else 2 + int.from_bytes(data[place + 2 : place + 4])
    return len(data)


def reduction(size: tuple[int, int], shortest: int | None) -> int:
    """The factor 1, 2, 4 or 8 by which a picture of `size` may shrink and still have `shortest` pixels a side."""
    if shortest is None:
        return 1
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(size) >= factor * shortest)
