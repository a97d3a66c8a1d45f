"""Where photos come from before they are packed: a folder, loose objects on S3, a list of paths, a tar or a zip.

Each yields sources in an order that does not depend on the machine; nothing is unpacked to disk. Sizes and times are
noted, so that a packing that is run again knows what is still the same.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from isnet.errors import InputError
from isnet.images.decode import MAX_FILE_BYTES, read_bytes
from isnet.images.files import PictureError
from isnet.images.folders import SUFFIXES, find_pictures, unreadable
from jobs.data.tars import TAR_ERRORS, is_tar, open_tar
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store, open_store

_ENCRYPTED = 0x1  # of a zip member's flags (APPNOTE 4.4.4)
# Bytes to ask of a zip's member at once. Of stored and deflated ones zipfile inflates no more than that; of others it
# inflates all that so many compressed bytes hold: 45 of bzip2 can hold 46 MB.
_ZIP_PIECES = {zipfile.ZIP_STORED: 1 << 20, zipfile.ZIP_DEFLATED: 1 << 20}
_SMALL_PIECE = 64
_MOST_COLUMNS = 16  # of a line in a list: a name with its spaces, and labels


@dataclass(frozen=True)
class Source:
    """One picture before packing: its name relative to where it came from, and how to get its bytes.

    size    -- bytes to read, about
    stamp   -- changes when the bytes do, as far as names and times tell
    about   -- what a layout knows of it, for the sample's JSON
    is_here -- only this process can read it (out of an archive that it holds open)
    """

    name: str
    read: Callable[[], bytes]
    size: int = 0
    stamp: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    is_here: bool = False

    def portable(self) -> Source:
        """The same for another process: its bytes are read now where only this one can."""
        if not self.is_here:
            return self
        try:
            return replace(self, read=partial(bytes, self.read()), is_here=False)
        except InputError as error:
            return replace(self, read=partial(_raise, error), is_here=False)


@dataclass(frozen=True)
class Skip:
    """A file left out, and why: its kind before a colon, as `damaged: …`."""

    file: str
    reason: str


def _raise(error: InputError) -> bytes:
    raise error


@contextmanager
def pictures_of(source: str | Path) -> Iterator[Iterable[Source | Skip]]:
    """Every picture of a folder, an `s3://` prefix, `.txt` list, `.tar`(`.gz`, …) or `.zip`.

    Archives are open as long as the block.
    """
    if "://" in str(source):
        yield _stored(open_store(str(source)))
        return
    place = Path(source)
    if not place.exists():
        raise UserError(
            f"{place}: there is no such file or folder; need a folder, an s3:// address, a .txt list, a .tar or a .zip"
        )
    if not (place.is_dir() or place.is_file()):
        raise UserError(f"{place}: is a pipe, socket or device, which has no end to look at; need a folder or a file")
    with ExitStack() as stack:
        if place.is_dir():
            yield _folder(place)
        elif zipfile.is_zipfile(place):
            yield _once(_zip(place, stack))
        elif place.suffix.lower() in (".txt", ".lst", ".flist"):
            yield _once(_list(place))
        elif is_tar(place):
            yield _once(_tar(place, stack))
        else:
            raise UserError(f"{place}: is no folder, .txt list, tar or zip, or one that is cut short; need a whole one")


def _once(found: Iterator[Source | Skip]) -> Iterator[Source | Skip]:
    """Leave out what an archive or a list names again: a dataset has each path once."""
    seen: set[bytes] = set()
    for entry in found:
        if isinstance(entry, Source):
            # Digests, because millions of long names are too much to keep. `./a.jpg` is `a.jpg` once more.
            name = hashlib.blake2b(os.fsencode(os.path.normpath(entry.name)), digest_size=8).digest()
            if name in seen:
                yield Skip(entry.name, "named twice: the first one is taken")
                continue
            seen.add(name)
        yield entry


def _folder(folder: Path) -> Iterator[Source | Skip]:
    paths, skipped = find_pictures(folder)
    yield from (Skip(_text(entry.path), entry.reason) for entry in skipped)
    for path in paths:
        yield file_source(_text(path.relative_to(folder)), path)


def file_source(name: str, path: Path) -> Source:
    """A file as a source; one that is absent says so when it is read."""
    try:
        found = path.stat()
    except OSError:
        return Source(name, partial(read_bytes, path), 0, "absent")
    return Source(name, partial(_listed_bytes, path), found.st_size, f"{found.st_size} {found.st_mtime_ns}")


def _listed_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except PictureError as error:
        if error.kind == "missing":
            # Not a reason to leave it out: on a node that does not see the folder that would be all of them.
            raise UserError(
                f"{path}: was there when it was listed and is not there now; every node needs the same folders, "
                "and pictures must stay in place while they are packed"
            ) from error
        raise


def _stored(store: Store) -> Iterator[Source | Skip]:
    """Loose pictures on S3."""
    for entry in store.list():
        if reason := unreadable(entry.key):
            yield Skip(entry.key, reason)
        elif _is_picture(entry.key):
            read = partial(_object, store, entry.key)
            stamp = f"{entry.size} {entry.stamp}"
            yield Source(entry.key, read, entry.size, stamp) if entry.size else Skip(entry.key, "empty file")


def _object(store: Store, key: str) -> bytes:
    try:
        return store.read(key)
    except NotFound as error:
        raise UserError(f"{store.address}/{key}: was there when it was listed and is not there now") from error


def _list(file: Path) -> Iterator[Source | Skip]:
    """Paths, one a line, relative to the list's own folder; columns behind it (labels) and comments are ignored."""
    for line in _raw_lines(file):
        # Names may hold spaces, end with them and begin with '#': a line means the longest name that exists.
        names = [line, *_without_last_columns(line)]
        name = next((name for name in names if _is_there(file.parent / name)), None)
        if name is None:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name = next((name for name in names[1:] if _is_picture(name)), line.split()[0])
        if name.strip():
            yield file_source(name, file.parent / name)


