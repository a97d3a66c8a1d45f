"""Samples that this host has read before, on its own disk: for the next epoch, the next run, the rank beside it.

A shard's file is as long as the shard and full of holes; sound samples are written where they lie in the shard. No
list says which are there: what is read is checked like what comes from the store (length, header, crc32 of every
member), and a hole, or half of what a killed process wrote, fails like any damage and is read from the store instead.
So processes need not agree on anything: they write the same bytes to the same places. Writing happens in a thread of
its own and is left out where the disk does not keep up or is full. Not covered: making files, their limit and who goes
(cache_room.py), and the check itself (fetch.py).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainplane.data.read.cache_dir import CachePlace, CacheRoom, shard_file
from trainplane.data.shard import Shard

log = logging.getLogger(__name__)

_PENDING_BYTES = 64 * 1024 * 1024  # waiting to be written; more is not kept this time
_TOUCH_EVERY_S = 60.0
_ASK_AGAIN_S = 60.0  # after there was no room

_said: set[tuple[str, str]] = set()


class ShardCache:
    """One dataset's shards in the cache. Close it: what waits to be written is written then."""

    def __init__(self, place: CachePlace, dataset_digest: str) -> None:
        self._place = place
        self._dataset_digest = dataset_digest
        self._lock = threading.Lock()
        self._pending = 0
        self._used: dict[str, float] = {}
        self._no_room_until = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="fetch-cache")
        self._keeps = True
        self._room: CacheRoom | None = None
        try:
            self._room = CacheRoom(place)
        except OSError as error:
            self._stop(error)

    def close(self) -> None:
        """Finish writing."""
        self._writer.shutdown(wait=True)

    def read(self, shard: Shard, start: int, length: int) -> bytes | None:
        """What is kept of these bytes of a shard, zeros for what is not; None when there is nothing. Not checked."""
        room = self._room
        if room is None:
            return None
        name = shard_file(self._dataset_digest, shard.sha256)
        try:
            handle = os.open(room.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.pread(handle, length, start)
            if time.monotonic() - self._used.get(name, -_TOUCH_EVERY_S) >= _TOUCH_EVERY_S:
                os.utime(handle)
                self._used[name] = time.monotonic()
        except OSError:
            # A disk that cannot be read is as good as one that is empty.
            return None
        finally:
            os.close(handle)
        return data if len(data) == length else None

    def keep(self, shard: Shard, start: int, data: bytes) -> None:
        """Write bytes that were found sound to their place in the shard, soon, if there is room."""
        with self._lock:
            if not self._keeps or self._pending + len(data) > _PENDING_BYTES:
                return
            self._pending += len(data)
        self._writer.submit(self._write, shard, start, data)

    def _write(self, shard: Shard, start: int, data: bytes) -> None:
        try:
            if self._room is not None and self._keeps:
                self._write_into(self._room, shard, start, data)
        except OSError as error:
            self._stop(error)
        finally:
            with self._lock:
                self._pending -= len(data)

    def _write_into(self, room: CacheRoom, shard: Shard, start: int, data: bytes) -> None:
        name = shard_file(self._dataset_digest, shard.sha256)
        handle = _opened(room.folder / name)
        if handle is None:
            if time.monotonic() < self._no_room_until:
                return
            if not room.make(name, shard.bytes):
                self._no_room_until = time.monotonic() + _ASK_AGAIN_S
                self._say(log.info, "is full; what does not fit is read from the store")
                return
            handle = _opened(room.folder / name)
        if handle is not None:
            with os.fdopen(handle, "wb", buffering=0) as file:
                file.seek(start)
                written = file.write(data)
                # A write that a full disk cut short: the next one would say so, and half a sample fails its check.
                if written < len(data):
                    file.write(data[written:])

    def _stop(self, error: OSError) -> None:
        """Keep nothing more in this process; what is there may still be read."""
        self._say(log.warning, f"keeps nothing more ({error.strerror}); training goes on without it")
        self._keeps = False

    def _say(self, level: Callable[[str], None], what: str) -> None:
        """Say it once in this process, however many readers come and go."""
        if (self._place.folder, what) not in _said:
            _said.add((self._place.folder, what))
            level(f"cache at {Path(self._place.folder)} {what}")


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
