"""Which run is this? A run is known by what it learns from what: its key is a digest, its folder bears the key.

The same command finds the same run and goes on with it; `--fresh` makes the next of the same key. Two processes never
train the same run at once on one machine: a lock, released by the kernel when its holder dies, says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.storage import StorageError, Store, open_store
from trainplane.train.checkpoint.fencing import Tenure
from trainplane.train.run_config import RunConfig


class InUse(UserError):
    """Another process on this machine holds the lock."""


@dataclass(frozen=True)
class RunPlace:
    """A run's key and where its checkpoints lie."""

    key: str
    folder: str
    address: str


def run_key(config: RunConfig, train_digest: str, val_digest: str | None) -> str:
    """sha256 over the identity of the configuration and the digests of its datasets."""
    return hashlib.sha256(canonical_json([config.identity(), train_digest, val_digest])).hexdigest()


def take_place(place: RunPlace, config: RunConfig) -> None:
    """Write `run.json` where the run is new, and a new attempt: `UserError` where the store cannot be written."""
    about = {"key": place.key, "config": config.model_dump(mode="json"), "created": datetime.now(UTC).isoformat()}
    try:
        store = open_store(place.address)
        store.create("run.json", canonical_json(about))
        Tenure.begin(store)
    except (StorageError, OSError) as error:
        raise UserError(
            f"checkpoints cannot be written to {place.address} ({error}); "
            "mend its permissions or name another store, then run `isnet doctor`"
        ) from error


def find_place(config: RunConfig, *, key: str, checkpoints: str, fresh: bool) -> RunPlace:
    """The folder of this run: the newest of its key, or with `fresh` the next one, which is not there yet.

    Writes nothing. Raises `StorageError` where the store does not answer.
    """
    store = open_store(checkpoints)
    stem = f"{config.name}-{key[:12]}"
    newest = _newest(store, stem)
    number = newest + 1 if fresh or newest == 0 else newest
    folder = stem if number == 1 else f"{stem}.{number}"
    return RunPlace(key if number == 1 else f"{key}.{number}", folder, f"{store.address}/{folder}")


def _newest(store: Store, stem: str) -> int:
    """The highest number of a run folder with this stem; 0 where there is none."""
    numbers = [0]
    for entry in store.list(stem):
        folder, _, name = entry.key.partition("/")
        # Others begin alike, too: copies that somebody put beside it.
        ours = re.fullmatch(rf"{re.escape(stem)}(?:\.([0-9]+))?", folder)
        if ours and name == "run.json":
            numbers.append(int(ours[1] or 1))
    return max(numbers)


def holder_of(home: Path, name: str) -> str | None:
    """The process id that holds the lock `name` on this machine; None where it is free. Creates nothing."""
    try:
        handle = os.open(home / "locks" / f"{name}.lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(handle)
    return None


@contextmanager
def exclusive(home: Path, name: str, *, doing: str) -> Iterator[None]:
    """Hold the lock `name` on this machine, or say who does."""
    folder = home / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); set ISNET_HOME to a folder of yours"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            raise InUse(
                f"another process (pid {holder}) is {doing} in {home}; wait for it, end it, or set ISNET_HOME elsewhere"
            ) from error
        # A courtesy to whoever meets the lock, and no reason to stop: on a full disk the next one reads "unknown".
        with suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)
