"""Sources of pictures: folder, S3 prefix, list, tar, zip.

Each source yields its pictures in an order that does not depend on the machine. Nothing is unpacked to disk. Size and
time of every picture are recorded, so that a repeated packing sees which pictures are unchanged.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import os
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from isnet.errors import InputError
from isnet.formats.zip_kind import is_zip
from isnet.images.files import PictureError, read_bytes
from isnet.images.folders import (
    LOOKED_INSIDE,
    SUFFIXES,
    Skipped,
    by_path,
    hidden_part,
    is_apple_double,
    unsupported_reason,
    walk_pictures,
)
from jobs.data.archive_kinds import why_no_source
from jobs.data.names import Names
from jobs.data.tars import TAR_ERRORS, TarLinks, is_tar, open_tar
from jobs.data.zips import check_member_size, read_zip_member
from trainplane.errors import UserError
from trainplane.storage import NotFound, Store, open_store
from trainplane.storage.store import checked_key

# Columns of a line in a list: words of a name with spaces, and labels.
_MAX_COLUMNS = 16


@dataclass(frozen=True)
class PictureSource:
    """One picture before packing."""

    name: str  # path relative to the source
    read: Callable[[], bytes]
    size: int = 0  # approximate number of bytes to read
    stamp: str = ""  # changes when the bytes change, as far as sizes and times show it
    about: Mapping[str, Any] = field(default_factory=dict)  # labels from a dataset's lists, for the sample's JSON
    only_here: bool = False  # member of an archive that this process holds open; no other process can read it

    def portable(self) -> PictureSource:
        """Returns a copy that another process can read."""
        if not self.only_here:
            return self
        try:
            # Only this process can read the bytes, so they are read now.
            return replace(self, read=partial(bytes, self.read()), only_here=False)
        except InputError as error:
            # Raised in the other process, so that it is reported for this picture.
            return replace(self, read=partial(_raise, error), only_here=False)


@dataclass(frozen=True)
class Skip:
    """A file that is left out."""

    file: str
    reason: str  # starts with its kind and a colon, such as `damaged: …`


def _raise(error: InputError) -> bytes:
    raise error


@contextmanager
def open_pictures(source: str | Path) -> Iterator[Iterable[PictureSource | Skip]]:
    """Opens a folder, `s3://` prefix, `.txt` list, tar or zip.

    An archive is open as long as the `with` block.
    """
    if "://" in str(source):
        yield _without_hidden(_stored(open_store(str(source))))
        return
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{path}: there is no such file or folder; need a folder, an s3:// address, a .txt list, a .tar or a .zip"
        )
    if not (path.is_dir() or path.is_file()):
        # Reading a pipe or a device may never end.
        raise UserError(f"{path}: is a pipe, socket or device; need a folder or a regular file")
    with ExitStack() as stack:
        if path.is_dir():
            yield _folder(path)
        elif is_zip(path):
            yield _without_repeats(_without_hidden(_zip(path, stack)))
        elif path.suffix.lower() in (".txt", ".lst", ".flist"):
            yield _without_repeats(_list(path))
        elif is_tar(path):
            yield _without_repeats(_without_hidden(_tar(path, stack)))
        else:
            raise UserError(f"{path}: {why_no_source(path)}")


def _without_repeats(entries: Iterator[PictureSource | Skip]) -> Iterator[PictureSource | Skip]:
    """Skips repeated paths: a dataset has each path once."""
    digests: set[bytes] = set()
    for entry in entries:
        if isinstance(entry, PictureSource):
            # Digests, because millions of long names take too much memory. `./a.jpg` is the same path as `a.jpg`.
            digest = hashlib.blake2b(os.fsencode(os.path.normpath(entry.name)), digest_size=8).digest()
            if digest in digests:
                yield Skip(entry.name, "named twice: the first one is taken")
                continue
            digests.add(digest)
        yield entry


def _without_hidden(entries: Iterator[PictureSource | Skip]) -> Iterator[PictureSource | Skip]:
    """Skips hidden files and folders as `walk_pictures` does.

    Each folder is named once.
    """
    named: set[str] = set()
    for entry in entries:
        part, reason = hidden_part(entry.name if isinstance(entry, PictureSource) else entry.file)
        if not reason:
            yield entry
        elif part not in named:
            named.add(part)
            yield Skip(part, reason)


def _folder(folder: Path) -> Iterator[PictureSource | Skip]:
    pictures, skipped = Names(), []
    for entry in walk_pictures(folder):
        if isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            pictures.append(os.fsencode(entry.relative_to(folder)))
    # First all that is skipped: digests of datasets have this order.
    yield from (Skip(_text(entry.path), entry.reason) for entry in by_path(skipped) if entry.reason != LOOKED_INSIDE)
    for name in pictures:
        path = folder / os.fsdecode(name)
        yield file_source(_text(path.relative_to(folder)), path)


def file_source(name: str, path: Path) -> PictureSource:
    """Makes a source; reading an absent file reports that."""
    try:
        stat = path.stat()
    except OSError:
        return PictureSource(name, partial(read_bytes, path), 0, "absent")
    return PictureSource(name, partial(_listed_bytes, path), stat.st_size, f"{stat.st_size} {stat.st_mtime_ns}")


def _listed_bytes(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except PictureError as error:
        if error.kind == "missing":
            # Not a `Skip`: a node that does not see the folder would skip every picture.
            raise UserError(
                f"{path}: existed when it was listed and is missing now; every node needs the same folders, "
                "and pictures must stay in place while they are packed"
            ) from error
        raise


def _stored(store: Store) -> Iterator[PictureSource | Skip]:
    """Lists the pictures below a prefix on S3."""
    for entry in store.list():
        if reason := unsupported_reason(entry.key):
            yield Skip(entry.key, reason)
        elif _is_picture(entry.key):
            if reason := _key_fault(entry.key):
                yield Skip(entry.key, reason)
                continue
            read = partial(_object, store, entry.key)
            stamp = f"{entry.size} {entry.stamp}"
            yield PictureSource(entry.key, read, entry.size, stamp) if entry.size else Skip(entry.key, "empty file")


def _key_fault(key: str) -> str:
    """Reason why no store reads a key; else empty.

    S3 itself allows keys such as `in//b.jpg`.
    """
    try:
        checked_key(key)
    except UserError as error:
        return f"unreadable name: {error}"
    return ""


def _object(store: Store, key: str) -> bytes:
    try:
        return store.read(key)
    except NotFound as error:
        raise UserError(f"{store.address}/{key}: existed when it was listed and is missing now") from error


def _list(file: Path) -> Iterator[PictureSource | Skip]:
    """Reads a list of paths relative to the list's folder."""
    for line in _raw_lines(file):
        # Names may contain spaces, end with them and begin with '#': a line means the longest name that exists.
        # Columns behind the path (labels) and comments are ignored.
        names = [line, *_without_last_columns(line)]
        name = next((name for name in names if _exists(file.parent / name)), None)
        if name is None:
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            # No such file: report the longest name that looks like a picture.
            name = next((name for name in names[1:] if _is_picture(name)), line.split()[0])
        if name.strip():
            yield file_source(name, file.parent / name)


