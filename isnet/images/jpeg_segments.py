"""Metadata segments of a JPEG.

See ITU-T T.81, B.2.4; Exif 2.32; Adobe's XMP specification, part 3.
"""

from __future__ import annotations

import struct

# A segment's length field counts itself.
_MAX_BODY = 65533
_APP1, _APP13, _COMMENT = 0xE1, 0xED, 0xFE
_EXIF, _XMP, _PHOTOSHOP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"


def insert_segments(
    jpeg: bytes, *, exif: bytes = b"", xmp: bytes = b"", iptc: bytes = b"", comment: bytes = b""
) -> tuple[bytes, tuple[str, ...]]:
    """Inserts metadata behind the JFIF header.

    Returns:
        The JPEG, and the kinds of metadata that are too long for a segment.
    """
    parts = (
        ("EXIF", _APP1, _EXIF + exif if exif else b""),
        ("XMP", _APP1, _XMP + xmp if xmp else b""),
        ("IPTC", _APP13, _PHOTOSHOP + _resource(iptc) if iptc else b""),
        ("comment", _COMMENT, comment),
    )
    segments, too_long = [], []
    for kind, marker, body in parts:
        if len(body) > _MAX_BODY:
            too_long.append(kind)
        elif body:
            segments.append(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body)
    # JFIF's own segment must follow the start at once.
    start = 2
    if jpeg[2:4] == b"\xff\xe0":
        start += 2 + struct.unpack_from(">H", jpeg, 4)[0]
    return jpeg[:start] + b"".join(segments) + jpeg[start:], tuple(too_long)


def _resource(iptc: bytes) -> bytes:
    """Photoshop's resource 0x0404, of an even length."""
    return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
