"""Copy of an object, shared by a host's processes.

For files that every rank needs whole, such as weights of a frozen network. The first process fetches the object while
the others wait; a later one finds the file. An object that was replaced has another file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from trainplane.errors import UserError
from trainplane.locks import FileLock, private_folder
from trainplane.storage.address import open_store
from trainplane.storage.store import Entry, Store

FOLDER = "trainplane-objects"

_PIECE_BYTES = 8 << 20
_LOCK_WAIT_S = 3600.0  # a store may be away for half an hour
_UNUSED_S = 30 * 24 * 3600.0  # after this time a file is removed


def host_copy(address: str, *, parent: str | None = None) -> Path:
    """Returns this host's file with the bytes of an object.

    Args:
        address: Of the object, `s3://BUCKET/…/NAME`.
        parent: Folder for all copies; None is the system's temporary folder.

    Raises:
        UserError: If there is no such object, or no room for it.
    """
    store, entry = find_object(address)
    name = hashlib.sha256(f"{address}\n{entry.size}\n{entry.stamp}".encode()).hexdigest()[:32]
    try:
        folder = private_folder(FOLDER, parent)
        path = folder / f"{name}-{entry.key}"
        lock = FileLock(folder / "lock")
        if not lock.acquire(wait_s=_LOCK_WAIT_S):
            raise TimeoutError("another process has been fetching a file for too long")
        try:
            if not path.exists():
                _remove_unused(folder)
                _fetch(store, entry, path)
            # The time of its last use.
            os.utime(path)
        finally:
            lock.release()
    except OSError as error:
        raise UserError(
            f"{address} ({entry.size} bytes) cannot be copied to this host ({error}); "
            "make room in its temporary folder, or set TMPDIR to a folder that has some"
        ) from error
    return path


def find_object(address: str) -> tuple[Store, Entry]:
    """Finds an object's store and entry; `UserError` without one."""
    folder, _, name = address.rpartition("/")
    store = open_store(folder)
    entry = next((entry for entry in store.list(name) if entry.key == name), None) if name else None
    if entry is None:
        raise UserError(f"{address}: no such object; give the address of a file in the store")
    return store, entry


def _fetch(store: Store, entry: Entry, path: Path) -> None:
    unfinished = path.with_name(f"unfinished-{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as file:
            for start in range(0, entry.size, _PIECE_BYTES):
                file.write(store.view(entry.key, start=start, length=_PIECE_BYTES))
            if file.tell() != entry.size:
                raise UserError(f"{store.address}/{entry.key} was replaced while it was being read; run again")
        unfinished.rename(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _remove_unused(folder: Path) -> None:
    # This process holds the lock: nobody else writes here.
    for path in folder.iterdir():
        with suppress(OSError):
            is_unfinished = path.name.startswith("unfinished-")
            if path.name != "lock" and (is_unfinished or time.time() - path.stat().st_mtime > _UNUSED_S):
                path.unlink()
