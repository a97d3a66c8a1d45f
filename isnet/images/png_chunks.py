"""Chunks of a PNG beside its pixels: colours, text, animation.

Names, layouts and precedence are those of the PNG specification, third edition, chapters 5 and 11. Not here: pixels
(`isnet.images.photo` reads, `isnet.images.save` writes them).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from PIL import PngImagePlugin

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# End of a PNG's first chunk, IHDR.
_HEADER_END = 33
Chunks = tuple[tuple[bytes, bytes], ...]

_COLOUR = (b"cICP", b"sRGB", b"gAMA", b"cHRM")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_MAX_PROFILE = 16 << 20
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


def has_right_checksum(data: bytes, start: int, end: int) -> bool:
    """True if the checksum of this chunk is right."""
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == int.from_bytes(data[end - 4 : end])


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


def text_chunks(data: bytes) -> Chunks:
    """Names and bodies of the chunks with text."""
    return tuple((name, data[start + 8 : end - 4]) for name, start, end in iter_chunks(data) if name in _TEXT)


def colour_profile(data: bytes) -> bytes | None:
    """Reads the colour profile; None without a usable one.

    A profile of more than 16 MiB is none.
    """
    for name, start, end in iter_chunks(data):
        if name == b"IDAT":
            break
        if name == b"iCCP":
            profile = _inflated(_compressed(name, data[start + 8 : end - 4]), _MAX_PROFILE)
            return profile if profile and len(profile) <= _MAX_PROFILE else None
    return None


def without_refused_chunks(data: bytes) -> bytes:
    """Removes the profile, and text that Pillow refuses.

    They are none of the pixels. Text that inflates to more than 64 MiB is an attack: it stays, and Pillow refuses the
    picture.
    """
    removed = []
    left = PngImagePlugin.MAX_TEXT_MEMORY
    for name, start, end in iter_chunks(data):
        # `colour_profile` reads the profile.
        if name == b"iCCP":
            removed.append((start, end))
        if name not in _TEXT:
            continue
        body = data[start + 8 : end - 4]
        compressed = _compressed(name, body)
        size = _inflated_size(compressed, left) if compressed else len(body)
        left -= size
        if left < 0:
            return data
        # The method of compression is always 0.
        is_damaged = not has_right_checksum(data, start, end)
        is_damaged |= name == b"zTXt" and body.partition(b"\0")[2][:1] not in (b"", b"\0")
        if is_damaged or size > PngImagePlugin.MAX_TEXT_CHUNK:
            removed.append((start, end))
    if not removed:
        return data
    parts, position = [], 0
    for start, end in removed:
        parts.append(data[position:start])
        position = end
    return b"".join([*parts, data[position:]])


def _compressed(name: bytes, body: bytes) -> bytes:
    """Compressed part of a chunk; empty where nothing is compressed."""
    _, _, rest = body.partition(b"\0")
    if name == b"iTXt":
        # A flag and the method, then the language and the keyword in that language.
        return rest[2:].split(b"\0", 2)[-1] if rest[:1] == b"\1" and rest[2:].count(b"\0") >= 2 else b""
    return rest[1:] if name in (b"zTXt", b"iCCP") else b""


def _inflated_size(compressed: bytes, limit: int) -> int:
    """Inflated bytes, counted to just above `limit`."""
    stream, size = zlib.decompressobj(), 0
    try:
        while compressed and not stream.eof and size <= limit:
            size += len(stream.decompress(compressed, 1 << 20))
            compressed = stream.unconsumed_tail
    except zlib.error:
        pass
    return size


def _inflated(compressed: bytes, limit: int) -> bytes | None:
    """Inflates up to `limit` + 1 bytes; None for damage."""
    try:
        return zlib.decompressobj().decompress(compressed, limit + 1)
    except zlib.error:
        return None


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
    return insert_chunks(data, tuple(entry for entry in chunks if not (profile and entry[0] == b"sRGB")))


def insert_chunks(data: bytes, chunks: Chunks) -> bytes:
    """Inserts chunks behind a PNG's header."""
    return data[:_HEADER_END] + b"".join(chunk(name, body) for name, body in chunks) + data[_HEADER_END:]


def xmp_chunk(xmp: bytes) -> tuple[bytes, bytes]:
    """Text chunk of an XMP packet, uncompressed."""
    return b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp


def without_animation(data: bytes) -> bytes:
    """Removes the animation of a PNG; the still picture stays.

    It is the one that viewers without animation show, and need not be one of the frames.
    """
    if not any(name in _ANIMATION for name, _, _ in iter_chunks(data)):
        return data
    still = [data[start:end] for name, start, end in iter_chunks(data) if name not in _ANIMATION]
    return SIGNATURE + b"".join(still) + chunk(b"IEND", b"")
