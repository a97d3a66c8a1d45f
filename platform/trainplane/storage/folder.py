"""A folder as a store: for one machine, or a file system that all machines share.

A file appears by rename (or link) after its bytes are on the disk, and the folder's entry is then forced to the disk
too, so what was written survives a power cut. Not covered: file systems without hard links (`create` needs them).
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trainplane.storage.store import (
    TEMPORARY_PREFIX,
    Entry,
    NotFound,
    StorageError,
    Store,
    checked_key,
    checked_prefix,
    checked_range,
)


class FolderStore(Store):
    """Objects are files below `root`, which is created by the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"FolderStore({self.address!r})"

    @property
    def address(self) -> str:
        return str(self._root)

    def child(self, prefix: str) -> FolderStore:
        return FolderStore(self._root / checked_key(prefix))

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        checked_range(start, length)
        path = self._path(key)
        with self._explained(f"read {key}"):
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read() if length is None else file.read(length)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise NotFound(f"{path}: no such file") from None

    def write(self, key: str, data: bytes | Path) -> None:
        with self.open_writer(key) as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(data)

    def create(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._explained(f"create {key}"):
            temporary, file = _new_beside(path)
            try:
                with file:
                    file.write(data)
                    _to_disk(file)
                # A link, unlike a rename, fails when the name is taken.
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _file_entry_to_disk(path)
            return True

    def size(self, key: str) -> int | None:
        path = self._path(key)
        with self._explained(f"look at {key}"):
            try:
                found = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return found.st_size if path.is_file() else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked_prefix(prefix)
        with self._explained(f"list {prefix}"):
            found = list(_files_below(self._root, prefix))
        # The order of whole keys differs from a walk's, because '-' and '.' sort before '/'.
        yield from sorted(found, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._explained(f"delete {key}"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            self._remove_empty(path.parent)

    def _remove_empty(self, folder: Path) -> None:
        """Take the folders of a deleted file away that it leaves empty, as a bucket has none; the store itself stays.

        The kernel refuses where somebody has a file there, and whoever is about to make one makes the folder again.
        """
        with suppress(OSError):
            while folder != self._root:
                folder.rmdir()
                folder = folder.parent

    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        found = []
        with self._explained("list unfinished files"):
            for folder, _, names in os.walk(self._root, onerror=_raise_unless_absent):
                for name in names:
                    path = Path(folder, name)
                    meant = name.removeprefix(TEMPORARY_PREFIX).partition("~")[2]
                    key = (path.parent / meant).relative_to(self._root).as_posix()
                    if name.startswith(TEMPORARY_PREFIX) and meant and is_ours(key):
                        found.append(path)
            for path in found:
                path.unlink(missing_ok=True)
        return len(found)

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        path = self._path(key)
        with self._explained(f"write {key}"):
            temporary, file = _new_beside(path)
        try:
            try:
                yield file
            except OSError as error:
                # Only a full disk is this store's matter; other errors of the caller's block are the caller's.
                if error.errno in _OUT_OF_ROOM:
                    raise self._refusal(f"write {key}", error) from error
                raise
            with self._explained(f"write {key}"):
                _to_disk(file)
                os.replace(temporary, path)
                _file_entry_to_disk(path)
        finally:
            file.close()
            temporary.unlink(missing_ok=True)

    def ensure_folder(self) -> None:
        """Make the folder unless it is there."""
        with self._explained("make the folder"):
            self._root.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """The operating system's refusals as sentences."""
        try:
            yield
        except OSError as error:
            raise self._refusal(verb, error) from error

    def _refusal(self, verb: str, error: OSError) -> StorageError:
        remedy = "free some space" if error.errno in _OUT_OF_ROOM else "check the folder and its permissions"
        return StorageError(f"{self.address}: cannot {verb} ({error.strerror}); {remedy}")


_OUT_OF_ROOM = (errno.ENOSPC, errno.EDQUOT)
# Each is a folder that another process emptied in the microseconds since it was made.
_TRIES = 20


def _new_beside(path: Path) -> tuple[Path, BinaryIO]:
    """An empty file of a name no one else uses, in the same folder so that a rename is atomic; open for writing."""
    for left in reversed(range(_TRIES)):
        try:
            temporary = _temporary_beside(path)
            return temporary, temporary.open("xb")
        # "Exists" is what making a folder says where it was there and is gone the instant after.
        except (FileNotFoundError, FileExistsError):
            if not left:
                raise
    raise AssertionError("unreachable")


def _temporary_beside(path: Path) -> Path:
    """A name no one else uses, in the same folder; missing folders are made."""
    missing = []
    folder = path.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    path.parent.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        _entry_to_disk(made.parent)
    # The name that is meant is told as far as file systems have room for it: 255 bytes.
    meant = path.name if len(path.name.encode()) < 200 else ""
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}~{meant}"


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _file_entry_to_disk(path: Path) -> None:
    # Without the folder the file has been deleted again, and nothing is left to keep.
    with suppress(FileNotFoundError):
        _entry_to_disk(path.parent)


def _entry_to_disk(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files_below(root: Path, prefix: str) -> Iterator[Entry]:
    # Only the folders that the prefix can lead into are walked.
    start = root / prefix.rpartition("/")[0]
    for folder, _, names in os.walk(start, onerror=_raise_unless_absent):
        for name in names:
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            if not key.startswith(prefix) or name.startswith(TEMPORARY_PREFIX):
                continue
            with suppress(FileNotFoundError):  # deleted since the walk saw it
                found = path.stat()
                yield Entry(key, found.st_size, str(found.st_mtime_ns))


def _raise_unless_absent(error: OSError) -> None:
    # A walk hides errors by default: a folder that may not be read would look empty.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
