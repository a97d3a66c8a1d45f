"""Cache of samples on the host's disk.

It serves the next epoch, the next run, and the other ranks of the host. A shard's file is as long as the shard and
sparse; a valid sample is written at its position. Bytes of the cache are checked like those of the store (length,
header, crc32 of every member): a hole, or half of what a killed process wrote, fails and is read from the store. So
processes need no agreement: they write the same bytes to the same positions. A thread writes; bytes are dropped where
the disk is full or does not keep up.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainplane.data.read.cache_dir import CacheConfig, CacheDir, shard_file
from trainplane.data.shard import Shard

log = logging.getLogger(__name__)

_PENDING_BYTES = 64 * 1024 * 1024  # in the queue of the writer; more is dropped
_TOUCH_EVERY_S = 60.0
_RETRY_S = 60.0  # after there was no capacity for a shard

_logged: set[tuple[str, str]] = set()


class ShardCache:
    """Cached shards of one dataset. Close it to finish writing."""

    def __init__(self, config: CacheConfig, dataset_digest: str) -> None:
        self._config = config
        self._dataset_digest = dataset_digest
        self._lock = threading.Lock()
        self._pending_bytes = 0
        self._touched: dict[str, float] = {}
        self._full_until = 0.0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="fetch-cache")
        self._is_writable = True
        self._dir: CacheDir | None = None
        try:
            self._dir = CacheDir(config)
        except OSError as error:
            self._stop_writing(error)

    def close(self) -> None:
        """Finishes writing."""
        self._writer.shutdown(wait=True)

    def read(self, shard: Shard, start: int, length: int) -> bytes | None:
        """Returns cached bytes of a shard, with zeros for holes.

        None where nothing is cached. The bytes are not checked.
        """
        if self._dir is None:
            return None
        name = shard_file(self._dataset_digest, shard.sha256)
        try:
            handle = os.open(self._dir.folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            data = os.pread(handle, length, start)
            # The file's time records its use for eviction; once a minute is enough.
            if time.monotonic() - self._touched.get(name, -_TOUCH_EVERY_S) >= _TOUCH_EVERY_S:
                os.utime(handle)
                self._touched[name] = time.monotonic()
        except OSError:
            # A disk that cannot be read counts as an empty one.
            return None
        finally:
            os.close(handle)
        return data if len(data) == length else None

    def write(self, shard: Shard, start: int, data: bytes) -> None:
        """Queues valid bytes for the disk, or drops them."""
        with self._lock:
            if not self._is_writable or self._pending_bytes + len(data) > _PENDING_BYTES:
                return
            self._pending_bytes += len(data)
        self._writer.submit(self._write, shard, start, data)

    def _write(self, shard: Shard, start: int, data: bytes) -> None:
        try:
            if self._dir is not None and self._is_writable:
                self._write_into(self._dir, shard, start, data)
        except OSError as error:
            self._stop_writing(error)
        finally:
            with self._lock:
                self._pending_bytes -= len(data)

    def _write_into(self, directory: CacheDir, shard: Shard, start: int, data: bytes) -> None:
        """Writes the bytes; creates the shard's file first if needed."""
        name = shard_file(self._dataset_digest, shard.sha256)
        handle = _open_for_writing(directory.folder / name)
        if handle is None:
            if time.monotonic() < self._full_until:
                return
            if not directory.create_file(name, shard.bytes):
                self._full_until = time.monotonic() + _RETRY_S
                self._log_once(log.info, "is full; what does not fit is read from the store")
                return
            handle = _open_for_writing(directory.folder / name)
        # Another process may have evicted the file again.
        if handle is not None:
            with os.fdopen(handle, "wb", buffering=0) as file:
                file.seek(start)
                written = file.write(data)
                # A full disk cut this write short. The second write raises the error; half a sample fails its check.
                if written < len(data):
                    file.write(data[written:])

    def _stop_writing(self, error: OSError) -> None:
        self._log_once(log.warning, f"stops caching ({error.strerror}); training continues without it")
        self._is_writable = False

    def _log_once(self, log_line: Callable[[str], None], text: str) -> None:
        if (self._config.folder, text) not in _logged:
            _logged.add((self._config.folder, text))
            log_line(f"cache at {Path(self._config.folder)} {text}")


def _open_for_writing(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
