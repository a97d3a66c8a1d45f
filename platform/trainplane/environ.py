"""Environment variables for the length of a block.

Processes that a later command starts must not inherit them.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# Token of the server of registered models; an argument would stand in the process list.
SERVE_TOKEN_VARIABLE = "ISNET_SERVE_TOKEN"


@contextmanager
def preserved_variables(*names: str) -> Iterator[None]:
    """Restores these variables after the block."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        # A variable that was absent is removed, not set to an empty text.
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def with_variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables during the block."""
    with preserved_variables(*values):
        os.environ.update(values)
        yield


# A socket's path has 107 bytes at most, and Ray's have 68 below the temporary folder.
MAX_TEMPORARY_BYTES = 107 - 68
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextmanager
def child_environment() -> Iterator[None]:
    """Sets what processes started in the block must inherit."""
    with _modules_of_python(), _short_temporary_folder():
        yield


def imports_from_current_folder() -> bool:
    """True if files of the current folder count as modules."""
    here = Path.cwd()
    return any(not entry or Path(entry) == here for entry in sys.path)


@contextmanager
def _modules_of_python() -> Iterator[None]:
    # A user's `random.py` or `torch.py` in the current folder is no module of ours. Python itself would take it in
    # `python -c` and `python -m`, though not in the command that starts them.
    with preserved_variables("PYTHONSAFEPATH"):
        if not imports_from_current_folder():
            os.environ.setdefault("PYTHONSAFEPATH", "1")
        yield


@contextmanager
def _short_temporary_folder() -> Iterator[None]:
    """Gives a long TMPDIR a short name, for sockets."""
    folder = os.environ.get("TMPDIR", "")
    link = _link_to(folder) if len(os.fsencode(folder)) > MAX_TEMPORARY_BYTES else None
    if link is None:
        yield
        return
    try:
        with with_variables({"TMPDIR": str(link)}):
            tempfile.tempdir = None
            yield
    finally:
        tempfile.tempdir = None
        link.unlink(missing_ok=True)


def _link_to(folder: str) -> Path | None:
    for short in _SHORT_FOLDERS:
        link = Path(short, f"isnet-{secrets.token_hex(4)}")
        with suppress(OSError):
            link.symlink_to(Path(folder).absolute(), target_is_directory=True)
            return link
    return None
