"""The chunks of a PNG beside its pixels: what the colours mean, what belongs to an animation.

Names, layouts and precedence are those of the PNG specification, third edition, chapters 5 and 11. Not here: pixels
(`isnet.images.photo` reads, `isnet.images.save` writes them).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Where a PNG's first chunk, IHDR, ends.
_HEADER_END = 33
Chunks = tuple[tuple[bytes, bytes], ...]

_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
# gAMA 1/2.2, and white, red, green and blue of sRGB, both in 1/100000; files round them differently.
_SRGB_GAMMA = 45455
_SRGB_COLOURS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_ROUNDING = 50
# Primaries of BT.709, the curve of sRGB, RGB, full range (ITU-T H.273).
_SRGB_CODES = bytes([1, 13, 0, 1])


def chunk(name: bytes, body: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def walked(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, end) of every whole chunk before IEND, length and checksum included."""
    place = len(SIGNATURE)
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if name == b"IEND" or end > len(data):
            return
        yield name, place, end
        place = end


def colour_chunks(data: bytes) -> Chunks:
    """Name and body of the chunks that say what the colours mean, the profile apart."""
    found: dict[bytes, bytes] = {}
    for name, start, end in walked(data):
        if name == b"IDAT":
            break
        if name in _COLOUR:
            found.setdefault(name, data[start + 8 : end - 4])
    return tuple(found.items())


def other_colours(chunks: Chunks, *, profile: bool) -> tuple[str, ...]:
    """The chunks without which the colours would no longer be shown as they are; none where they mean sRGB, which is
    assumed of a picture that says nothing, or where a colour profile comes first.
    """
    found = dict(chunks)
    if b"cICP" in found:
        return () if found[b"cICP"] == _SRGB_CODES else ("cICP",)
    if profile or b"sRGB" in found:
        return ()
    plain = {b"gAMA": (_SRGB_GAMMA,), b"cHRM": _SRGB_COLOURS}
    return tuple(name.decode() for name in plain if name in found and not _near(found[name], plain[name]))


def _near(body: bytes, wanted: tuple[int, ...]) -> bool:
    if len(body) != 4 * len(wanted):
        return False
    values = struct.unpack(f">{len(wanted)}I", body)
    return all(abs(value - ours) <= _ROUNDING for value, ours in zip(values, wanted, strict=True))


def with_colours(data: bytes, chunks: Chunks, *, profile: bool) -> bytes:
    """A PNG with these chunks behind its header; sRGB may not stand beside a profile."""
    if not chunks:
        return data
    added = b"".join(chunk(name, body) for name, body in chunks if not (profile and name == b"sRGB"))
    return data[:_HEADER_END] + added + data[_HEADER_END:]


def still(data: bytes) -> bytes:
    """The picture that a PNG shows where animations are not understood; it need not be one of the frames."""
    if not any(name in _ANIMATION for name, _, _ in walked(data)):
        return data
    kept = [data[start:end] for name, start, end in walked(data) if name not in _ANIMATION]
    return SIGNATURE + b"".join(kept) + chunk(b"IEND", b"")
