"""The folder of a shard cache: whose it is, what is in it, and which shards go when another needs room.

Everything lives in one folder of our own, marked by a CACHEDIR.TAG (bford.info/cachedir, which backup programs know
too). Of what is in it, only plain files with the names that we give are ever counted or removed. A shard's file is
made at its full size, with holes (sparse), under a lock that the operating system lets go when its holder dies: so the
sizes of files are what the cache may grow to, and the limit holds whatever is killed when. Not covered: what stands in
the files (cache.py).
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainplane.errors import UserError

FOLDER = "trainplane-shards"
IN_USE_S = 600.0
"""A shard used within this time is in use and stays: what replaced it would be replaced in turn, to no one's good."""
LEFT_FREE_BYTES = 1 << 30
"""Of the disk, which checkpoints and records may need."""

_TAG = "CACHEDIR.TAG"
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Shards of datasets, kept by trainplane; safe to delete.\n"
_LOCK = "lock"
_SHARD = re.compile(r"[0-9a-f]{32}-[0-9a-f]{64}\.shard")
_UNFINISHED = re.compile(r"unfinished-[0-9a-f]{16}")
_LOCK_WAIT_S = 2.0


@dataclass(frozen=True)
class CachePlace:
    """A folder of this host, and how many bytes of it the cache may take; pickles, so that workers can be given it."""

    folder: str
    limit_bytes: int


@dataclass(frozen=True)
class Kept:
    """One shard's file: its full size, bytes that are on the disk, and when it was last used (seconds)."""

    name: str
    size: int
    on_disk: int
    used_s: float


def shard_file(dataset_digest: str, shard_sha256: str) -> str:
    """The name of a shard's file: it stands for the content, so a changed dataset or shard has another."""
    return f"{dataset_digest[:32]}-{shard_sha256}.shard"


def to_evict(kept: Sequence[Kept], *, excess: int, own: str, now_s: float) -> list[Kept]:
    """PURE: which files go to make `excess` bytes of room, least recently used first, as far as any may go.

    `own` is the beginning of the names whose shards stay: an epoch visits all shards of its dataset, so throwing out
    the oldest would throw out just what comes next. What fits stays and serves every epoch; the rest is read from the
    store each time.
    """
    going: list[Kept] = []
    for one in sorted(kept, key=lambda one: one.used_s):
        if excess <= 0:
            break
        if now_s - one.used_s >= IN_USE_S and not (own and one.name.startswith(own)):
            going.append(one)
            excess -= one.size
    return going


class CacheRoom:
    """The cache's folder at a place. Raises `UserError` where it holds what is not ours, `OSError` as it comes."""

    def __init__(self, place: CachePlace) -> None:
        self.folder = Path(place.folder).expanduser() / FOLDER
        self._limit = place.limit_bytes
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked() as held:
            if held:
                self._clean()
                if not (self.folder / _TAG).is_file():
                    self._mark()
                # The limit may be lower than it was.
                self._evict(list(self._kept()), size=0, own="")

    def make(self, name: str, size: int) -> bool:
        """Have a file for a shard, all holes unless it is there already; False where there is no room for it."""
        with self._locked() as held:
            if not held:
                return False
            self._clean()
            path = self.folder / name
            if path.exists():
                return True
            kept = list(self._kept())
            promised = sum(max(0, one.size - one.on_disk) for one in kept)
            if size > self._limit or shutil.disk_usage(self.folder).free < LEFT_FREE_BYTES + promised + size:
                return False
            if not self._evict(kept, size=size, own=name.partition("-")[0]):
                return False
            temporary = self.folder / f"unfinished-{secrets.token_hex(8)}"
            with temporary.open("xb") as file:
                file.truncate(size)
            temporary.rename(path)
            return True

    def _evict(self, kept: Sequence[Kept], *, size: int, own: str) -> bool:
        """Make room for `size` bytes more; False, and for a new shard nothing is removed, where that cannot be."""
        excess = sum(one.size for one in kept) + size - self._limit
        going = to_evict(kept, excess=excess, own=own, now_s=time.time())
        enough = sum(one.size for one in going) >= excess
        if enough or not size:
            for one in going:
                (self.folder / one.name).unlink(missing_ok=True)
        return enough

    def _kept(self) -> Iterator[Kept]:
        for entry in os.scandir(self.folder):
            if _SHARD.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                found = entry.stat(follow_symlinks=False)
                yield Kept(entry.name, found.st_size, found.st_blocks * 512, found.st_mtime)

    def _clean(self) -> None:
        """Remove what creators left that were killed: whoever holds the lock is the only one."""
        for entry in os.scandir(self.folder):
            if _UNFINISHED.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)

    def _mark(self) -> None:
        foreign = sorted(name for name in os.listdir(self.folder) if name != _LOCK and not _UNFINISHED.fullmatch(name))
        if foreign:
            raise UserError(
                f"{self.folder} holds {foreign[0]!r} and no {_TAG} of ours: it is no shard cache; "
                "move it away, or choose another data.cache_dir"
            )
        temporary = self.folder / f"unfinished-{secrets.token_hex(8)}"
        temporary.write_bytes(_TAG_TEXT)
        temporary.rename(self.folder / _TAG)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the folder's lock for the block; False where another process keeps it for long."""
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            yield _taken_within(handle, _LOCK_WAIT_S)
        finally:
            os.close(handle)  # and with it the lock


def _taken_within(handle: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
