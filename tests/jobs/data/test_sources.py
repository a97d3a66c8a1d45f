"""Archives and stores give the pictures that their folders have; what is not read says what it is."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import struct
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from project_fixtures import noise

from isnet.images.files import PictureError
from jobs.data.sources import PictureSource, Skip, open_pictures
from trainplane.errors import UserError


def found_in(source: Path | str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Bytes of the pictures by name, and reasons of what was left out."""
    pictures: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    with open_pictures(source) as entries:
        for entry in entries:
            if isinstance(entry, Skip):
                reasons[entry.file] = entry.reason
                continue
            try:
                pictures[entry.name] = entry.read()
            except PictureError as error:
                reasons[entry.name] = str(error)
    return pictures, reasons


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """A folder with hard and symbolic links, forwards and backwards, and links that lead nowhere."""
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.png").write_bytes(noise(1))
    (folder / "original.bin").write_bytes(noise(2))
    os.link(folder / "b.png", folder / "deep/hard.png")
    os.link(folder / "original.bin", folder / "z.png")
    (folder / "a.png").symlink_to("deep/hard.png")
    (folder / "deep/up.png").symlink_to("../b.png")
    (folder / "deep/twice.png").symlink_to("../a.png")
    return folder


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_inside_a_tar_are_pictures_as_in_the_folder(linked: Path, tmp_path: Path, mode, form) -> None:
    (linked / "out.png").symlink_to("/etc/hostname")
    (linked / "none.png").symlink_to("nowhere.png")
    (linked / "circle.png").symlink_to("circle.png")
    with tarfile.open(tmp_path / "in.tar", mode, format=form) as archive:
        archive.add(linked, ".")
    pictures, reasons = found_in(tmp_path / "in.tar")
    (linked / "circle.png").unlink()
    expected = found_in(linked)[0]
    assert len(expected) == 6
    assert {name.removeprefix("./"): data for name, data in pictures.items()} == expected
    assert {name.removeprefix("./") for name in reasons} == {"out.png", "none.png", "circle.png"}


def test_a_device_in_a_tar_is_not_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        device = tarfile.TarInfo("a.png")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    assert found_in(tmp_path / "in.tar") == ({}, {"a.png": "link or device in an archive: not followed"})


METHODS = {9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 6: "Implode", 77: "method 77"}


@pytest.mark.parametrize("method", METHODS)
def test_a_zip_member_of_another_method_is_unsupported_not_damaged(tmp_path: Path, method: int) -> None:
    file = tmp_path / "m.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", noise(1))
        archive.writestr("b.png", noise(2))
    data = bytearray(file.read_bytes())
    at, there = data.rfind(b"PK\x03\x04") + 8, data.rfind(b"PK\x01\x02") + 10
    data[at : at + 2] = data[there : there + 2] = struct.pack("<H", method)
    file.write_bytes(data)
    pictures, reasons = found_in(file)
    assert list(pictures) == ["a.png"]
    assert reasons == {
        "b.png": f"unsupported: compressed with {METHODS[method]}, which is not read here; unpack the zip with another "
        "program and pack the folder"
    }


