"""Reads single members of zips from untrusted sources.

Never inflates more than a member declares, and says why a member cannot be read. Not here: listing
(`jobs.data.sources`).
"""

from __future__ import annotations

import io
import lzma
import shutil
import zipfile
import zlib

from isnet.images.files import MAX_FILE_BYTES, PictureError

# Bits of a member's flags (APPNOTE 4.4.4): password, strong encryption, hidden header.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_AES = 99
# Methods that Python reads, and the names of others (APPNOTE 4.4.5).
_READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_OTHERS = {
    1: "Shrink",
    2: "Reduce",
    3: "Reduce",
    4: "Reduce",
    5: "Reduce",
    6: "Implode",
    9: "Deflate64",
    10: "IBM TERSE",
    16: "IBM CMPSC",
    18: "IBM TERSE",
    19: "IBM LZ77",
    20: "Zstandard",
    93: "Zstandard",
    94: "MP3",
    95: "XZ",
    96: "JPEG recompression",
    97: "WavPack",
    98: "PPMd",
}
# Bytes to read from a zip member at once. With stored and deflated members zipfile inflates no more than that. With
# other methods it inflates everything that so many compressed bytes hold: 45 bytes of bzip2 can hold 46 MB.
_CHUNKS = {zipfile.ZIP_STORED: 1 << 20, zipfile.ZIP_DEFLATED: 1 << 20}
_SMALL_CHUNK = 64


def read_zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Reads a member; `PictureError` says why it cannot be read."""
    check_member_size(info.file_size)
    if info.flag_bits & _ENCRYPTED or info.compress_type == _AES:
        raise PictureError("encrypted", "the zip asks for a password; unpack it and pack the folder")
    if info.compress_type not in _READ:
        method = _OTHERS.get(info.compress_type, f"method {info.compress_type}")
        raise _unsupported(f"compressed with {method}, which is not read here")
    try:
        # In chunks: read() without a size inflates the whole member before it is cut to the size that the zip declares.
        with archive.open(info) as member, io.BytesIO() as data:
            assert isinstance(member, zipfile.ZipExtFile)
            member.MIN_READ_SIZE = _CHUNKS.get(info.compress_type, _SMALL_CHUNK)
            shutil.copyfileobj(member, data, member.MIN_READ_SIZE)
            return data.getvalue()
    except NotImplementedError as error:
        raise _unsupported(str(error)) from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise PictureError("damaged", f"damaged in the zip ({error})") from error


def check_member_size(size: int) -> None:
    """Refuses a member of an archive that is too large."""
    if size > MAX_FILE_BYTES:
        raise PictureError("too large", f"{size} bytes; need at most {MAX_FILE_BYTES}")


def _unsupported(what: str) -> PictureError:
    return PictureError("unsupported", f"{what}; unpack the zip with another program and pack the folder")
