"""Depth and colours of formats that Pillow reduces.

What the header says is read here: of JPEG 2000 (ISO/IEC 15444-1, annexes A.5 and I.5), AVIF (AV1 in ISOBMFF, 2.3) and
PNM. Not here: PNG (`isnet.images.photo`) and TIFF (`isnet.images.tiff_tags`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from isnet.images import heif

# Marker of a JPEG 2000 codestream and of its sizes.
_SIZES = b"\xff\x4f\xff\x51"
# sRGB in codes of ITU-T H.273: primaries, transfer; 2 is "unspecified".
_SRGB, _UNSPECIFIED = (1, 13), 2


@dataclass(frozen=True)
class StoredDepth:
    """Samples as a file has them.

    Attributes:
        bits: For each sample.
        largest: Largest value, less than the bits allow in some PNM files; 0 where unknown.
        is_rgb_16: Three unsigned components of 16 bits in a JPEG 2000.
    """

    bits: int = 8
    largest: int = 255
    is_rgb_16: bool = False


def stored_depth(image: Image.Image, data: bytes) -> StoredDepth:
    """Depth of an opened picture that is not loaded yet."""
    if image.format == "JPEG2000":
        return _of_jpeg_2000(data)
    if image.format == "AVIF":
        return _of_avif(data)
    if image.format == heif.FORMAT:
        return StoredDepth(bits=int(image.info.get("bit_depth", 8)))
    return StoredDepth(largest=_pnm_largest(image) if image.format == "PPM" else 255)


def depth_notes(image: Image.Image, stored: StoredDepth, mode: str) -> list[str]:
    """Notes where samples differ from the file's."""
    is_deep = mode.endswith(";16") or mode.startswith("I")
    if image.format == "PPM":
        written = 65535 if is_deep else 255
        samples = f"its samples from 0 to {stored.largest}"
        return [f"{samples} are written as 0 to {written}"] if stored.largest not in (0, 1, written) else []
    if is_deep and 8 < stored.bits < 16:
        return [f"its {stored.bits}-bit samples are written as 16-bit"]
    if not is_deep and stored.bits > 8:
        return [f"its {stored.bits}-bit samples were read as 8-bit: known pixels lose what is finer"]
    return []


def deep_pnm(image: Image.Image, data: bytes) -> NDArray[np.uint16] | None:
    """Samples (H, W, 3) of a 16-bit PPM; else None."""
    tile = _tile(image)
    count = image.width * image.height * 3
    is_deep = tile is not None and tile.codec_name == "ppm" and image.mode == "RGB" and _pnm_largest(image) == 65535
    if tile is None or not is_deep or len(data) < tile.offset + 2 * count:
        return None
    samples = np.frombuffer(data, ">u2", count, tile.offset)
    return samples.astype(np.uint16).reshape(image.height, image.width, 3)


def deep_jpeg_2000(data: bytes) -> NDArray[np.uint16] | None:
    """Samples of a 16-bit RGB JPEG 2000: (H, W, 3)."""
    if not _of_jpeg_2000(data).is_rgb_16:
        return None
    import cv2

    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    # OpenCV reads no subsampled components.
    if samples is None or samples.dtype != np.uint16 or samples.shape[2:] != (3,):
        return None
    return np.ascontiguousarray(samples[..., ::-1])


def jpeg_2000_profile(data: bytes) -> bytes | None:
    """Colour profile of a JPEG 2000; Pillow reads none."""
    at = data.find(b"colr\x02", 0, data.find(_SIZES))
    if at < 4:
        return None
    (length,) = struct.unpack_from(">I", data, at - 4)
    return data[at + 7 : at - 4 + length] or None


def avif_colour_codes(data: bytes) -> bytes:
    """Body of an AVIF's cICP chunk; empty for sRGB."""
    at = data.find(b"colrnclx")
    if at < 0 or at + 12 > len(data):
        return b""
    codes = struct.unpack_from(">HH", data, at + 8)
    if _UNSPECIFIED in codes or codes == _SRGB or max(codes) > 255:
        return b""
    # Decoded as RGB (matrix 0) of the full range.
    return bytes([*codes, 0, 1])


def _of_jpeg_2000(data: bytes) -> StoredDepth:
    at = data.find(_SIZES)
    if at < 0 or at + 42 > len(data):
        return StoredDepth()
    (count,) = struct.unpack_from(">H", data, at + 40)
    # Bit 7 means signed, the others are the bits less one; three bytes a component.
    sizes = data[at + 42 : at + 42 + 3 * count : 3] or b"\7"
    bits = max(value & 0x7F for value in sizes) + 1
    return StoredDepth(bits, (1 << bits) - 1, is_rgb_16=sizes == b"\x0f\x0f\x0f")


def _of_avif(data: bytes) -> StoredDepth:
    bits, at = 8, data.find(b"av1C")
    while 0 <= at < len(data) - 6:
        # Behind name, version and profile: bit 6 is "more than 8 bits", bit 5 "12 bits".
        flags = data[at + 6]
        if flags & 0x40:
            bits = max(bits, 12 if flags & 0x20 else 10)
        at = data.find(b"av1C", at + 4)
    return StoredDepth(bits, (1 << bits) - 1)


def _tile(image: Image.Image) -> Any:
    """Pillow's plan to read the samples; None afterwards."""
    return image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None


def _pnm_largest(image: Image.Image) -> int:
    """Largest value by a PNM's header; 0 where unknown."""
    tile = _tile(image)
    if tile is None or tile.codec_name not in ("ppm", "ppm_plain"):
        return 0
    largest = tile.args[-1] if isinstance(tile.args, tuple) else tile.args
    return largest if isinstance(largest, int) else 0
