"""HEIC: read where a reader is installed, and named where none is."""

import base64

import numpy as np
import pytest
from PIL import Image

from isnet.images import heif
from isnet.images.decode import decode_rgb
from isnet.images.files import PictureError
from isnet.images.photo import read_photo

# 40x64 as shown, orientation 6, a ramp of red downwards; encoded by pillow-heif.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAchtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9j"
    "AAAAAERAAAIAAQAAAAAB7AABAAAAAAAAAJ0AAgAAAAACiQABAAAAAAAAADYAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAA"
    "ABVpbmZlAgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAABB2lwcnAAAADmaXBjbwAAAHZodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNg"
    "AAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAAAAMDIAAAAwAhYgABAAZE"
    "AcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAKAAAAAEAAAAAAAAAAv///+gA"
    "AAACAAAAEHBpeGkAAAAAAwgICAAAAAlpcm90AwAAABlpcG1hAAAAAAAAAAEAAQaBAgMFhIYAAAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAA"
    "ANttZGF0AAAAmSgBrwngPg6bnk4QeI6NjGfoM0XbujuR8ZXW+nwYk3O8beT/V/D0/6ioT8xWIAhH3wo4w47YUge1R7+qPb2hcrQVzBwrPkfg"
    "DKjxKYNFj4ik5QI9XSp0QBLFw81B/0Zl/Uh1DUVJMxJYXTAQAaxc+93sO4LiNabCYK02fI4/S/osGdKiMjiT0KuoNsEMgPMRUE79cBTo2tbI"
    "PgAAAAZFeGlmAABNTQAqAAAACAACAQ8AAgAAAAYAAAAmARIAAwAAAAEABgAAAAAAAE1ha2VyAA=="
)


def test_kinds_are_told_by_their_first_bytes(tmp_path):
    assert heif.is_heif(HEIC)
    Image.new("RGB", (16, 16)).save(tmp_path / "a.avif")
    assert not heif.is_heif((tmp_path / "a.avif").read_bytes())
    assert not heif.is_heif(b"\0\0\0\x18ftypisom" + b"\0" * 40), "a film"


def test_without_a_reader_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(heif, "can_read", lambda: False)
    with pytest.raises(PictureError, match="unsupported: HEIC, which needs a reader: `pip install pi-heif`"):
        decode_rgb(HEIC)


@pytest.mark.skipif(not heif.can_read(), reason="needs the extra heif")
def test_a_phones_photo_is_read_upright_with_its_metadata():
    photo = read_photo(HEIC)
    assert (photo.size, photo.mode, photo.format, photo.orientation) == ((64, 40), "RGB", "HEIF", 1)
    red = photo.pixels[..., 0].astype(int)
    assert np.abs(np.diff(red.mean(axis=1)) - 4).max() < 4
    assert red.mean(axis=1)[-1] > 240
    with pytest.raises(PictureError, match="damaged"):
        read_photo(HEIC[: len(HEIC) // 2])
    with pytest.raises(PictureError):
        read_photo(HEIC[:-20])
