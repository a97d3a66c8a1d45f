"""Chunks of a PNG beside its pixels: colours and animation.

Names, layouts and precedence are those of the PNG specification, third edition, chapters 5 and 11. Not here: pixels
(`isnet.images.photo` reads, `isnet.images.save` writes them).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# End of a PNG's first chunk, IHDR.
_HEADER_END = 33
Chunks = tuple[tuple[bytes, bytes], ...]

_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
# gAMA 1/2.2, and cHRM white, red, green and blue of sRGB, both in 1/100000. Files round them differently.
_SRGB_GAMMA = 45455
_SRGB_COLOURS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_ROUNDING = 50
# cICP: primaries of BT.709, the curve of sRGB, RGB, full range (ITU-T H.273).
_SRGB_CODES = bytes([1, 13, 0, 1])


def chunk(name: bytes, body: bytes) -> bytes:
    """Encodes a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def iter_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields (name, start, end) of each whole chunk before IEND.

    The range includes length and checksum, 12 bytes with the name.
    """
    start = len(SIGNATURE)
    while start + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if name == b"IEND" or end > len(data):
            return
        yield name, start, end
        start = end


def colour_chunks(data: bytes) -> Chunks:
    """Names and bodies of the chunks that define colours.

    The profile (iCCP) is not among them: Pillow reads it.
    """
    chunks: dict[bytes, bytes] = {}
    for name, start, end in iter_chunks(data):
        if name == b"IDAT":
            break
        # The first of each name counts.
        if name in _COLOUR:
            chunks.setdefault(name, data[start + 8 : end - 4])
    return tuple(chunks.items())


def non_srgb_chunks(chunks: Chunks, *, profile: bool) -> tuple[str, ...]:
    """Names of chunks whose loss would change the colours.

    None where they mean sRGB, the default of a picture without colour data, or where a colour profile has precedence.
    """
    bodies = dict(chunks)
    # Precedence: cICP, the profile, sRGB, then gAMA and cHRM.
    if b"cICP" in bodies:
        return () if bodies[b"cICP"] == _SRGB_CODES else ("cICP",)
    if profile or b"sRGB" in bodies:
        return ()
    plain = {b"gAMA": (_SRGB_GAMMA,), b"cHRM": _SRGB_COLOURS}
    return tuple(name.decode() for name in plain if name in bodies and not _near(bodies[name], plain[name]))


def _near(body: bytes, expected: tuple[int, ...]) -> bool:
    if len(body) != 4 * len(expected):
        return False
    values = struct.unpack(f">{len(expected)}I", body)
    return all(abs(value - ours) <= _ROUNDING for value, ours in zip(values, expected, strict=True))


def insert_colour_chunks(data: bytes, chunks: Chunks, *, profile: bool) -> bytes:
    """Inserts chunks behind a PNG's header.

    sRGB is left out beside a profile, which it must not accompany.
    """
    if not chunks:
        return data
    added = b"".join(chunk(name, body) for name, body in chunks if not (profile and name == b"sRGB"))
    return data[:_HEADER_END] + added + data[_HEADER_END:]


def without_animation(data: bytes) -> bytes:
    """Removes the animation of a PNG; the still picture stays.

    It is the one that viewers without animation show, and need not be one of the frames.
    """
    if not any(name in _ANIMATION for name, _, _ in iter_chunks(data)):
        return data
    still = [data[start:end] for name, start, end in iter_chunks(data) if name not in _ANIMATION]
    return SIGNATURE + b"".join(still) + chunk(b"IEND", b"")
