"""Interface of every store.

A store is a bucket with a prefix, or a folder. Keys are relative and '/'-separated. A store holds only its address: it
pickles, survives fork, and opens connections in the process that uses it. Not covered: locking between writers;
`create` is the one operation in which exactly one of several writers wins.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from trainplane.errors import RunFailed, UserError

# Prefix of a folder store's unfinished files. All stores refuse such keys, to accept the same ones.
TEMPORARY_PREFIX = ".part~"

# Control characters have no place in a portable key.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_KEY_BYTES = 1024  # the limit of S3


class NotFound(LookupError):
    """Nothing is stored under this key."""


class StorageError(RunFailed):
    """The store does not answer, refuses access, or is full.

    The message names the address and no secret.
    """


class StoreAway(StorageError):
    """The store did not answer within this process's patience."""


class AccessDenied(StorageError):
    """The store refuses an operation to these credentials."""


class NoBucket(StorageError):
    """The bucket of an address does not exist.

    It says nothing about any object, unlike `NotFound`.
    """


@dataclass(frozen=True)
class Entry:
    """One stored object; `size` in bytes.

    `stamp` changes with the bytes: S3's ETag, or a file's modification time.
    """

    key: str
    size: int
    stamp: str = ""
    # Time of its writing by the store's clock, seconds since 1970; infinite where the store tells none, so never old
    written_s: float = field(default=math.inf, compare=False)


class Store(ABC):
    """Objects below one address.

    Every method raises `StorageError` when the store cannot be used, and `UserError` for a malformed key.
    """

    @property
    @abstractmethod
    def address(self) -> str:
        """`s3://bucket/prefix`, or the absolute path of a folder."""

    @abstractmethod
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Reads `length` bytes from `start`, or all that follow.

        Returns fewer bytes when the object ends before. Raises `NotFound`. After a broken connection, reading resumes
        at the offset reached.
        """

    def view(self, key: str, *, start: int = 0, length: int | None = None) -> memoryview:
        """Reads as `read` does, without a copy where possible."""
        return memoryview(self.read(key, start=start, length=length))

    @abstractmethod
    def write(self, key: str, data: bytes | Path) -> None:
        """Stores bytes, or the content of a file.

        The object appears whole or not at all, and replaces an existing one.
        """

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Stores `data` atomically; False when `key` exists.

        Of several writers exactly one gets True. Where an answer was lost on the way, equal content under the key
        counts as ours, so give every writer its own content (a nonce) when that difference matters.
        """

    @abstractmethod
    def replace(self, key: str, data: bytes, *, stamp: str) -> bool:
        """Stores `data` atomically where the object still has this stamp.

        False where it has another one or is gone. `stamp` is an `Entry`'s. As for `create`, exactly one of several
        writers gets True. For small objects, sent in one request.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Size in bytes; None when there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Lists objects whose key begins with `prefix`, sorted by key.

        `prefix` is text and may end inside a name; objects at any depth count.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes the object, if it exists."""

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """Store below this one."""

    @abstractmethod
    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        """Removes unfinished writes of selected keys; returns their number.

        `is_ours` selects among the keys of this store, never those of another prefix. A store cannot distinguish a dead
        writer from a living one: the caller guarantees that no process writes to these keys.
        """

    @abstractmethod
    def open_writer(self, key: str) -> AbstractContextManager[BinaryIO]:
        """Opens a file for writing in bounded memory.

        The object appears whole on a clean exit, and not at all otherwise.
        """


def checked_key(key: str) -> str:
    """Returns a key that every store accepts, or raises `UserError`."""
    # No empty, '.' or '..' parts: a file system would resolve them, S3 would not.
    parts = key.split("/")
    if not key or key.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{key!r} is no key; need a relative path such as 'a/b.json' without empty, '.' or '..' parts")
    if _CONTROL.search(key) or "\\" in key:
        raise UserError(f"{key!r} is no key; control characters and backslashes are not portable between stores")
    if any(part.startswith(TEMPORARY_PREFIX) for part in parts):
        raise UserError(f"{key!r} is no key; names beginning with {TEMPORARY_PREFIX!r} are kept for unfinished files")
    try:
        encoded = key.encode()
    except UnicodeEncodeError:
        raise UserError(f"{key!r} is no key; need text that UTF-8 can hold") from None
    if len(encoded) > _MAX_KEY_BYTES:
        raise UserError(f"key of {len(encoded)} bytes beginning {key[:40]!r} is too long; S3 takes {_MAX_KEY_BYTES}")
    return key


def checked_prefix(prefix: str) -> str:
    """Returns a prefix inside the store, or raises `UserError`."""
    if prefix.startswith("/") or ".." in prefix.split("/"):
        raise UserError(f"{prefix!r} is no prefix of keys; need relative text without '..' parts")
    return prefix


def checked_range(start: int, length: int | None) -> None:
    """Raises a `ValueError` for a negative range."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"range of {length} bytes from {start}: neither may be negative")
