"""Tars that nobody vouches for: opening one, and the errors in which a damaged one ends.

Python's tarfile believes the numbers in a header. It steps back by a size below zero and meets the same header again
for ever (CVE-2025-8194), also at members that nobody asks for, and holds a long name of any length in memory.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path

from trainplane.errors import UserError

# A damaged header ends in whatever its parser trips over; a chain of long names in too deep a recursion.
TAR_ERRORS = (
    tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, IndexError, OverflowError,
    RecursionError,
)  # fmt: skip

_MOST_BYTES = 2**62  # of a member: offsets behind it still fit the 63 bits that a file has
_MOST_NOTE_BYTES = 16 << 20  # of a long name, or of the records that pax puts before a member
_NOTES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    """A header that is refused with a `TarError` where its size is none, whether the header itself or pax says so."""

    __slots__ = ("_size",)
    _size: int

    @property
    def size(self) -> int:
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        if not 0 <= value <= _MOST_BYTES:
            # Not a ReadError: tarfile takes that, in the first header, for a file that is no tar.
            raise tarfile.TarError(f"a member of {value} bytes")
        self._size = value

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _NOTES and header.size > _MOST_NOTE_BYTES:
            raise tarfile.TarError(f"a name or a note of {header.size} bytes")
        return header


def open_tar(file: Path) -> tarfile.TarFile:
    """The tar, compressed or not; one of `TAR_ERRORS` where its first header is damaged."""
    return tarfile.open(file, tarinfo=_Header)


def is_tar(file: Path) -> bool:
    """Whether the file begins like a tar, be it a damaged one; a `UserError` where it may not be read."""
    try:
        open_tar(file).close()
    except (tarfile.ReadError, tarfile.CompressionError):
        return False
    except PermissionError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except TAR_ERRORS:
        return True
    return True
