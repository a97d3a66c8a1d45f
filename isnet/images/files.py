"""Reading a file that somebody named: regular files only, and names that fit on one line.

Not here: what the bytes hold (`isnet.images.open_image`), whole folders (`isnet.images.folders`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from isnet.errors import InputError

MAX_FILE_BYTES = 1 << 30


class PictureError(InputError):
    """A picture that cannot be used.

    `kind` is one of: empty, truncated, damaged, not a picture, unsupported, encrypted, too large, missing, not a file,
    unreadable.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The bytes of a regular file; pipes, devices, folders and broken links are refused without opening them."""
    name = shown(path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            what = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, socket or device"
            raise PictureError("not a file", f"{name} is a {what}; need a picture file")
        if found.st_size > max_bytes:
            raise PictureError("too large", f"{name} has {found.st_size} bytes; need at most {max_bytes}")
        return Path(path).read_bytes()
    except PictureError:
        raise
    except FileNotFoundError as error:
        what = "is a link to nothing" if os.path.islink(path) else "does not exist"
        raise PictureError("missing", f"{name} {what}; check the path") from error
    except OSError as error:
        raise PictureError("unreadable", f"{name} cannot be read ({error.strerror}); check its permissions") from error
    except ValueError as error:
        raise PictureError("missing", f"{name} is no file name ({error}); check the path") from error


def shown(path: str | os.PathLike[str]) -> str:
    """A file name on one line, whatever its bytes: unprintable ones as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
