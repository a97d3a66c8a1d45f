"""Photos in their own mode; filling keeps known samples.

    photo = read_photo("garden.png")
    photo.filled(prediction_HW3, hole_HW)          # a new Photo, unchanged outside the hole

Kept: mode, size, palette, alpha, 16 bits, colour profile, resolution, and metadata without previews
(`isnet.images.metadata`); from PNG to PNG also the chunks that define its colours. The EXIF orientation is applied to
the samples.

Not here: writing files (`isnet.images.save`), decoding for training (`isnet.images.decode`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.depth import avif_colour_codes, depth_notes, jpeg_2000_profile, stored_depth
from isnet.images.files import PictureError, read_bytes
from isnet.images.metadata import Metadata, read_metadata
from isnet.images.open_image import MAX_PIXELS, load_samples, open_picture, orientation_of
from isnet.images.palette import extend_palette
from isnet.images.pixels import Array, Palette, apply_orientation, checked_float, luma, to_rgb, to_rgb8, unpremultiply
from isnet.images.png_chunks import Chunks, colour_chunks, colour_profile, without_animation, without_refused_chunks
from isnet.images.tiff_tags import bits_per_sample, is_premultiplied, reading_notes


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """Upright samples of a picture, and their metadata.

    Attributes:
        pixels: Samples (H, W) or (H, W, C).
        mode: A mode of `isnet.images.pixels`.
        palette: RGBA entries of mode P, uint8 (N, 4).
        icc: Bytes of the colour profile.
        colours: The chunks in which a PNG defines its colours, beside or without a profile.
        dpi: Horizontal and vertical resolution.
        metadata: What describes the picture, without previews.
        format: The file's format, such as "PNG"; empty for arrays.
        orientation: The stored EXIF orientation 1 to 8, already applied.
        notes: Remarks for the user about reading it.
    """

    pixels: Array
    mode: str
    palette: Palette | None = None
    icc: bytes | None = None
    colours: Chunks = ()
    dpi: tuple[float, float] | None = None
    metadata: Metadata = field(default_factory=Metadata)
    format: str = ""
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as shown."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb(self) -> NDArray[np.float32]:
        """Converts to RGB: float32 (H, W, 3) in [0, 1]."""
        return to_rgb(self.pixels, self.mode, self.palette)

    def rgb8(self) -> NDArray[np.uint8]:
        """Converts to RGB: uint8 (H, W, 3)."""
        return to_rgb8(self.pixels, self.mode, self.palette)

    def plain(self) -> Array:
        """Samples without palette or inks, at the photo's depth.

        Gray (H, W), gray and alpha (H, W, 2), RGB (H, W, 3) or RGBA (H, W, 4).
        """
        if self.mode == "P" and self.palette is not None and (self.palette[:, 3] < 255).any():
            return np.dstack([self.rgb8(), self.palette[:, 3][self.pixels]])
        if self.mode in ("P", "CMYK"):
            return self.rgb8()
        return self.pixels.astype(np.uint8) * np.uint8(255) if self.mode == "1" else self.pixels

    def filled(self, rgb_HW3: NDArray[np.float32], hole_HW: NDArray[np.bool_]) -> Photo:
        """Fills the hole with RGB; other samples stay.

        RGB is in [0, 1]. Gray photos take the luma, CMYK ones have no black ink in the hole, palette photos use free
        entries for new colours, then the nearest. Alpha stays, unless the whole hole is transparent: then it becomes
        opaque.
        """
        if not hole_HW.any():
            return self
        # (N, 3): the pixels of the hole alone.
        colours = np.clip(rgb_HW3[hole_HW], 0, 1)
        pixels = self.pixels.copy()
        # Palette and CMYK photos have a conversion of their own.
        if self.mode == "P":
            assert self.palette is not None
            pixels[hole_HW], palette, note = extend_palette(self.palette, np.rint(colours * 255).astype(np.uint8))
            return replace(self, pixels=pixels, palette=palette, notes=(*self.notes, note))
        if self.mode == "CMYK":
            inks = np.rint((1 - colours) * 255).astype(np.uint8)
            pixels[hole_HW] = np.concatenate([inks, np.zeros_like(inks[:, :1])], axis=1)
            return replace(self, pixels=pixels)
        # Other photos take gray or colours at their own depth.
        if self.mode.split(";")[0] in ("1", "L", "LA", "I", "F"):
            colours = luma(colours)[:, None]
        samples = _quantised(colours, pixels.dtype)
        if pixels.ndim == 2:
            pixels[hole_HW] = samples[:, 0]
            return replace(self, pixels=pixels)
        # A visible filling in a hole that was transparent everywhere; elsewhere alpha stays.
        num_colours = samples.shape[1]
        notes = self.notes
        if pixels.shape[2] > num_colours and not pixels[hole_HW][:, -1].any():
            pixels[..., -1][hole_HW] = _quantised(np.ones(1, np.float32), pixels.dtype)[0]
            notes = (*notes, "the hole was transparent; what fills it is opaque")
        pixels[..., :num_colours][hole_HW] = samples
        return replace(self, pixels=pixels, notes=notes)


def _quantised(values: NDArray[np.float32], dtype: np.dtype[np.generic]) -> Array:
    """Converts [0, 1] to `dtype`: bool from 0.5, integers rounded."""
    if dtype == np.bool_:
        return values >= 0.5
    if dtype.kind == "u":
        largest = 255 if dtype == np.uint8 else 65535
        return np.rint(values.astype(np.float64) * largest).astype(dtype)
    return values.astype(dtype)


def read_photo(source: str | os.PathLike[str] | bytes, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Reads a photo from a file or its bytes.

    Raises:
        PictureError: The picture cannot be used; the message says why.
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    with open_picture(data, max_pixels=max_pixels) as image:
        stored = orientation_of(image)
        depth = stored_depth(image, data)
        pixels, mode, palette = load_samples(image, data)
        # Pillow turns TIFF while loading, and then drops the tag.
        pending = orientation_of(image)
        stored = max(stored, pending)
        notes = []
        # Pillow reads the first frame alone, and 16-bit colour as 8-bit: OpenCV reads that again.
        if getattr(image, "is_animated", False):
            notes.append("only the first frame or page was read")
        notes += reading_notes(image)
        notes += depth_notes(image, depth, mode)
        if _is_deep(image, data):
            # Pillow reads 16-bit gray with alpha as RGBA.
            gray_alpha = image.format == "PNG" and data[25] == 4
            # OpenCV would take the first frame of an animation, Pillow the picture before it.
            encoded = without_refused_chunks(without_animation(data)) if image.format == "PNG" else data
            pixels, mode = _deep_samples(encoded, "LA" if gray_alpha else mode)
            if is_premultiplied(image):
                pixels = unpremultiply(pixels)
        # A transparent colour must be an alpha channel before the hole is filled.
        if mode in _WITH_ALPHA and "transparency" in image.info:
            pixels, mode = _with_alpha(pixels, _transparent(image, data)), _WITH_ALPHA[mode]
            notes.append("its transparent colour became an alpha channel")
        if image.mode in ("LAB", "YCbCr", "HSV"):
            notes.append(f"its {image.mode} samples were converted to RGB")
        dpi = image.info.get("dpi")
        pixels = apply_orientation(pixels, pending)
        metadata = read_metadata(image, data, size=pixels.shape[:2], is_turned=stored > 1)
        if metadata.lost:
            notes.append(f"left out: {'; '.join(metadata.lost)}")
        icc, colours = _profile(image, data)
        if image.format == "PNG" and icc is None and b"iCCP" in data[: data.find(b"IDAT")]:
            notes.append("its colour profile is damaged or has more than 16 MiB, and is left out")
        return Photo(
            pixels=pixels,
            mode=mode,
            palette=palette,
            icc=icc,
            colours=colours,
            dpi=(float(dpi[0]), float(dpi[1])) if dpi and all(0 < value < 1e5 for value in dpi) else None,
            metadata=metadata,
            format=str(image.format),
            orientation=stored,
            notes=tuple(notes),
        )


def _profile(image: Image.Image, data: bytes) -> tuple[bytes | None, Chunks]:
    """Colour profile, and colours as chunks of a PNG."""
    # A profile of LAB would be wrong for the RGB made from it.
    if image.mode == "LAB":
        return None, ()
    # Pillow reads no large profile of a PNG, and none of a JPEG 2000.
    if image.format == "PNG":
        return colour_profile(data), colour_chunks(data)
    if image.format == "JPEG2000":
        return jpeg_2000_profile(data), ()
    icc = image.info.get("icc_profile") or None
    codes = avif_colour_codes(data) if image.format == "AVIF" and icc is None else b""
    return icc, ((b"cICP", codes),) if codes else ()


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """True for 16-bit colour, which Pillow reads as 8-bit."""
    if image.format == "PNG":
        # Bytes 24 and 25 belong to IHDR, always the first chunk.
        bit_depth, colour_type = data[24], data[25]
        return bit_depth == 16 and colour_type in (2, 4, 6)
    return image.mode in ("RGB", "RGBA") and bits_per_sample(image) == {16}


def _deep_samples(data: bytes, mode: str) -> tuple[NDArray[np.uint16], str]:
    """Reads samples (H, W, C) at 16 bits with OpenCV.

    `mode` is the 8-bit one that Pillow reads.
    """
    import cv2

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16 or samples.ndim != 3:
        raise PictureError("unsupported", f"16-bit {mode} picture cannot be read at its depth; convert it to 8-bit")
    if mode == "LA":
        # OpenCV repeats the gray three times.
        return np.ascontiguousarray(samples[..., [0, -1]]), "LA;16"
    # OpenCV's order is blue, green, red.
    order = [2, 1, 0, 3] if mode == "RGBA" else [2, 1, 0]
    return np.ascontiguousarray(samples[..., order]), f"{mode};16"


# Modes that can have a transparent colour, and the mode with alpha for each.
_WITH_ALPHA = {"1": "LA", "L": "LA", "RGB": "RGBA", "I;16": "LA;16", "RGB;16": "RGBA;16"}


def _transparent(image: Image.Image, data: bytes) -> object:
    """Transparent colour on the scale of the samples.

    PNG stores the one of 2-bit or 4-bit gray unscaled.
    """
    key = image.info["transparency"]
    if image.format == "PNG" and image.mode == "L" and isinstance(key, int):
        largest = (1 << data[24]) - 1
        # Bits beyond the depth have no meaning.
        return (key & largest) * 255 // largest
    return key


def _with_alpha(pixels: Array, key: object) -> Array:
    """Adds an alpha channel, 0 where the colour equals `key`.

    (H, W) becomes (H, W, 2), (H, W, 3) becomes (H, W, 4).
    """
    colours = pixels if pixels.ndim == 3 else pixels[..., None]
    if not isinstance(key, int | tuple):
        raise PictureError("unsupported", f"transparent colour {key!r} of a {pixels.shape} picture; convert it")
    if colours.dtype == np.bool_:
        colours = colours.astype(np.uint8) * np.uint8(255)
    opaque = (colours != np.array(key)).any(axis=2, keepdims=True)
    largest = np.iinfo(colours.dtype).max
    return np.concatenate([colours, opaque.astype(colours.dtype) * colours.dtype.type(largest)], axis=2)


# (dtype, channels) to mode; the dtype is its kind for bool and float, else its code with the width in bytes.
_ARRAY_MODES = {
    ("b", 1): "1",
    ("u1", 1): "L", ("u1", 2): "LA", ("u1", 3): "RGB", ("u1", 4): "RGBA",
    ("u2", 1): "I;16", ("u2", 2): "LA;16", ("u2", 3): "RGB;16", ("u2", 4): "RGBA;16",
    ("f", 1): "F", ("f", 3): "RGB;F", ("f", 4): "RGBA;F",
}  # fmt: skip


def photo_of_array(array: Array) -> Photo:
    """Makes a photo of an array.

    Args:
        array: bool, uint8, uint16 or float in [0, 1]; (H, W), or (H, W, C) with C 1 to 4.

    Raises:
        InputError: Shape, dtype or range cannot be used, or there is a NaN.
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise InputError(f"image has shape {array.shape}; need (height, width) or (height, width, 1 to 4)")
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    channels = 1 if array.ndim == 2 else array.shape[2]
    kind = array.dtype.kind if array.dtype.kind in "bf" else array.dtype.str[1:]
    mode = _ARRAY_MODES.get((kind, channels))
    if mode is None and not any(kind == supported for supported, _ in _ARRAY_MODES):
        raise InputError(
            f"image has dtype {array.dtype}; need uint8, uint16, bool, or float in [0, 1]; convert it with .astype"
        )
    if mode is None:
        raise InputError(
            f"image has shape {array.shape} and dtype {array.dtype}; need (height, width) or (height, width, C), "
            "C being 1, 3 or 4; move the channels last"
        )
    if kind == "f":
        array = checked_float(array)
    return Photo(pixels=array[..., 0] if array.ndim == 3 and channels == 1 else array, mode=mode)
