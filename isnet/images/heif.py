"""Reads HEIC, the photos of phones, with a reader installed.

The extra `heif` brings pi-heif; pillow-heif works, too. Both turn a photo upright by themselves.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache

# As Pillow names it.
FORMAT = "HEIF"
SUFFIXES = (".heic", ".heif")
_READERS = ("pi_heif", "pillow_heif")
# Major brands of pictures and their sequences (ISO/IEC 23008-12, annex B); `mif1` is AVIF's, too.
_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"))


def is_heif(data: bytes) -> bool:
    """True for the first bytes of a HEIC file."""
    return data[4:8] == b"ftyp" and data[8:12] in _BRANDS and b"avif" not in data[12:64]


@cache
def can_read() -> bool:
    """True if a reader is installed."""
    return any(importlib.util.find_spec(name) for name in _READERS)


@cache
def register() -> None:
    """Adds the reader to Pillow's, once in a process."""
    name = next(name for name in _READERS if importlib.util.find_spec(name))
    importlib.import_module(name).register_heif_opener(thumbnails=False)
