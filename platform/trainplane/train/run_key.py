"""Key, folder and lock of a run.

The key is a digest of settings and datasets that decide the trained weights, and part of the folder's name. The same
command finds and resumes the same run; `--fresh` makes the next run of the key. A lock, released by the kernel when its
holder dies, keeps two processes of one machine from the same run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.locks import FileLock
from trainplane.storage import StorageError, Store, open_store
from trainplane.train.checkpoint.fencing import FencingToken
from trainplane.train.run_config import RunConfig


class InUse(UserError):
    """Another process on this machine holds the lock."""


@dataclass(frozen=True)
class RunDir:
    """Key of a run and the folder of its checkpoints."""

    key: str  # The run key, with `.2`, `.3`, … for later runs of the same key
    folder: str  # Name of the folder
    address: str  # Address of the folder


def run_key(config: RunConfig, train_digest: str, val_digest: str | None) -> str:
    """Returns the sha256 of identity and dataset digests."""
    return hashlib.sha256(canonical_json([config.identity(), train_digest, val_digest])).hexdigest()


def register_run_dir(run_dir: RunDir, config: RunConfig, datasets: Collection[str] = ()) -> None:
    """Writes `run.json` of a new run and starts an attempt.

    `datasets` are the digests of all that it reads, which `gc` keeps with it.
    """
    about = {
        "key": run_dir.key,
        "config": config.model_dump(mode="json"),
        "created": datetime.now(UTC).isoformat(),
        "datasets": sorted(datasets),
    }
    try:
        store = open_store(run_dir.address)
        # `create` keeps the first `run.json`; the token starts a new attempt.
        store.create("run.json", canonical_json(about))
        FencingToken.acquire(store)
    except (StorageError, OSError) as error:
        raise UserError(
            f"checkpoints cannot be written to {run_dir.address} ({error}); "
            f"mend its permissions or name another store, then run `{command_line('doctor')}`"
        ) from error


def find_run_dir(config: RunConfig, *, key: str, checkpoints: str, fresh: bool) -> RunDir:
    """Finds the newest run folder of a key.

    With `fresh`, or where there is none, the next folder, which does not exist yet. Writes nothing.
    """
    store = open_store(checkpoints)
    stem = f"{config.name}-{key[:12]}"
    # The first run of a key has no number; later ones have 2, 3, ….
    newest = _newest(store, stem)
    number = newest + 1 if fresh or newest == 0 else newest
    folder = stem if number == 1 else f"{stem}.{number}"
    return RunDir(key if number == 1 else f"{key}.{number}", folder, f"{store.address}/{folder}")


def _newest(store: Store, stem: str) -> int:
    """Highest number among the folders of this stem, else 0."""
    numbers = [0]
    for entry in store.list(stem):
        folder, _, name = entry.key.partition("/")
        # Other folders may begin alike, such as a user's copies.
        match = re.fullmatch(rf"{re.escape(stem)}(?:\.([0-9]+))?", folder)
        if match and name == "run.json":
            numbers.append(int(match[1] or 1))
    return max(numbers)


def holder_of(home: Path, name: str) -> str | None:
    """Process id that holds the lock, else None; creates nothing."""
    return _lock(home, name).holder()


@contextmanager
def exclusive(home: Path, name: str, *, doing: str) -> Iterator[None]:
    """Holds the lock `name` on this machine during the block.

    Raises `InUse` with the holder's process id, `UserError` if `home` cannot be written.
    """
    # Take the lock, or report its holder.
    lock = _lock(home, name)
    try:
        (home / "locks").mkdir(parents=True, exist_ok=True)
        acquired = lock.acquire()
    except OSError as error:
        raise UserError(
            f"{home / 'locks'}: cannot be written ({error.strerror}); set ISNET_HOME to a folder of yours"
        ) from error
    if not acquired:
        raise InUse(
            f"another process (pid {lock.holder() or 'unknown'}) is {doing} in {home}; "
            "wait for it, end it, or set ISNET_HOME elsewhere"
        )
    # The id is for the message of a second process.
    try:
        lock.write_pid()
        yield
    finally:
        lock.release()


def _lock(home: Path, name: str) -> FileLock:
    return FileLock(home / "locks" / f"{name}.lock")
