"""Prepares standard input, output and error for a command.

Daemons start programs with closed streams, terminals have other encodings than UTF-8, and the disk behind `>` may be
full. None of that may end a command in a traceback, or change what it does.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

# Read, write, write: the descriptors of the three streams.
_MODES = ("r", "w", "w")
# Python's own defaults: these are for developers.
_QUIET_WARNINGS = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


class OutputError(RuntimeError):
    """Standard output cannot be written; the message is the reason."""


@contextmanager
def usable_streams() -> Iterator[None]:
    """Opens closed streams; at the end flushes without errors."""
    _open_closed()
    _escape_unencodable()
    _keep_warnings_harmless()
    try:
        yield
    finally:
        # Python's own flush at the exit would print an error and change the exit status.
        reason = _flush(sys.stdout)
        _flush(sys.stderr)
        # Such as help that nobody gets to read.
        if reason is not None:
            notify(f"standard output cannot be written ({reason}); send it elsewhere")
            raise SystemExit(1)


def _flush(stream: TextIO) -> str | None:
    """Flushes a stream; returns the reason of a failure."""
    try:
        stream.flush()
    except BrokenPipeError:
        discard(stream)
    except (OSError, ValueError) as error:
        discard(stream)
        return str(getattr(error, "strerror", None) or error)
    return None


def write_report(text: str, stream: TextIO, *, end: str = "\n") -> None:
    """Writes a report at once.

    Raises:
        BrokenPipeError: The reader of a pipe has ended.
        OutputError: For example the disk is full.
    """
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)
        raise
    except OSError as error:
        discard(stream)
        raise OutputError(error.strerror or str(error)) from error


def notify(message: str) -> None:
    """Prints a message on standard error, if possible."""
    try:
        print(f"isnet: {message}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Sends a stream, with its buffer, to the null device."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _open_closed() -> None:
    """Opens the null device under descriptors that are closed.

    Otherwise the next file that is opened gets the descriptor, and what child processes print goes into it.
    """
    for descriptor, (name, mode) in enumerate(zip(("stdin", "stdout", "stderr"), _MODES, strict=True)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            # Child processes need it, too.
            os.set_inheritable(descriptor, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115


def _escape_unencodable() -> None:
    """Prints what the terminal's encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _keep_warnings_harmless() -> None:
    """Keeps warnings of libraries from ending a command.

    `PYTHONWARNINGS=error` is meant for a user's own code; child processes inherit it.
    """
    # Python takes the beginning of a word, too.
    actions = [option.split(":")[0] for option in sys.warnoptions]
    if any(action and "error".startswith(action) for action in actions):
        os.environ.pop("PYTHONWARNINGS", None)
        warnings.resetwarnings()
        for category in _QUIET_WARNINGS:
            warnings.simplefilter("ignore", category)
