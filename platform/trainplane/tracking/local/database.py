"""Makes MLflow's SQLite database; opens it without MLflow."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainplane.errors import UserError
from trainplane.locks import FileLock

SQLITE = "sqlite:///"
WAIT_S = 60


def database_path(address: str) -> Path:
    """File of a SQLite store."""
    return Path(address.removeprefix(SQLITE).partition("?")[0])


def with_lock_timeout(address: str) -> str:
    """Address with which a writer waits longer for others."""
    # Python's five seconds are too few for a search.
    if address.startswith(SQLITE) and "?" not in address:
        return f"{address}?timeout={WAIT_S}"
    return address


def make_database(address: str) -> None:
    """Creates a missing SQLite store, with its artifacts beside it."""
    path = database_path(address)
    if not address.startswith(SQLITE) or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that create the tables at once both fail.
        with FileLock(path.parent / f".{path.name}.lock", mode=0o666).attempt(wait_s=math.inf):
            if not path.exists():
                SqlAlchemyStore(with_lock_timeout(address), str(path.parent.resolve() / "artifacts"))
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); set ISNET_HOME to a folder of yours") from error


@contextmanager
def connection(path: Path, *, may_write: bool = False) -> Iterator[sqlite3.Connection]:
    """Opens an existing database; raises `sqlite3.Error`."""
    mode = "rw" if may_write else "ro"
    opened = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None)
    try:
        yield opened
    finally:
        opened.close()
