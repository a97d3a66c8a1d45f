"""Where photos come from before they are packed: a folder, a list of paths, a tar or a zip.

Each yields (name, reader) in an order that does not depend on the machine; nothing is unpacked to disk.
"""

from __future__ import annotations

import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from isnet.errors import InputError
from isnet.folders import SUFFIXES, find_pictures
from isnet.images import MAX_FILE_BYTES, read_bytes
from trainplane.errors import UserError

_TAR_ERRORS = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True)
class Source:
    """One picture before packing: its name relative to where it came from, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Skip:
    """A file left out, and why."""

    file: str
    reason: str


def pictures_of(place: Path) -> Iterator[Source | Skip]:
    """Every picture of a folder, `.txt` list, `.tar`(`.gz`, …) or `.zip`."""
    if place.is_dir():
        return _folder(place)
    if not place.is_file():
        raise UserError(f"{place}: there is no such file or folder; need a folder, a .txt list, a .tar or a .zip")
    if zipfile.is_zipfile(place):
        return _zip(place)
    if place.suffix.lower() in (".txt", ".lst", ".flist"):
        return _list(place)
    if tarfile.is_tarfile(place):
        return _tar(place)
    raise UserError(f"{place}: is no folder, .txt list, tar or zip; need one of these")


def _folder(folder: Path) -> Iterator[Source | Skip]:
    paths, skipped = find_pictures(folder)
    yield from (Skip(_text(entry.path), entry.reason) for entry in skipped)
    yield from (Source(_text(path.relative_to(folder)), partial(read_bytes, path)) for path in paths)


def _list(file: Path) -> Iterator[Source | Skip]:
    """Paths, one a line, relative to the list's own folder; a second column (a label) is ignored."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{file}: the list cannot be read ({error.strerror}); check its permissions") from error
    for raw in lines:
        line = raw.strip()
        if line and not line.startswith("#"):
            # A name with a space that exists is a name; otherwise what follows the space is a label.
            name = line if (file.parent / line).exists() else line.split()[0]
            yield Source(name, partial(read_bytes, file.parent / name))


def _tar(file: Path) -> Iterator[Source | Skip]:
    try:
        with tarfile.open(file) as archive:
            for member in archive:
                if not _is_picture(member.name):
                    continue
                if not member.isreg():
                    yield Skip(member.name, "link or device in an archive: not followed")
                    continue
                yield Source(member.name, partial(_member, archive, member))
            _check_end(archive)
    except _TAR_ERRORS as error:
        raise _damaged(file, error) from error


def _check_end(archive: tarfile.TarFile) -> None:
    """Refuse a tar that is not whole: tarfile takes a damaged header, and a cut, for the end of the archive.

    Reading to the very end makes a compressed tar check its own sums, too.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        what = "a damaged header" if block else "no end mark"
        raise tarfile.ReadError(f"{what} at byte {archive.offset}")
    while stream.read(1 << 20):
        pass


def _damaged(file: object, error: Exception) -> UserError:
    return UserError(f"{file}: the tar is damaged or cut short ({error}); fetch it again")


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FILE_BYTES:
        raise InputError(f"too large: {member.size} bytes")
    try:
        handle = archive.extractfile(member)
        if handle is None:
            raise InputError("no file of its own")
        return handle.read()
    except _TAR_ERRORS as error:
        raise _damaged(archive.name, error) from error


def _zip(file: Path) -> Iterator[Source | Skip]:
    try:
        archive = zipfile.ZipFile(file)
    # A damaged directory of a zip ends in whatever its parser trips over.
    except (zipfile.BadZipFile, OSError, IndexError, ValueError, struct.error) as error:
        raise UserError(f"{file}: the zip is damaged ({error}); fetch it again") from error
    with archive:
        for info in sorted(archive.infolist(), key=lambda info: info.filename):
            if not info.filename:
                raise UserError(f"{file}: the zip is damaged (an entry without a name); fetch it again")
            if not info.is_dir() and _is_picture(info.filename):
                yield Source(info.filename, partial(_zip_member, archive, info))


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > MAX_FILE_BYTES:
        raise InputError(f"too large: {info.file_size} bytes")
    try:
        return archive.read(info)
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"damaged in the zip ({error})") from error


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _text(path: Path) -> str:
    """A path as text that may carry undecodable bytes; the packer percent-encodes them."""
    return os.fsdecode(os.fsencode(path))
