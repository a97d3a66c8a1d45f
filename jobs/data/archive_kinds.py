"""Names files that hold no pictures for us."""

from __future__ import annotations

import shlex
from pathlib import Path

from isnet.images.folders import SUFFIXES

_UNPACK = "unpack it ({}) and give the folder"
_UNPACK_TAR = _UNPACK.format("tar xf {file}")
# First bytes, what such a file is, and the remedy.
_KINDS = (
    (b"\x28\xb5\x2f\xfd", "is compressed with Zstandard (zstd), which is not read here", _UNPACK_TAR),
    (b"\x04\x22\x4d\x18", "is compressed with LZ4, which is not read here", _UNPACK_TAR),
    (b"LZIP", "is compressed with lzip, which is not read here", _UNPACK_TAR),
    (b"\x89LZO", "is compressed with lzop, which is not read here", _UNPACK_TAR),
    (b"\x1f\x9d", "is compressed with compress (.Z), which is not read here", _UNPACK_TAR),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive, which is not read here", _UNPACK.format("7z x {file}")),
    (b"Rar!\x1a\x07", "is a RAR archive, which is not read here", _UNPACK.format("unrar x {file}")),
    (b"MSCF", "is a Cabinet archive, which is not read here", _UNPACK.format("cabextract {file}")),
    (b"0707", "is a cpio archive, which is not read here", _UNPACK.format("cpio -id < {file}")),
    (b"!<arch>\n", "is an ar archive, which is not read here", _UNPACK.format("ar x {file}")),
    (b"\x1f\x8b", "is compressed with gzip and holds no whole tar", "need a complete .tar.gz, or a folder"),
    (b"BZh", "is compressed with bzip2 and holds no whole tar", "need a complete .tar.bz2, or a folder"),
    (b"\xfd7zXZ\0", "is compressed with xz and holds no whole tar", "need a complete .tar.xz, or a folder"),
    (b"PK\3\4", "is a zip without the directory at its end, so it is cut short", "fetch it again"),
    (b"PK\7\x08", "is one part of a split zip", "join its parts first (zip -s 0 {file} --out whole.zip)"),
    (b"SQLite format 3\0", "is an SQLite database", "need a folder, a .txt list, a tar or a zip"),
)  # fmt: skip
# Zstandard and LZ4 may begin with a frame to skip: one of 16 numbers, then these bytes.
_SKIPPABLE, _SKIPPABLE_FIRST = b"\x2a\x4d\x18", range(0x50, 0x60)


def why_no_source(file: Path) -> str:
    """Describes a file that is no list, tar or zip."""
    with file.open("rb") as stream:
        start = stream.read(16)
    if start[1:4] == _SKIPPABLE and start[0] in _SKIPPABLE_FIRST:
        return f"is compressed with Zstandard (zstd) or LZ4, which is not read here; {_with_name(_UNPACK_TAR, file)}"
    for first, what, remedy in _KINDS:
        if start.startswith(first):
            return f"{what}; {_with_name(remedy, file)}"
    if file.suffix.lower() in SUFFIXES:
        return "is a single picture; give its folder, or a .txt list of pictures"
    return "is not a folder, .txt list, tar or zip, or the archive is cut short; need a complete one"


def _with_name(remedy: str, file: Path) -> str:
    return remedy.format(file=shlex.quote(str(file)))
