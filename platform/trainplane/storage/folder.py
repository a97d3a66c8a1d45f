"""Store in a folder of a local or shared filesystem.

A file appears by rename (or link) after its bytes are on the disk, and the folder's entry is then synced too, so a
stored object survives a power cut. Not covered: file systems without hard links (`create` needs them).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from trainplane.storage.store import (
    TEMPORARY_PREFIX,
    AccessDenied,
    Entry,
    NotFound,
    StorageError,
    Store,
    checked_key,
    checked_prefix,
    checked_range,
)


class FolderStore(Store):
    """Objects as files below `root`, which the first write creates."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"FolderStore({self.address!r})"

    @property
    def address(self) -> str:
        """Absolute path of the folder."""
        return str(self._root)

    def child(self, prefix: str) -> FolderStore:
        """Store in a folder below this one."""
        return FolderStore(self._root / checked_key(prefix))

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Reads from the file; a folder is not an object."""
        checked_range(start, length)
        path = self._path(key)
        with self._storage_errors(f"read {key}"):
            try:
                with path.open("rb") as file:
                    file.seek(start)
                    return file.read() if length is None else file.read(length)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                raise NotFound(f"{path}: no such file") from None

    def write(self, key: str, data: bytes | Path) -> None:
        """Writes a temporary file and renames it."""
        with self.open_writer(key) as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(data)

    def create(self, key: str, data: bytes) -> bool:
        """Writes a temporary file and links it."""
        path = self._path(key)
        with self._storage_errors(f"create {key}"):
            temporary, file = _open_temporary(path)
            try:
                with file:
                    file.write(data)
                    _sync_file(file)
                # A link, unlike a rename, fails when the name exists.
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync_parent(path)
            return True

    def replace(self, key: str, data: bytes, *, stamp: str) -> bool:
        """Compares and renames under a lock of the file."""
        path = self._path(key)
        with self._storage_errors(f"replace {key}"):
            try:
                old = path.open("rb")
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return False
            with old:
                fcntl.flock(old, fcntl.LOCK_EX)
                # Whoever had the lock before has put another file there.
                is_same = os.path.exists(path) and os.path.samestat(os.fstat(old.fileno()), path.stat())
                if not is_same or str(path.stat().st_mtime_ns) != stamp:
                    return False
                self.write(key, data)
                return True

    def size(self, key: str) -> int | None:
        """Size of the file."""
        path = self._path(key)
        with self._storage_errors(f"look at {key}"):
            try:
                status = path.stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return status.st_size if path.is_file() else None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Walks the folders that the prefix can lead into."""
        checked_prefix(prefix)
        with self._storage_errors(f"list {prefix}"):
            entries = list(_files_below(self._root, prefix))
        # The order of whole keys differs from a walk's, because '-' and '.' sort before '/'.
        yield from sorted(entries, key=lambda entry: entry.key)

    def delete(self, key: str) -> None:
        """Deletes the file, and the folders that it leaves empty."""
        path = self._path(key)
        with self._storage_errors(f"delete {key}"), suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
            # Remove empty folders up to the root, which stays: a bucket has no folders either. The kernel refuses to
            # remove one that holds a file, and a process that is about to create a file creates the folder again.
            folder = path.parent
            with suppress(OSError):
                while folder != self._root:
                    folder.rmdir()
                    folder = folder.parent

    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        """Removes temporary files of these keys."""
        unfinished = []
        with self._storage_errors("list unfinished files"):
            for folder, _, names in os.walk(self._root, onerror=_raise_unless_absent):
                for name in names:
                    path = Path(folder, name)
                    # ".part~<token>~<final name>"; the final name is missing where it is too long.
                    final_name = name.removeprefix(TEMPORARY_PREFIX).partition("~")[2]
                    key = (path.parent / final_name).relative_to(self._root).as_posix()
                    if name.startswith(TEMPORARY_PREFIX) and final_name and is_ours(key):
                        unfinished.append(path)
            for path in unfinished:
                path.unlink(missing_ok=True)
        return len(unfinished)

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        """Opens a temporary file, which a clean exit renames."""
        # Errors of opening are the store's; then the caller's block runs, and on a clean exit the file appears.
        path = self._path(key)
        with self._storage_errors(f"write {key}"):
            temporary, file = _open_temporary(path)
        try:
            try:
                yield file
            except OSError as error:
                # A full disk is an error of this store; other errors come from the caller's block.
                if error.errno in _DISK_FULL:
                    raise self._storage_error(f"write {key}", error) from error
                raise
            with self._storage_errors(f"write {key}"):
                _sync_file(file)
                os.replace(temporary, path)
                _sync_parent(path)
        finally:
            file.close()
            temporary.unlink(missing_ok=True)

    def ensure_folder(self) -> None:
        """Creates the folder, if absent."""
        with self._storage_errors("make the folder"):
            self._root.mkdir(parents=True, exist_ok=True)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    @contextmanager
    def _storage_errors(self, verb: str) -> Iterator[None]:
        """Raises errors of the operating system as `StorageError`."""
        try:
            yield
        except OSError as error:
            raise self._storage_error(verb, error) from error

    def _storage_error(self, verb: str, error: OSError) -> StorageError:
        remedy = "free some space" if error.errno in _DISK_FULL else "check the folder and its permissions"
        error_type = AccessDenied if error.errno in _DENIED else StorageError
        return error_type(f"{self.address}: cannot {verb} ({error.strerror}); {remedy}")


_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# Each failed attempt means that another process removed the folder in the microseconds since it was created.
_ATTEMPTS = 20


def _open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """Creates an empty temporary file beside `path`, open for writing.

    It lies in the same folder, because a rename is atomic only there.
    """
    for remaining in reversed(range(_ATTEMPTS)):
        try:
            temporary = _temporary_path(path)
            return temporary, temporary.open("xb")
        # mkdir raises FileExistsError also for a folder that existed and was removed an instant later.
        except (FileNotFoundError, FileExistsError):
            if not remaining:
                raise
    raise AssertionError("unreachable")


def _temporary_path(path: Path) -> Path:
    """Unique name beside `path`; creates missing folders."""
    # Note the folders that do not exist yet, innermost first.
    missing = []
    folder = path.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each new folder is an entry of its parent, which must reach the disk too.
    for new_folder in reversed(missing):
        _sync_folder(new_folder.parent)
    # The final name is included where it fits: file systems limit a name to 255 bytes.
    final_name = path.name if len(path.name.encode()) < 200 else ""
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}~{final_name}"


def _sync_file(file: BinaryIO) -> None:
    # First Python's buffer, then the kernel's.
    file.flush()
    os.fsync(file.fileno())


def _sync_parent(path: Path) -> None:
    # A missing folder means that the file was deleted again: there is nothing to keep.
    with suppress(FileNotFoundError):
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
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
                status = path.stat()
                yield Entry(key, status.st_size, str(status.st_mtime_ns), status.st_mtime)


def _raise_unless_absent(error: OSError) -> None:
    # A walk hides errors by default: a folder that may not be read would look empty.
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