def _without_last_columns(line: str) -> Iterator[str]:
    """Yields the stripped line with ever fewer columns."""
    name = line.strip()
    for _ in range(_MAX_COLUMNS):
        yield name
        name, *last = name.rsplit(maxsplit=1) or [""]
        if not last:
            return


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # The line is longer than any file name, or its folder may not be read.
        return False


def read_lines(file: Path) -> list[str]:
    """Reads a list without empty lines and comments."""
    return [line.strip() for line in _raw_lines(file) if line.strip() and not line.lstrip().startswith("#")]


def _raw_lines(file: Path) -> list[str]:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: the list cannot be read ({error.strerror}); check its permissions") from error
    if b"\0" in data:
        raise UserError(
            f"{file}: is not a list in UTF-8: it contains zero bytes (UTF-16, `find -print0`, or not a text file); "
            "need one path on each line; save it as UTF-8"
        )
    # Names may be undecodable; `surrogateescape` keeps their bytes.
    text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    # Not splitlines(): it also splits at form feeds and Unicode separators, which names may contain.
    return re.split(r"\r\n|\r|\n", text)


def _tar(file: Path, stack: ExitStack) -> Iterator[PictureSource | Skip]:
    """Lists the pictures of a tar."""
    try:
        archive = stack.enter_context(open_tar(file))
        modified = file.stat().st_mtime_ns
        content = TarLinks()
        symbolic = []
        for member in archive:
            content.add(member)
            if reason := unsupported_reason(member.name):
                yield Skip(member.name, reason)
            if not _is_picture(member.name) or member.isdir():
                continue
            # A hard link is another name of an earlier member; a symbolic one may lead to a later member.
            if member.issym():
                symbolic.append(member)
            else:
                yield _tar_entry(file, archive, member.name, content.target(member), modified)
        for member in symbolic:
            yield _tar_entry(file, archive, member.name, content.target(member), modified)
        _check_end(file, archive)
    except UserError:
        raise
    except TAR_ERRORS as error:
        raise _damaged(file, error) from error


