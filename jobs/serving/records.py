"""Folder and experiment of a server's records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainplane.cluster.context import Context
from trainplane.locks import FileLock
from trainplane.serving.traces import TraceQueue

# When a server ends, records that MLflow has not acknowledged by then stay on disk for the next one.
_CLOSE_S = 5.0


def trace_experiment(name: str) -> str:
    """Name of the experiment of MLflow with a model's traces."""
    return f"serving/{name}"


@contextmanager
def trace_queue(context: Context, name: str) -> Iterator[TraceQueue]:
    """Opens a server's records, in a folder of its own.

    A folder that a former server has left is taken again, with the records that wait in it.
    """
    root = context.home / "serving" / name
    # Pictures of users wait in it: other accounts of the machine must not read them.
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock, folder = _own_folder(root)
    try:
        queue = TraceQueue(folder, context.tracking, trace_experiment(name), artifact_root=context.artifacts)
        try:
            yield queue
        finally:
            queue.close(_CLOSE_S)
    finally:
        lock.release()


def _own_folder(root: Path) -> tuple[FileLock, Path]:
    number = 1
    while True:
        lock = FileLock(root / f"{number}.lock")
        if lock.acquire():
            return lock, root / str(number)
        number += 1
