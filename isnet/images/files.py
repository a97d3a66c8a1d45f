"""Safe reading of user-named files, and printable file names.

Not here: what the bytes hold (`isnet.images.open_image`), whole folders (`isnet.images.folders`).
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from isnet.errors import InputError

MAX_FILE_BYTES = 1 << 30


class PictureError(InputError):
    """Reports a picture that cannot be used.

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
    """Reads a regular file of at most `max_bytes`.

    Pipes, devices, folders and broken links are refused without opening them: a pipe could block for ever.
    """
    name = display_name(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            what = "folder" if stat.S_ISDIR(status.st_mode) else "pipe, socket or device"
            raise PictureError("not a file", f"{name} is a {what}; need a picture file")
        if status.st_size > max_bytes:
            raise PictureError("too large", f"{name} has {status.st_size} bytes; need at most {max_bytes}")
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


def display_name(path: str | os.PathLike[str]) -> str:
    """File name on one line, unprintable bytes as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
