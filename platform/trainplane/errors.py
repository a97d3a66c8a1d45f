"""Errors for users, with messages of three parts.

A message says what we got, what we need, and what to do. The command line prints `UserError` and `RunFailed` without a
traceback; any other exception is a bug of ours and is shown with one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

# Start of a line that SQLAlchemy puts before the error itself.
_PREAMBLE = "(raised as a result of"

# Parts of a message that belong together. An apostrophe within a word is no quotation mark.
_QUOTED = (r"`[^`]*`", r"(?<!\w)'[^']*'(?!\w)", r'"[^"]*"')
_BRACKETED = (r"\([^()]*\)", r"\[[^\[\]]*\]", r"\{[^{}]*\}")

# The command line that messages name; the platform itself has none.
CLI = "isnet"


class UserError(ValueError):
    """The user's mistake; the command exits with status 2.

    Nothing was started and nothing was lost.
    """


class RunFailed(RuntimeError):
    """Failure of a run; the command exits with status 1.

    For example damaged data, a failed gate, or a worker that died.
    """


def nearest(name: str, names: Collection[str]) -> str:
    """Hint for a misspelt name: `"; did you mean 'steps'?"`.

    It lists all `names` if none is similar.
    """
    # Below a similarity of 0.6 a suggestion misleads.
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(names))}"


def split_remedy(message: str) -> tuple[str, str]:
    """Splits a message into fault and remedy.

    The remedy is the part after the last semicolon that stands in no brackets, quotes or backticks; empty if there is
    none.
    """
    # What is enclosed becomes spaces, so that positions stay; brackets may be in brackets.
    plain = message
    for pattern in (*_QUOTED, *_BRACKETED, *_BRACKETED):
        plain = re.sub(pattern, lambda match: " " * len(match[0]), plain)
    position = plain.rfind("; ")
    return (message[:position], message[position + 2 :]) if position > 0 else (message, "")


def error_line(error: BaseException | str, *, last: bool = False) -> str:
    """First line of an error's message.

    Args:
        error: the error, or its text. An error without a message gives the name of its type.
        last: return the last line instead, which says most in Ray's long messages.
    """
    lines = [line for line in map(str.strip, str(error).splitlines()) if line and not line.startswith(_PREAMBLE)]
    if not lines:
        return "no message" if isinstance(error, str) else type(error).__name__
    return lines[-1 if last else 0]
