"""Tags of a TIFF structure, such as an EXIF block.

Types and values are copied as they are stored (TIFF 6.0, section 2; Exif 2.32, section 4.6.2), from either byte order,
and written little-endian. Not here: the meaning of tags (`isnet.images.metadata`).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass

import numpy as np

# Main directory, and the tags of the main directory that lead to the other two.
MAIN, EXIF, GPS = 0, 0x8769, 0x8825
# Bytes of a value, and of the numbers it consists of, by type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_UNITS = {3: 2, 8: 2, 4: 4, 9: 4, 11: 4, 5: 4, 10: 4, 12: 8, 13: 4}
# Of all values of a file: entries may overlap, so that a small file could claim any number of bytes.
_MAX_BYTES = 16 << 20
_MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Tag:
    """One tag: number, type and values, little-endian."""

    number: int
    kind: int
    payload: bytes


Directory = dict[int, Tag]


def read_directories(block: bytes, *, skip: Container[int] = ()) -> dict[int, Directory]:
    """Reads the main directory and those for EXIF and GPS.

    Args:
        block: A TIFF, or an EXIF block that begins with its byte order.
        skip: Numbers of tags that are not read, in any directory.

    Raises:
        ValueError: The block is damaged, larger than is read here, or a BigTIFF.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("no byte order")
    left = _MAX_BYTES
    directories: dict[int, Directory] = {}

    def read(start: int) -> Directory:
        nonlocal left
        tags: Directory = {}
        (count,) = _unpack(f"{order}H", block, start)
        if count > _MAX_ENTRIES:
            raise ValueError(f"{count} tags")
        for at in range(start + 2, start + 2 + 12 * count, 12):
            number, kind, length = _unpack(f"{order}HHI", block, at)
            if kind not in _SIZES or number in skip:
                continue
            size = _SIZES[kind] * length
            # Values of up to four bytes stand in the entry itself.
            begin = at + 8 if size <= 4 else _unpack(f"{order}I", block, at + 8)[0]
            left -= size
            if left < 0 or begin + size > len(block):
                raise ValueError(f"tag {number} of {size} bytes")
            tags[number] = Tag(number, kind, _swapped(block[begin : begin + size], kind) if order == ">" else
                               block[begin : begin + size])  # fmt: skip
        return tags

    main = read(_unpack(f"{order}I", block, 4)[0])
    for number in (EXIF, GPS):
        pointer = main.pop(number, None)
        if pointer is not None and len(pointer.payload) == 4:
            directories[number] = read(*struct.unpack("<I", pointer.payload))
    return {MAIN: main, **directories}


def build_block(directories: Mapping[int, Directory]) -> bytes:
    """Builds a block of these directories."""
    block = bytearray(b"II*\0" + bytes(4))
    _write(block, {}, directories)
    return bytes(block)


def add_tags(tiff: bytes, directories: Mapping[int, Directory]) -> bytes:
    """Adds tags to a little-endian TIFF of one page.

    The main directory is written once more, at the end; a tag of the same number is replaced.
    """
    block = bytearray(tiff)
    (start,) = _unpack("<I", tiff, 4)
    (count,) = _unpack("<H", tiff, start)
    entries = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        entries[_unpack("<H", tiff, at)[0]] = tiff[at : at + 12]
    _write(block, entries, directories)
    return bytes(block)


def _write(block: bytearray, entries: dict[int, bytes], directories: Mapping[int, Directory]) -> None:
    """Appends directories to a block and its header."""
    for tag in directories.get(MAIN, {}).values():
        entries[tag.number] = _entry(block, tag)
    for number in (EXIF, GPS):
        if tags := directories.get(number):
            start = _append(block, _directory({tag.number: _entry(block, tag) for tag in tags.values()}))
            entries[number] = struct.pack("<HHII", number, 4, 1, start)
    block[4:8] = struct.pack("<I", _append(block, _directory(entries)))


def _directory(entries: Mapping[int, bytes]) -> bytes:
    # Sorted by number; no directory follows.
    return struct.pack("<H", len(entries)) + b"".join(entries[number] for number in sorted(entries)) + bytes(4)


def _entry(block: bytearray, tag: Tag) -> bytes:
    count = len(tag.payload) // _SIZES[tag.kind]
    head = struct.pack("<HHI", tag.number, tag.kind, count)
    if len(tag.payload) <= 4:
        return head + tag.payload.ljust(4, b"\0")
    return head + struct.pack("<I", _append(block, tag.payload))


def _append(block: bytearray, data: bytes) -> int:
    """Appends data at an even offset, and returns it."""
    block += bytes(len(block) % 2)
    start = len(block)
    block += data
    return start


def _swapped(payload: bytes, kind: int) -> bytes:
    unit = _UNITS.get(kind, 1)
    return np.frombuffer(payload, f">u{unit}").astype(f"<u{unit}").tobytes()


def _unpack(form: str, data: bytes, at: int) -> tuple[int, ...]:
    try:
        return struct.unpack_from(form, data, at)
    except struct.error as error:
        raise ValueError(f"nothing at byte {at}") from error
