"""What every store promises, whatever stands behind it.

A store is one place, a bucket with a prefix or a folder. Keys are relative and '/'-separated. A store holds its
address alone: it pickles, survives fork, and opens connections in the process that uses it. Not covered: locking
between writers; `create` is the one verb in which exactly one of several writers wins.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainplane.errors import RunFailed, UserError

# Names of a folder store's unfinished files begin so; as keys they are refused everywhere, to keep stores alike.
TEMPORARY_PREFIX = ".part~"

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAX_KEY_BYTES = 1024  # the limit of S3


class NotFound(LookupError):
    """Nothing is stored under this key."""


class StorageError(RunFailed):
    """The store does not answer, refuses us, or has no room: a sentence that names the address and no secret."""


class NoBucket(StorageError):
    """The bucket of an address is not there: no answer about any object, and nothing can be stored."""


@dataclass(frozen=True)
class Entry:
    """One stored object; `size` in bytes. `stamp` is another once its bytes are: S3's ETag, a file's time of change."""

    key: str
    size: int
    stamp: str = ""


class Store(ABC):
    """One place. Every verb raises `StorageError` when the store cannot be used, `UserError` for a malformed key."""

    @property
    @abstractmethod
    def address(self) -> str:
        """`s3://bucket/prefix`, or the absolute path of a folder."""

    @abstractmethod
    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from offset `start`, or all that follow; fewer when the object ends before.

        Raises `NotFound`. A connection that breaks is resumed at the offset reached.
        """

    def view(self, key: str, *, start: int = 0, length: int | None = None) -> memoryview:
        """The same as `read`, in memory that was not copied where the store can do without."""
        return memoryview(self.read(key, start=start, length=length))

    @abstractmethod
    def write(self, key: str, data: bytes | Path) -> None:
        """Store bytes, or a file's content, under `key`: there whole or not at all, replacing what was there."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Store `data` unless `key` exists, atomically; False when it does.

        Of several writers exactly one gets True. Where an answer was lost on the way, equal content under the key
        counts as ours, so give every writer content of its own (a nonce) when that difference matters.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Bytes stored under `key`; None when there is no such object."""

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Every object whose key begins with the text `prefix`, at any depth, in order of key."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; one that is absent is fine."""

    @abstractmethod
    def child(self, prefix: str) -> Store:
        """The place below this one."""

    @abstractmethod
    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        """Remove what writers that died left of keys for which `is_ours` holds; how many pieces of writing it was.

        Only keys of this store are asked about, never those of another prefix. A store cannot tell a dead writer from
        a living one: whoever calls this knows that nobody writes to these keys.
        """

    @abstractmethod
    def open_writer(self, key: str) -> AbstractContextManager[BinaryIO]:
        """A file to write to piece by piece, in bounded memory: appears whole on a clean exit, not at all otherwise."""


def checked_key(key: str) -> str:
    """`key` itself, or a `UserError` saying why it cannot name an object in any store."""
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
    """`prefix` itself, or a `UserError` where it would leave the store. It is text: it may end inside a name."""
    if prefix.startswith("/") or ".." in prefix.split("/"):
        raise UserError(f"{prefix!r} is no prefix of keys; need relative text without '..' parts")
    return prefix


def checked_range(start: int, length: int | None) -> None:
    """A `ValueError` for a range that no object can have."""
    if start < 0 or (length is not None and length < 0):
        raise ValueError(f"range of {length} bytes from {start}: neither may be negative")
