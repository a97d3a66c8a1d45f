"""Index of a large dataset, once a host.

The first process that opens a dataset writes the numbers of its index to a file; all processes of the host map that
file, so each of them has a few MB of its own, however large the dataset is. The file's name is the dataset's digest: it
never changes, and a process that is killed leaves a temporary file only, which the next one removes.
"""

from __future__ import annotations

import json
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from trainplane.data.index_table import Block, IndexTable, TableShape, read_table
from trainplane.data.shard import Shard
from trainplane.locks import FileLock, private_folder

MAP_FROM_SAMPLES = 50_000
"""Smaller indexes take less memory than the file is worth."""

FOLDER = "trainplane-index"

_MAGIC = b"TPINDEX1"
_SUFFIX = ".index"
_LOCK = "lock"
_UNFINISHED = "unfinished-"
_LOCK_WAIT_S = 600.0  # another process reads the index of ten million samples in a minute
_UNUSED_S = 30 * 24 * 3600.0  # after this time a file is removed


class IndexFolder:
    """Folder of mapped indexes on this host.

    Raises `OSError` where the folder cannot be created, or might be written by another account.
    """

    def __init__(self, parent: str | None = None) -> None:
        # What stands in the file decides which bytes are read: only files of this account are believed.
        self._folder = private_folder(FOLDER, parent)

    def get(self, digest: str) -> IndexTable | None:
        """Maps the index of a dataset, or returns None."""
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                block = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                # The time of its last use.
                os.utime(file.fileno())
        except (OSError, ValueError):
            return None
        return _parsed(block)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lets one process at a time read an index.

        Raises `OSError` where another holds the lock for too long.
        """
        lock = FileLock(self._folder / _LOCK)
        if not lock.acquire(wait_s=_LOCK_WAIT_S):
            raise TimeoutError("another process has been reading an index for too long")
        try:
            yield
        finally:
            lock.release()

    def add(self, digest: str, data: bytes, shards: Sequence[Shard], schema: pa.Schema) -> IndexTable:
        """Reads an index into a file, and maps it.

        Raises `ValueError` if it is no index of these shards, `OSError` where it cannot be written.
        """
        self._remove_unused()
        path = self._folder / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            with path.open("x+b") as file:
                table = read_table(data, shards, schema, allocate=_in_file(file.fileno()))
                # Behind the block: the keys of each shard, then what describes the file.
                file.seek(table.shape.bytes)
                for blob in table.keys:
                    file.write(blob)
                file.write(_footer(table))
                file.flush()
                os.fsync(file.fileno())
            path.rename(self._path(digest))
        finally:
            path.unlink(missing_ok=True)
        mapped = self.get(digest)
        if mapped is None:
            raise FileNotFoundError(f"{self._path(digest)} was removed as soon as it was written")
        return mapped

    def _path(self, digest: str) -> Path:
        return self._folder / f"{digest}{_SUFFIX}"

    def _remove_unused(self) -> None:
        for path in self._folder.iterdir():
            with suppress(OSError):
                limit_s = 2 * _LOCK_WAIT_S if path.name.startswith(_UNFINISHED) else _UNUSED_S
                if path.name != _LOCK and time.time() - path.stat().st_mtime > limit_s:
                    path.unlink()


def _in_file(handle: int) -> Callable[[int], Block]:
    def allocate(size: int) -> Block:
        # A full disk is an error here, and not a signal in the middle of writing.
        os.posix_fallocate(handle, 0, size)
        return mmap.mmap(handle, size)

    return allocate


def _footer(table: IndexTable) -> bytes:
    shape = table.shape
    description = {
        "samples": shape.samples,
        "members": shape.members,
        "wide": shape.wide,
        "extensions": table.extensions,
        "keys": [len(blob) for blob in table.keys],
    }
    text = json.dumps(description).encode()
    return text + len(text).to_bytes(8, "little") + _MAGIC


def _parsed(block: mmap.mmap) -> IndexTable | None:
    # A file of another release is written again.
    end = len(block) - len(_MAGIC) - 8
    if end < 0 or block[end + 8 :] != _MAGIC:
        return None
    length = int.from_bytes(block[end : end + 8], "little")
    description = json.loads(block[end - length : end])
    shape = TableShape(description["samples"], description["members"], wide=description["wide"])
    view = memoryview(block)
    keys, at = [], shape.bytes
    for size in description["keys"]:
        keys.append(view[at : at + size])
        at += size
    return IndexTable(shape, block, description["extensions"], keys)