def _without_last_columns(line: str) -> Iterator[str]:
    """The line without what stands around it, and then with ever fewer of its columns."""
    name = line.strip()
    for _ in range(_MOST_COLUMNS):
        yield name
        name, *last = name.rsplit(maxsplit=1) or [""]
        if not last:
            return


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False  # a line longer than any name, or a folder that nobody may look into


def read_lines(file: Path) -> list[str]:
    """The lines of a list without empty ones and comments."""
    return [line.strip() for line in _raw_lines(file) if line.strip() and not line.lstrip().startswith("#")]


def _raw_lines(file: Path) -> list[str]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: the list cannot be read ({error.strerror}); check its permissions") from error
    if b"\0" in data:
        raise UserError(
            f"{file}: is no list in UTF-8, it holds zero bytes (UTF-16, `find -print0`, or no text at all); "
            "need one path a line; save it as UTF-8"
        )
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    # Not splitlines: that takes form feeds and Unicode's separators, which names may hold, for ends of lines, too.
    return re.split(r"\r\n|\r|\n", text)


def _tar(file: Path, stack: ExitStack) -> Iterator[Source | Skip]:
    try:
        archive = stack.enter_context(open_tar(file))
        changed = file.stat().st_mtime_ns
        is_plain = isinstance(archive.fileobj, io.BufferedReader)
        for member in archive:
            if reason := unreadable(member.name):
                yield Skip(member.name, reason)
            if not _is_picture(member.name) or member.isdir():
                continue
            if not member.isreg():
                yield Skip(member.name, "link or device in an archive: not followed")
                continue
            stamp = f"{changed} {member.offset_data} {member.size}"
            if is_plain and not member.issparse():
                read = partial(_slice, file, member.offset_data, member.size)
                yield Source(member.name, read, member.size, stamp)
            else:
                yield Source(member.name, partial(_member, archive, member), member.size, stamp, is_here=True)
        _check_end(file, archive)
    except UserError:
        raise
    except TAR_ERRORS as error:
        raise _damaged(file, error) from error


def _check_end(file: Path, archive: tarfile.TarFile) -> None:
    """Refuse a tar that is not whole: tarfile takes a damaged header, and a cut, for the end of the archive.

    Behind the end mark may be zeros alone: of tars put one after the other only the first is read. Reading to the very
    end makes a compressed tar check its own sums, too.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        what = "a damaged header" if block else "no end mark"
        raise tarfile.ReadError(f"{what} at byte {archive.offset}")
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            raise UserError(
                f"{file}: content follows the tar's end mark at byte {archive.offset}, as where tars were joined, and "
                "would be left out; unpack it (tar -xif) and pack the folder, or give each tar by itself"
            )


def _damaged(file: object, error: Exception) -> UserError:
    return UserError(f"{file}: the tar is damaged or cut short ({error}); fetch it again")


def _slice(file: Path, offset: int, size: int) -> bytes:
    _check_size(size)
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); every node needs the same folders") from error
    if len(data) < size:
        raise _damaged(file, EOFError(f"{size - len(data)} bytes are missing at byte {offset}"))
    return data


def _member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    _check_size(member.size)
    handle = archive.extractfile(member)
    if handle is None:
        raise PictureError("not a file", "an entry of the tar without content")
    try:
        return handle.read()
    except TAR_ERRORS as error:
        raise _damaged(archive.name, error) from error


def _zip(file: Path, stack: ExitStack) -> Iterator[Source | Skip]:
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
    # A damaged directory of a zip ends in whatever its parser trips over.
    except (zipfile.BadZipFile, OSError, IndexError, ValueError, struct.error) as error:
        raise UserError(f"{file}: the zip is damaged ({error}); fetch it again") from error
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        if not info.filename:
            raise UserError(f"{file}: the zip is damaged (an entry without a name); fetch it again")
        if reason := unreadable(info.filename):
            yield Skip(info.filename, reason)
        elif not info.is_dir() and _is_picture(info.filename):
            stamp = f"{info.CRC:08x} {info.file_size}"
            yield Source(info.filename, partial(_zip_member, archive, info), info.file_size, stamp, is_here=True)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_size(info.file_size)
    if info.flag_bits & _ENCRYPTED:
        raise PictureError("encrypted", "the zip asks for a password; unpack it and pack the folder")
    try:
        # Piece by piece: at once, a whole member is inflated before it is cut to the size that the zip declares.
        with archive.open(info) as member, io.BytesIO() as data:
            assert isinstance(member, zipfile.ZipExtFile)
            member.MIN_READ_SIZE = _ZIP_PIECES.get(info.compress_type, _SMALL_PIECE)
            shutil.copyfileobj(member, data, member.MIN_READ_SIZE)
            return data.getvalue()
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise PictureError("damaged", f"damaged in the zip ({error})") from error


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise PictureError("too large", f"{size} bytes; need at most {MAX_FILE_BYTES}")


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _text(path: Path) -> str:
    """A path as text that may carry undecodable bytes; the packer percent-encodes them."""
    return os.fsdecode(os.fsencode(path))
