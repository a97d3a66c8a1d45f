"""Caches and spools of this machine: listing and removal."""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainplane.errors import UserError
from trainplane.tidy.act import StillUsed
from trainplane.tidy.inventory import Item
from trainplane.tracking.spool.meta import read_meta
from trainplane.tracking.spool.spool import has_writer, upload_lock
from trainplane.tracking.spool.upload import count_unsent

_GONE = ".gone-"


def list_local(home: Path) -> Iterator[Item]:
    """Yields caches, spools and letters below the home folder."""
    for cache in _folders(home / "cache"):
        for path in sorted(cache.iterdir()):
            yield _item("cache", path)
    for folder in _folders(home / "spool"):
        yield _item("spool", folder, needed_by=_spool_need(folder))
    for letter in sorted((home / "outbox").glob("*.json")):
        yield _item("spool", letter, needed_by="it waits for MLflow")


def _folders(parent: Path) -> list[Path]:
    return sorted(path for path in parent.iterdir() if path.is_dir()) if parent.is_dir() else []


def _item(kind: str, path: Path, *, needed_by: str = "") -> Item:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    sizes, times = 0, [-math.inf]
    for file in files:
        try:
            status = file.lstat()
        except FileNotFoundError:
            continue
        sizes += status.st_size if file.is_file() else 0
        # The time of the last use, where the file system keeps it.
        times.append(max(status.st_mtime, status.st_atime if file.is_file() else 0.0))
    assert kind in ("cache", "spool")
    return Item(kind, str(path), sizes, max(times), needed_by=needed_by, stamp=str(max(times)))  # type: ignore[arg-type]


def _spool_need(folder: Path) -> str:
    """Why a spool must stay; else empty."""
    try:
        read_meta(folder)
        if has_writer(folder):
            return "a process writes to it"
        unsent = count_unsent(folder)
    except (UserError, OSError, ValueError) as error:
        # What cannot be read may hold the only copy of something.
        return f"it cannot be read ({error})"
    return f"{unsent} of its records wait for MLflow" if unsent else ""


class CacheRemover:
    """Removes cached files that were not used since."""

    def prepare(self, item: Item) -> None:
        """Compares the time of the last use."""
        if _item("cache", Path(item.address)).stamp != item.stamp:
            raise StillUsed("it was used meanwhile")

    def restore(self, item: Item) -> None:
        """Nothing was done to it."""

    def remove(self, item: Item) -> None:
        """Moves it aside, then deletes it."""
        # In one step, so that nobody finds half of it.
        path = Path(item.address)
        aside = path.with_name(f"{_GONE}{secrets.token_hex(4)}")
        path.rename(aside)
        _delete(aside)


class SpoolRemover:
    """Removes spools whose records MLflow has."""

    def prepare(self, item: Item) -> None:
        """Looks whether something came to it."""
        if reason := _spool_need(Path(item.address)):
            raise StillUsed(reason)

    def restore(self, item: Item) -> None:
        """Nothing was done to it."""

    def remove(self, item: Item) -> None:
        """Deletes the folder under the uploader's lock."""
        folder = Path(item.address)
        with upload_lock(folder) as is_locked:
            if not is_locked:
                raise StillUsed("a process sends its records")
            if reason := _spool_need(folder):
                raise StillUsed(reason)
            _delete(folder)


def _delete(path: Path) -> None:
    # Of a link, what it leads to stays.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
