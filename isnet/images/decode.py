"""Decodes picture files for training and evaluation.

Every picture becomes upright 8-bit RGB:

* gray, bilevel and palette pictures are expanded; alpha is dropped, the stored colours below it are kept;
* CMYK is converted without its profile, 16-bit samples keep their high byte, float samples must say their range;
* an animation or a multi-page file gives its first frame; the EXIF orientation is applied;
* a size beyond `max_pixels` is refused from the header, before anything is allocated;
* a damaged or truncated file is refused: half a picture is never returned.

Not here: opening and checking bytes (`isnet.images.open_image`), photos that are written back in their own mode
(`isnet.images.photo`), finding pictures in a folder (`isnet.images.folders`), masks (`isnet.masks`,
`isnet.mask_files`).
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.open_image import (
    DECODE_ERRORS,
    MAX_PIXELS,
    check_size,
    decode_failure,
    is_jpeg_damage,
    load_samples,
    open_picture,
    orientation_of,
    pillow_is_quiet,
)
from isnet.images.pixels import apply_orientation, to_rgb8

Pixels = NDArray[np.uint8]


def decode_rgb(data: bytes, *, shortest: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decodes bytes to upright RGB: uint8 (H, W, 3).

    With `shortest`, a picture at least twice as large is reduced while it is decoded, by the largest of 1, 2, 4, 8
    that leaves its shorter side at `shortest` pixels or more; the factor does not depend on the file format.

    Raises:
        PictureError: The picture cannot be used; the message says why.
    """
    if shortest is not None and shortest < 1:
        raise InputError(f"shortest is {shortest}; need at least 1 pixel, or None for the full size")
    # JPEG has a faster decoder of its own; it leaves unusual files to Pillow.
    if data[:3] == b"\xff\xd8\xff":
        rgb = _decode_jpeg(data, shortest, max_pixels)
        if rgb is not None:
            return rgb
    with open_picture(data, max_pixels=max_pixels) as image:
        factor = reduction(image.size, shortest)
        pixels, mode, palette = load_samples(image, data)
        rgb = to_rgb8(pixels, mode, palette)
        orientation = orientation_of(image)
    if factor > 1:
        rgb = np.asarray(Image.fromarray(rgb).reduce(factor))
    return apply_orientation(rgb, orientation)


def _decode_jpeg(data: bytes, shortest: int | None, max_pixels: int) -> Pixels | None:
    """Decodes with libjpeg-turbo; None where Pillow must do it.

    libjpeg-turbo is twice as fast as Pillow and strict about damage.
    """
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
    # Decode strictly first; again without that where the warning means no lost pixels.
    try:
        rgb: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, **smallest)
    except ValueError as error:
        if is_jpeg_damage(error):
            raise decode_failure(error, f"JPEG of {width}x{height}") from error
        rgb = simplejpeg.decode_jpeg(data, "RGB", min_factor=factor, strict=False, **smallest)
    return apply_orientation(rgb, _jpeg_orientation(data))


def _jpeg_orientation(data: bytes) -> int:
    # A byte search is far cheaper than Pillow's parser, and most pictures of a data set have no orientation.
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
    """End of a JPEG's headers; the file's end if malformed."""
    offset = 2
    while data[offset : offset + 1] == b"\xff" and offset + 4 <= len(data):
        marker = data[offset + 1]
        if marker == 0xDA:  # start of scan
            return offset
        # Any number of 0xFF may fill the space before a marker (ITU-T T.81, B.1.1.2).
        offset += 1 if marker == 0xFF else 2 + int.from_bytes(data[offset + 2 : offset + 4])
    return len(data)


def reduction(size: tuple[int, int], shortest: int | None) -> int:
    """Largest reduction, 1 to 8, that keeps `shortest` pixels."""
    if shortest is None:
        return 1
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or min(size) >= factor * shortest)
