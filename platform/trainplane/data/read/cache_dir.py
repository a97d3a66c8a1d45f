"""Folder of the shard cache: ownership, files, limit, eviction.

One folder of our own, marked by a CACHEDIR.TAG (bford.info/cachedir; backup programs skip it). Only plain files with
names of ours are counted or removed. A shard's file is created at its full size, sparse, under a lock that the system
releases when its holder dies. So file sizes bound the cache, and the limit holds even when processes are killed.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from trainplane.errors import UserError
from trainplane.locks import FileLock

FOLDER = "trainplane-shards"
IN_USE_S = 600.0
"""A shard used within this time stays. Its replacement would be replaced in turn, which helps no run."""
LEFT_FREE_BYTES = 1 << 30
"""Part of the disk that checkpoints and records may need."""

_TAG = "CACHEDIR.TAG"
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Shards of datasets, kept by trainplane; safe to delete.\n"
_LOCK = "lock"
_SHARD = re.compile(r"[0-9a-f]{32}-[0-9a-f]{64}\.shard")
_UNFINISHED = re.compile(r"unfinished-[0-9a-f]{16}")
LOCK_WAIT_S = 2.0


@dataclass(frozen=True)
class CacheConfig:
    """Folder and size limit of a host's cache; pickles."""

    folder: str
    limit_bytes: int


@dataclass(frozen=True)
class CachedShard:
    """File of one cached shard."""

    name: str
    size: int  # holes included
    on_disk: int  # bytes without holes
    used_s: float  # time of its last use


def shard_file(dataset_digest: str, shard_sha256: str) -> str:
    """File name of a cached shard."""
    # The name stands for the content, so a changed dataset or shard has another file.
    return f"{dataset_digest[:32]}-{shard_sha256}.shard"


def shards_to_evict(cached: Sequence[CachedShard], *, excess: int, own: str, now_s: float) -> list[CachedShard]:
    """Chooses shards to remove, least recently used first. Pure.

    May free less than `excess` bytes: shards in use and those of the own dataset (names begin with `own`) stay. An
    epoch visits all its shards, so the least recently used one is needed next. Shards that fit serve every epoch; the
    others are read from the store each time.
    """
    evicted: list[CachedShard] = []
    for shard in sorted(cached, key=lambda shard: shard.used_s):
        if excess <= 0:
            break
        if now_s - shard.used_s >= IN_USE_S and not (own and shard.name.startswith(own)):
            evicted.append(shard)
            excess -= shard.size
    return evicted


class CacheDir:
    """Cache folder on this host.

    Creating it raises `UserError` where the folder holds files of others, and `OSError` as the system does.
    """

    def __init__(self, config: CacheConfig) -> None:
        self.folder = Path(config.folder).expanduser() / FOLDER
        self._limit = config.limit_bytes
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as is_locked:
            if is_locked:
                self._remove_unfinished()
                if not (self.folder / _TAG).is_file():
                    self._mark()
                # The limit may be lower than it was.
                self._evict(list(self._shards()), size=0, own="")

    def create_file(self, name: str, size: int) -> bool:
        """Creates the sparse file of a shard, unless it exists.

        Returns False where there is no capacity for it, or where another process holds the lock too long.
        """
        with self._locked() as is_locked:
            if not is_locked:
                return False
            self._remove_unfinished()
            path = self.folder / name
            if path.exists():
                return True
            # Files created earlier may still grow into their holes: that part of the disk is not free.
            cached = list(self._shards())
            holes = sum(max(0, shard.size - shard.on_disk) for shard in cached)
            if size > self._limit or shutil.disk_usage(self.folder).free < LEFT_FREE_BYTES + holes + size:
                return False
            if not self._evict(cached, size=size, own=name.partition("-")[0]):
                return False
            # Renamed when complete, so that a shard's file always has its full size.
            temporary = self.folder / f"unfinished-{secrets.token_hex(8)}"
            with temporary.open("xb") as file:
                file.truncate(size)
            temporary.rename(path)
            return True

    def _evict(self, cached: Sequence[CachedShard], *, size: int, own: str) -> bool:
        # Frees capacity for `size` bytes; False where that is impossible. Nothing is removed for a new shard that would
        # not fit even then.
        excess = sum(shard.size for shard in cached) + size - self._limit
        evicted = shards_to_evict(cached, excess=excess, own=own, now_s=time.time())
        is_enough = sum(shard.size for shard in evicted) >= excess
        if is_enough or not size:
            for shard in evicted:
                (self.folder / shard.name).unlink(missing_ok=True)
        return is_enough

    def _shards(self) -> Iterator[CachedShard]:
        for entry in os.scandir(self.folder):
            if _SHARD.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                stat = entry.stat(follow_symlinks=False)
                # stat counts blocks of 512 bytes on every file system.
                yield CachedShard(entry.name, stat.st_size, stat.st_blocks * 512, stat.st_mtime)

    def _remove_unfinished(self) -> None:
        """Removes files of killed creators; this process holds the lock."""
        for entry in os.scandir(self.folder):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)

    def _mark(self) -> None:
        """Marks a new folder as ours; refuses foreign files."""
        foreign = sorted(name for name in os.listdir(self.folder) if name != _LOCK and not _UNFINISHED.fullmatch(name))
        if foreign:
            raise UserError(
                f"{self.folder} holds {foreign[0]!r} and no {_TAG} of ours: it is no shard cache; "
                "move it away, or choose another data.cache_dir"
            )
        temporary = self.folder / f"unfinished-{secrets.token_hex(8)}"
        temporary.write_bytes(_TAG_TEXT)
        temporary.rename(self.folder / _TAG)

    def _locked(self) -> AbstractContextManager[bool]:
        return FileLock(self.folder / _LOCK).attempt(wait_s=LOCK_WAIT_S)