def test_a_zip_of_several_disks_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "disks.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", noise(1))
    data = file.read_bytes()
    at = data.rfind(b"PK\x05\x06")
    # The locator of a zip64 directory, on the second of two disks.
    file.write_bytes(data[:at] + struct.pack("<4sLQL", b"PK\x06\x07", 1, at, 2) + data[at:])
    with pytest.raises(UserError, match="the zip is damaged"):
        found_in(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_of_a_known_method_is_read(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w", method) as archive:
        archive.writestr("a.png", noise(1))
    assert found_in(tmp_path / "m.zip") == ({"a.png": noise(1)}, {})


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b"\x28\xb5\x2f\xfd", r"compressed with Zstandard \(zstd\), which is not read here; unpack it \(tar xf"),
        (b"\x5a\x2a\x4d\x18", "Zstandard"),
        (b"\x04\x22\x4d\x18", "compressed with LZ4"),
        (b"7z\xbc\xaf\x27\x1c", r"7-Zip archive, which is not read here; unpack it \(7z x"),
        (b"Rar!\x1a\x07\x01\0", "RAR archive"),
        (b"\x1f\x9d", r"compress \(.Z\)"),
        (b"LZIP\x01", "lzip"),
        (gzip.compress(b"no tar", mtime=0), "compressed with gzip and holds no whole tar"),
        (bz2.compress(b"no tar"), "compressed with bzip2 and holds no whole tar"),
        (lzma.compress(b"no tar"), "compressed with xz and holds no whole tar"),
        (b"PK\x03\x04" + bytes(60), "a zip without the directory at its end"),
        (b"nothing known", "or the archive is cut short"),
    ],
)
def test_an_archive_that_is_not_read_says_what_it_is(tmp_path: Path, start: bytes, sentence: str) -> None:
    file = tmp_path / "my photos.bin"
    file.write_bytes(start + bytes(2000) if not start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7z")) else start)
    with pytest.raises(UserError, match=sentence) as told, open_pictures(file):
        pass
    if "xf" in sentence:
        # The line can be pasted: the name has a space.
        assert f"(tar xf '{file}')" in str(told.value)


def test_a_single_picture_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise(1))
    with pytest.raises(UserError, match="is a single picture; give its folder"), open_pictures(tmp_path / "a.png"):
        pass


@pytest.mark.skipif(shutil.which("zstd") is None, reason="zstd is not installed")
def test_a_real_tar_of_zstandard_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.tar").write_bytes(bytes(10240))
    subprocess.run(["zstd", "-q", tmp_path / "p.tar"], check=True)
    with pytest.raises(UserError, match="Zstandard"), open_pictures(tmp_path / "p.tar.zst"):
        pass


def test_of_a_folder_with_a_pictures_name_nothing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "album.jpg" / "a.png").write_bytes(noise(1))
    assert found_in(tmp_path) == ({"album.jpg/a.png": noise(1)}, {})


def hidden_tree(folder: Path) -> Path:
    for number, name in enumerate(("a.png", ".thumbnails/a.png", ".thumbnails/b.png", "x/@eaDir/a.png", ".b.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(noise(number))
    for name in ("._a.png", "__MACOSX/._a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0\5\x16\7" + bytes(100))
    return folder


@pytest.mark.parametrize("kind", ["tar", "gztar", "zip"])
def test_hidden_names_in_an_archive_are_left_out_and_named_once(tmp_path: Path, kind: str) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "all"), kind, hidden_tree(tmp_path / "in")))
    pictures, reasons = found_in(archive)
    assert {name.removeprefix("./") for name in pictures} == {"a.png"}
    assert {name.removeprefix("./") for name in reasons} == {".thumbnails", "x/@eaDir", ".b.png"}


def test_odd_keys_of_a_bucket_are_left_out_and_the_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto", reason="moto is not installed; install the 'dev' extra")
    from trainplane.cluster.stack.moto_server import local_s3

    odd = ["/b.png", "x//c.png", "../d.png", "back\\slash.png", "./e.png"]
    with local_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        for key in ("a.png", ".thumbnails/a.png", "._a.png", "/notes.txt", *odd):
            client.put_object(Bucket="photos", Key=f"in/{key}", Body=noise(1))
        pictures, reasons = found_in("s3://photos/in")
    assert list(pictures) == ["a.png"]
    assert set(reasons) == {*odd, ".thumbnails"}
    assert all(reasons[key].startswith("unreadable name: ") for key in odd)


def test_sources_are_pictures_with_sizes(linked: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(linked, "in")
    with open_pictures(tmp_path / "in.tar") as entries:
        sizes = {entry.name: entry.size for entry in entries if isinstance(entry, PictureSource)}
    assert sizes["in/deep/hard.png"] == len(noise(1))
