"""Log lines as JSON, one object a line.

Everything that a command prints on standard error becomes such a line: messages, progress, warnings of libraries,
tracebacks. Standard output, a command's report, stays as it is.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from trainplane.errors import CLI, UserError

VARIABLE = "ISNET_LOG"
FORMATS = ("text", "json")


def log_format(value: object, what: str) -> str:
    """Checks the setting; `what` names it in the `UserError`."""
    if value not in FORMATS:
        raise UserError(f"{what} is {value!r}; need text or json")
    return str(value)


@contextmanager
def restored_stderr() -> Iterator[None]:
    """Restores standard error after the block."""
    before, handlers = sys.stderr, list(logging.root.handlers)
    try:
        yield
    finally:
        if isinstance(sys.stderr, JsonLines):
            sys.stderr.end_line()
            sys.stderr, logging.root.handlers[:] = before, handlers


def use_json_lines_if_asked() -> None:
    """Replaces standard error, where the variable says json."""
    if log_format(os.environ.get(VARIABLE) or "text", VARIABLE) == "json" and not isinstance(sys.stderr, JsonLines):
        raw = sys.stderr
        sys.stderr = JsonLines(raw)
        handler = logging.StreamHandler(raw)
        handler.setFormatter(_Formatter())
        logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def json_line(message: str, *, level: str = "INFO", logger: str = CLI) -> str:
    """One line for a message, with the time."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    facts = {"time": now, "level": level, "logger": logger, "pid": os.getpid(), "message": message}
    return json.dumps(facts, ensure_ascii=False)


class _Formatter(logging.Formatter):
    """Formats records of `logging`, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return json_line(super().format(record), level=record.levelname, logger=record.name)


class JsonLines(io.TextIOBase):
    """Text stream that makes an object of every line."""

    def __init__(self, raw: TextIO) -> None:
        self._raw, self._line = raw, ""

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Writes the lines that are complete now."""
        # A carriage return draws a line again: only what stands there at its end counts.
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            text_of_line = line.rstrip("\r").rpartition("\r")[2]
            if text_of_line.strip():
                self._raw.write(json_line(text_of_line.removeprefix(f"{CLI}: ")) + "\n")
        return len(text)

    def end_line(self) -> None:
        """Writes what no line end followed."""
        if self._line:
            self.write("\n")
        self.flush()

    def flush(self) -> None:
        """Flushes complete lines; the rest waits for its end."""
        self._raw.flush()

    def isatty(self) -> bool:
        """Never: bars and colours are for eyes."""
        return False

    def fileno(self) -> int:
        """Number of the stream below, for child processes."""
        return self._raw.fileno()
