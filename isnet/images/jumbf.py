"""Checks bytes of a C2PA manifest that no signature covers.

The reader of content credentials (c2pa 0.91) accepts changes in a few places: labels of outer boxes, padding of the
signature, and what holds the manifest in the file (segments of JPEG, check sums of PNG). A file of ours has known bytes
there, so that every changed byte is found. The box format is ISO 19566-5 (JUMBF).
"""

from __future__ import annotations

import re
import struct
import zlib

# A superbox of the kind "c2pa": its type, and the beginning of its description.
_STORE = re.compile(rb"jumb....jumdc2pa\0\x11\0\x10\x80\0\0\xaa\x008\x9bq", re.DOTALL)
# Identifier of the segment, number of the box, number of the packet.
_JPEG_PACKET = b"JP\x02\x11"
_LABELS = (
    re.compile(rb"c2pa"),
    re.compile(rb"urn:c2pa:[0-9a-f-]{36}(:[\w.-]+)?"),
    re.compile(rb"c2pa\.(assertions|claim\.v2|signature|databoxes|credentials)"),
)
# Toggles of a description: it can be requested and has a label; and a private box.
_WITH_LABEL, _WITH_SALT = 0x03, 0x13
# Ours are four deep; a stranger's file could be deeper than the stack.
_DEEPEST = 16
_SIGNATURE = b"c2pa.signature"
_PAD = b"\x63pad\x59"


def unsigned_fault(data: bytes, suffix: str) -> str | None:
    """Names a fault in unsigned bytes; None without.

    Args:
        data: A file that was written by us and has a manifest.
        suffix: Of the file, such as ".png".
    """
    store = _jpeg_store(data) if suffix in (".jpg", ".jpeg") else _plain_store(data, suffix)
    if store is None:
        return "the manifest's place in the file"
    return _box_fault(store, 0)


def _plain_store(data: bytes, suffix: str) -> bytes | None:
    """The manifest in one piece, if its frame is whole."""
    match = _STORE.search(data)
    if match is None or match.start() < 4:
        return None
    start = match.start() - 4
    (size,) = struct.unpack_from(">I", data, start)
    store = data[start : start + size]
    if suffix == ".png":
        # The chunk's length and type stand before, its check sum behind.
        (length,) = struct.unpack_from(">I", data, start - 8)
        check = data[start + size : start + size + 4]
        if length != size or check != struct.pack(">I", zlib.crc32(data[start - 4 : start + size])):
            return None
    if suffix == ".webp":
        (length,) = struct.unpack_from("<I", data, start - 4)
        if length != size or any(data[start + size : start + size + size % 2]):
            return None
    return store if len(store) == size else None


def _jpeg_store(data: bytes) -> bytes | None:
    """The manifest of a JPEG, out of its segments."""
    parts: list[bytes] = []
    at = 2
    head = b""
    # Segments until the scan begins.
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        body = data[at + 4 : at + 2 + length]
        if data[at + 1] == 0xEB:
            if body[:8] != _JPEG_PACKET + struct.pack(">I", len(parts) + 1):
                return None
            # Later packets repeat the box's size and type.
            if parts and body[8:16] != head:
                return None
            head = head or body[8:16]
            parts.append(body[16:] if parts else body[8:])
        at += 2 + length
    store = b"".join(parts)
    return store if len(store) >= 4 and struct.unpack_from(">I", store)[0] == len(store) else None


def _box_fault(box: bytes, depth: int) -> str | None:
    """Checks a superbox: label, sizes, padding; then its children."""
    label, children = _read_superbox(box)
    if label is None or depth > _DEEPEST:
        return "the boxes of the manifest"
    if depth < len(_LABELS) and not _LABELS[depth].fullmatch(label):
        return f"the label of a box, {label[:40]!r}"
    if label == _SIGNATURE:
        return _padding_fault(box)
    for child in children:
        if child[4:8] == b"jumb" and (fault := _box_fault(child, depth + 1)) is not None:
            return fault
    return None


def _read_superbox(box: bytes) -> tuple[bytes | None, list[bytes]]:
    """Label and children; None where sizes do not fit."""
    children = []
    at = 8
    while at + 8 <= len(box):
        (size,) = struct.unpack_from(">I", box, at)
        if size < 8 or at + size > len(box):
            return None, []
        children.append(box[at : at + size])
        at += size
    if at != len(box) or not children or children[0][4:8] != b"jumd" or len(children[0]) < 26:
        return None, []
    # Type (16 bytes), toggles, then the label with its end; a salt may follow, and then its toggle is set.
    label, end, salt = children[0][25:].partition(b"\0")
    toggles = _WITH_SALT if salt else _WITH_LABEL
    return (label if end and children[0][24] == toggles else None), children[1:]


def _padding_fault(box: bytes) -> str | None:
    """Checks that the signature's padding is there, and is zeros."""
    at = box.find(_PAD)
    if at < 0 or box.count(_PAD) != 1:
        return "the padding of the signature"
    (length,) = struct.unpack_from(">H", box, at + len(_PAD))
    padding = box[at + len(_PAD) + 2 : at + len(_PAD) + 2 + length]
    return "the padding of the signature" if len(padding) != length or any(padding) else None