def _tar_entry(
    file: Path, archive: tarfile.TarFile, name: str, member: tarfile.TarInfo | None, modified: int
) -> PictureSource | Skip:
    if member is None:
        return Skip(name, "link or device in an archive: not followed")
    stamp = f"{modified} {member.offset_data} {member.size}"
    # Read by offset, so any process can read them: bytes of a plain tar lie in one piece, except of a sparse member.
    if isinstance(archive.fileobj, io.BufferedReader) and not member.issparse():
        return PictureSource(name, partial(_slice, file, member.offset_data, member.size), member.size, stamp)
    return PictureSource(name, partial(_member, archive, member), member.size, stamp, only_here=True)


def _check_end(file: Path, archive: tarfile.TarFile) -> None:
    """Refuses a tar that is incomplete.

    tarfile takes a damaged header, and a cut, for the end of the archive. Behind the end mark only zeros are allowed:
    tarfile would read only the first of several joined tars.
    """
    stream = archive.fileobj
    assert stream is not None
    # An end mark is a block of zeros where the next header would be.
    stream.seek(archive.offset)
    block = stream.read(tarfile.BLOCKSIZE)
    if block.strip(b"\0") or len(block) < tarfile.BLOCKSIZE:
        what = "a damaged header" if block else "no end mark"
        raise tarfile.ReadError(f"{what} at byte {archive.offset}")
    # Reading to the very end also makes a compressed tar verify its checksums.
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            raise UserError(
                f"{file}: content follows the tar's end mark at byte {archive.offset} (joined tars look like this) and "
                "would be left out; unpack it (tar -xif) and pack the folder, or give each tar by itself"
            )


def _damaged(file: object, error: Exception) -> UserError:
    return UserError(f"{file}: the tar is damaged or cut short ({error}); fetch it again")


def _slice(file: Path, offset: int, size: int) -> bytes:
    """Reads a member of an uncompressed tar."""
    check_member_size(size)
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
    """Reads a member of a compressed tar."""
    check_member_size(member.size)
    handle = archive.extractfile(member)
    if handle is None:
        raise PictureError("not a file", "an entry of the tar without content")
    try:
        return handle.read()
    except TAR_ERRORS as error:
        raise _damaged(archive.name, error) from error


def _zip(file: Path, stack: ExitStack) -> Iterator[PictureSource | Skip]:
    """Lists the pictures of a zip by name."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
    # zipfile raises any of these for a damaged directory.
    except (zipfile.BadZipFile, OSError, IndexError, ValueError, struct.error) as error:
        raise UserError(f"{file}: the zip is damaged ({error}); fetch it again") from error
    # Sorted, because the order in a zip depends on the tool that wrote it.
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        if not info.filename:
            raise UserError(f"{file}: the zip is damaged (an entry without a name); fetch it again")
        if reason := unsupported_reason(info.filename):
            yield Skip(info.filename, reason)
        elif not info.is_dir() and _is_picture(info.filename):
            stamp = f"{info.CRC:08x} {info.file_size}"
            read = partial(read_zip_member, archive, info)
            yield PictureSource(info.filename, read, info.file_size, stamp, only_here=True)


def _is_picture(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not is_apple_double(path.name)


def _text(path: Path) -> str:
    """Path as text; the packer percent-encodes undecodable bytes."""
    return os.fsdecode(os.fsencode(path))
