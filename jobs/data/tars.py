"""Opens tars from untrusted sources.

Python's tarfile trusts the numbers in a header. A negative size makes it step back and read the same header for ever
(CVE-2025-8194), also for members that are not used. It also reads a long name of any length into memory.
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from pathlib import Path

from trainplane.errors import UserError

# tarfile raises any of these for a damaged header; RecursionError for a chain of long names.
TAR_ERRORS = (
    tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError, IndexError, OverflowError,
    RecursionError,
)  # fmt: skip

# Of a member: offsets behind it still fit into the 63 bits of a file's offset.
_MAX_MEMBER_BYTES = 2**62
# Of a long name, or of the records that pax writes before a member.
_MAX_EXTENSION_BYTES = 16 << 20
# Links to links; a chain may be a circle.
_MAX_LINKS = 16
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    """Header that refuses an impossible size, also from pax records."""

    __slots__ = ("_size",)
    _size: int

    @property
    def size(self) -> int:
        """Size of the member, bytes."""
        return self._size

    @size.setter
    def size(self, value: int) -> None:
        if not 0 <= value <= _MAX_MEMBER_BYTES:
            # Not a ReadError: in the first header, tarfile takes that to mean that the file is not a tar.
            raise tarfile.TarError(f"a member of {value} bytes")
        self._size = value

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Parses a header; refuses too long names and records."""
        header = super().frombuf(buf, encoding, errors)
        if header.type in _EXTENSIONS and header.size > _MAX_EXTENSION_BYTES:
            raise tarfile.TarError(f"a long name or pax record of {header.size} bytes")
        return header


class TarLinks:
    """Finds the members that links of a tar lead to."""

    def __init__(self) -> None:
        self._members: dict[str, tarfile.TarInfo] = {}

    def add(self, member: tarfile.TarInfo) -> None:
        """Remembers a member that was read."""
        if member.isreg() or member.islnk() or member.issym():
            self._members[posixpath.normpath(member.name)] = member

    def target(self, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Follows links inside the tar; None where they end nowhere."""
        end: tarfile.TarInfo | None = member
        for _ in range(_MAX_LINKS):
            if end is None or end.isreg():
                return end
            # Names of hard links begin at the archive's root, those of symbolic links at the link.
            if end.islnk():
                name = end.linkname
            elif end.issym():
                name = posixpath.join(posixpath.dirname(end.name), end.linkname)
            else:
                return None
            end = self._members.get(posixpath.normpath(name))
        return None


def open_tar(file: Path) -> tarfile.TarFile:
    """Opens a tar, compressed or not; may raise `TAR_ERRORS`."""
    return tarfile.open(file, tarinfo=_Header)


def is_tar(file: Path) -> bool:
    """Tests if a file is a tar, damaged or not."""
    try:
        open_tar(file).close()
    except (tarfile.ReadError, tarfile.CompressionError):
        return False
    except PermissionError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error
    except TAR_ERRORS:
        return True
    return True
