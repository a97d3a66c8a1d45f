"""A tar with false sizes in its headers is reported as damaged: no endless loop, no traceback, little memory."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import pytest

from jobs.data.tars import TAR_ERRORS, is_tar, open_tar

BLOCK = tarfile.BLOCKSIZE


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header of any size, its sum right: tarfile itself writes none below zero."""
    made = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    made[124:136], made[156:157] = b"\xff" * (size < 0) + size.to_bytes(12 - (size < 0), "big", signed=True), kind
    if size >= 0:
        made[124] = 0x80
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def member(name: str, data: bytes, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(data), kind=kind) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


LONG_NAME = tarfile.GNUTYPE_LONGNAME
GOOD = member("good.jpg", b"x" * 700)
LIES = {
    "a picture that steps back": header("a.jpg", -512),
    "another file that steps back": header("readme.md", -512),
    "a picture to the end": header("a.jpg", -1),
    "pax that steps back": member("x", b"13 size=-512\n", kind=tarfile.XHDTYPE) + member("a.jpg", b"x" * 700),
    "a long name below zero": header("x", -1024, kind=LONG_NAME),
    "a long name without end": header("x", 2**50, kind=LONG_NAME),
    "a size that no file has": header("a.jpg", 2**70),
    "long names without end": member("x", b"long.jpg", kind=LONG_NAME) * 2000,
    "a sparse map that is none": member("x", b"22 GNU.sparse.map=a,b\n", kind=tarfile.XHDTYPE) + GOOD,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1)], ids=["plain", "gz"])
def test_a_header_that_lies_about_a_size_ends_the_reading(isnet, tmp_path: Path, lie: bytes, pack) -> None:
    file = tmp_path / "a.tar"
    for before in (b"", GOOD):
        file.write_bytes(pack(before + lie + bytes(20 * BLOCK)))
        assert is_tar(file)
        with pytest.raises(TAR_ERRORS), open_tar(file) as archive:
            # Counted, because a tar that steps back has no end.
            assert sum(1 for _ in zip(archive, range(9), strict=False)) < 9
        ran = isnet("data", "pack", file, "mine")
        assert (ran.status, "the tar is damaged or cut short" in ran.err, ran.out) == (2, True, "")


def test_a_file_that_is_not_a_tar_is_not_a_damaged_tar(tmp_path: Path) -> None:
    for data in (b"", b"text" * 400, bytes([0x89]) * 5000):
        (tmp_path / "a.bin").write_bytes(data)
        assert not is_tar(tmp_path / "a.bin")
