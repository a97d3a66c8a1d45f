"""Fills the hole of one request, bytes in and out."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import cast

import numpy as np
from PIL import Image

from isnet.errors import InputError, NonFiniteOutput
from isnet.images.open_image import MAX_PIXELS
from isnet.images.photo import read_photo
from isnet.images.provenance import MEDIA_TYPES
from isnet.images.save import encode_photo
from isnet.inference.edges import checked_border
from isnet.inference.filler import Filler
from isnet.inference.predictor import Predictor, checked_refine
from isnet.inpaint import inpaint
from isnet.mask_files import read_mask
from jobs.inference.signing import Signing
from trainplane.serving.engine import BadOutput, Fact, Output

INPUTS = ("photo", "mask")
OPTIONS: Mapping[str, object] = {"refine": "auto", "grow": 0, "feather": 0}
# An option of a request: the file must not say which version filled it.
BLIND = "blind"
# A photo's format to the suffix that is written. Formats that are not written here become PNG.
_SUFFIXES = {
    "PNG": ".png",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "WEBP": ".webp",
    "TIFF": ".tif",
    "BMP": ".bmp",
    "GIF": ".gif",
    "JPEG2000": ".jp2",
}
_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".webp": "image/webp",
    ".tif": "image/tiff",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jp2": "image/jp2",
}
SUFFIX_OF = {media_type: suffix for suffix, media_type in _MEDIA_TYPES.items()}
PREVIEW_SIDE = 2048


def checked_options(fields: Mapping[str, str]) -> dict[str, object]:
    """Checks a request's text fields; raises `InputError`."""
    options = dict(OPTIONS)
    if "refine" in fields:
        options["refine"] = checked_refine(fields["refine"])
    for name in ("grow", "feather"):
        if name not in fields:
            continue
        try:
            options[name] = int(fields[name])
        except ValueError as error:
            raise InputError(f"{name} is {fields[name][:40]!r}; need a whole number of pixels, 0 to 1024") from error
        checked_border(name, options[name])
    return options


def fill_hole(
    filler: Filler,
    inputs: Mapping[str, bytes],
    options: Mapping[str, object],
    *,
    max_pixels: int = MAX_PIXELS,
    signing: Signing | None = None,
) -> Output:
    """Fills the hole of a photo.

    Args:
        filler: The method.
        inputs: The files `photo` and `mask`; white in the mask is the hole.
        options: Those of `OPTIONS`, and `BLIND`.
        max_pixels: Larger pictures are refused from their header.
        signing: Signs the file; None leaves it as it is.

    Raises:
        InputError: Photo and mask cannot be used.
        BadOutput: The network answered with NaN or infinity.
    """
    try:
        mask = read_mask(inputs["mask"], max_pixels=max_pixels)
    except InputError as error:
        raise InputError(f"the mask is no picture to read: {error}") from error
    if mask.ratio in (0, 1):
        extent = "no hole" if mask.ratio == 0 else "nothing but hole"
        raise InputError(f"the mask has {extent}; paint white over what is to be filled, and leave the rest black")
    try:
        result = inpaint(
            inputs["photo"],
            mask.hole,
            model=filler,
            max_pixels=max_pixels,
            # Methods without a network have no scales to refine.
            refine=checked_refine(options["refine"]) if isinstance(filler, Predictor) else None,
            grow=cast(int, options["grow"]),
            feather=cast(int, options["feather"]),
        )
    except NonFiniteOutput as error:
        raise BadOutput(str(error)) from error
    suffix = _SUFFIXES.get(result.photo.format, ".png")
    content, losses = encode_photo(result.photo, suffix)
    if signing is not None and options.get(BLIND):
        signing = signing.without_version()
    if signing is not None and suffix in MEDIA_TYPES:
        form = result.photo.format or ""
        content = signing(content, suffix, original=inputs["photo"], original_format=form, hole=result.hole)
    elif signing is not None:
        losses = (*losses, f"it is not signed: {suffix} has no place for content credentials")
    height, width = result.photo.size
    # The mask was read twice, as a file and as an array; the same remark is made once.
    notes = tuple(dict.fromkeys((*mask.notes, *result.notes, *losses)))
    facts: dict[str, Fact] = {
        "hole_ratio": round(result.ratio, 6),
        "width": width,
        "height": height,
        "mode": result.photo.mode,
        "format": result.photo.format or "array",
        "device": str(getattr(filler, "device", "cpu")),
    }
    if isinstance(filler, Predictor):
        facts["tiles"] = len(filler.plan(height, width))
    return Output(content, _MEDIA_TYPES[suffix], notes, facts)


def preview_png(content: bytes) -> bytes:
    """Encodes a filled file for browsers.

    The PNG has 8 bits and sides of at most 2048 pixels.
    """
    photo = read_photo(content)
    pixels = photo.plain() if photo.mode.startswith(("RGBA", "LA", "P")) else photo.rgb8()
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        pixels = photo.rgb8()
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.BOX)
    file = io.BytesIO()
    # The browser is near: little time for a small file.
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def difference(one: bytes, other: bytes) -> dict[str, float]:
    """Mean and largest difference of two pictures, 0 to 255."""
    first, second = (read_photo(content).rgb8().astype(np.int16) for content in (one, other))
    if first.shape != second.shape:
        return {"shape": 1.0}
    distance = np.abs(first - second)
    return {"mean": float(distance.mean()), "largest": float(distance.max())}
