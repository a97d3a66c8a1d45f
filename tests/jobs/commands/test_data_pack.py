"""`isnet data pack`: kinds of sources, splits, reports by reason, mistakes."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import webdataset
from PIL import Image
from project_fixtures import files_of, noise

from isnet.images.files import PictureError
from jobs.data.sources import PictureSource, open_pictures
from trainplane.data.manifest import Dataset, Manifest, SkippedFile

Isnet = Callable


def paths_in(folder: Path) -> set[str]:
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    return {json.loads(sample["json"])["path"] for sample in samples}


SHARES = ["--shares", "train=70,val=30"]


def test_sides_share_no_picture_and_keep_theirs_when_pictures_are_added(isnet, many: Path, home: Path) -> None:
    for split in ("train", "val"):
        assert isnet("data", "pack", many, split, "--split", split, *SHARES).status == 0
    train, val = (paths_in(home / "datasets" / split) for split in ("train", "val"))
    assert train | val == {path.name for path in many.iterdir()}
    assert not train & val
    assert 5 <= len(val) <= 30
    # Copies of one picture stand on one side.
    assert {"007.png", "copy.png"} <= train or {"007.png", "copy.png"} <= val
    shown = isnet("data", "show", "val", "--json").json()
    assert (shown["packed"]["shares"], shown["split"]) == ("train=70,val=30", "val")

    for number in range(100, 130):
        (many / f"a{number}.png").write_bytes(noise(number))
    (many / "000.png").unlink()
    isnet("data", "pack", many, "later", "--split", "val", *SHARES)
    assert paths_in(home / "datasets" / "later") & (train | val) == val - {"000.png"}


def test_left_out_files_are_reported_by_reason_with_their_names(isnet, photos: Path) -> None:
    (photos / "cut.jpg").write_bytes((photos / "photo-1.jpg").read_bytes()[:900])
    (photos / "text.jpg").write_text("no picture")
    (photos / "other.jpg").write_text("no picture either")
    (photos / "empty.png").touch()
    (photos / "raw.nef").write_bytes(b"x")
    (photos / "notes.txt").write_text("not asked for")
    ran = isnet("data", "pack", photos, "mine", "--json")
    report = ran.json()
    assert report["samples"] == 8
    assert report["reasons"] == {"not a picture": 2, "truncated": 1, "empty file": 1,
                                 ".nef pictures cannot be read here; convert it": 1}  # fmt: skip
    assert {entry["file"] for entry in report["skipped"]} == {
        "cut.jpg",
        "text.jpg",
        "other.jpg",
        "empty.png",
        "raw.nef",
    }
    text = isnet("data", "show", "mine").out
    for line in ("5 left out:", "2 not a picture", "other.jpg: ", "1 truncated", "cut.jpg: "):
        assert line in text


def test_names_and_reasons_of_a_manifest_do_not_reach_the_terminal_raw(isnet, photos: Path, home: Path) -> None:
    isnet("data", "pack", photos, "mine")
    file = home / "datasets" / "mine" / "manifest.json"
    skipped = (SkippedFile("a\x1b[31m\nb", "odd\x1b[2J: of\x07 no use"),)
    file.write_bytes(replace(Manifest.from_json(file.read_bytes()), skipped=skipped).to_json())
    ran = isnet("data", "show", "mine")
    assert r"    1 odd\x1b[2J" in ran.out.splitlines()
    assert r"      a\x1b[31m\nb: of\x07 no use" in ran.out.splitlines()


def mask(number: int) -> bytes:
    hole = np.zeros((20, 30), np.uint8)
    hole[:number] = 255
    with io.BytesIO() as buffer:
        Image.fromarray(hole).save(buffer, "PNG")
        return buffer.getvalue()


def test_masks_pack_alike_from_every_kind_of_source(isnet, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    for number in range(1, 8):
        (folder / f"{number}.png").write_bytes(mask(number))
    files = sorted(folder.iterdir())
    (folder / "list.txt").write_text("".join(f"{file.name}\n" for file in files))
    for mode in ("w", "w:gz", "w:xz"):
        with tarfile.open(tmp_path / f"m.tar{mode[1:].replace(':', '.')}", mode) as tar:
            for file in files:
                tar.add(file, file.name)
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    sources = [folder, folder / "list.txt", *(tmp_path / name for name in ("m.tar", "m.tar.gz", "m.tar.xz", "m.zip"))]
    digests = {
        isnet("data", "pack", source, f"d{at}", "--kind", "masks", "--name", "m", "--shard-bytes", "6K", "--json")
        .json()["digest"]
        for at, source in enumerate(sources)
    }  # fmt: skip
    assert len(digests) == 1
    shards = sorted(str(path) for path in (home / "datasets" / "d0").glob("*.tar"))
    assert len(shards) > 1
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    ratios = [json.loads(sample["json"])["hole_ratio"] for sample in samples]
    assert ratios == [round(number / 20, 6) for number in range(1, 8)]
    assert all({key for key in sample if not key.startswith("__")} == {"png", "json"} for sample in samples)

    isnet("data", "pack", folder, "other", "--kind", "masks", "--black-is-hole")
    (shard,) = (home / "datasets" / "other").glob("*.tar")
    other = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    assert [json.loads(sample["json"])["hole_ratio"] for sample in other] == [round(1 - ratio, 6) for ratio in ratios]


def test_a_compressed_tar_is_read_once_from_start_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.data.packing import pack_pictures
    from jobs.data.sources import open_pictures

    with tarfile.open(tmp_path / "many.tar.gz", "w:gz", compresslevel=1) as tar:
        for number in range(80):
            data = noise(number, side=90)  # more together than the reader's buffer
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    rewound = []
    rewind = gzip._GzipReader._rewind
    monkeypatch.setattr(gzip._GzipReader, "_rewind", lambda stream: rewound.append(stream) or rewind(stream))
    with open_pictures(tmp_path / "many.tar.gz") as found:
        pack_pictures(found, str(tmp_path / "set"), name="n", split="all", shard_bytes=10**6)
    # Going back means to decompress all of it again, which over many members takes for ever.
    assert len(rewound) <= 1


def stamps_of(source: str) -> dict[str, str]:
    with open_pictures(source) as found:
        return {one.name: one.stamp for one in found if isinstance(one, PictureSource)}


def test_loose_pictures_on_s3_pack_like_a_folder(isnet, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainplane.cluster.stack.moto_server import local_s3
    from trainplane.storage import ensure_bucket, open_store

    pytest.importorskip("moto", reason="moto is not installed; install the 'dev' extra")
    (many / "notes.txt").write_text("no picture")
    (many / "empty.png").touch()
    with local_s3() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ensure_bucket("s3://photos")
        for path in many.iterdir():
            open_store("s3://photos/all").write(path.name, path)
        words = ["--name", "n", "--shard-bytes", "30K", "--json"]
        there = isnet("data", "pack", "s3://photos/all", "s3://photos/packed", *words).json()
        mistaken = isnet("data", "pack", "s3://photos/all", "d", "--layout", "celeba", "--split", "val")
        before = stamps_of("s3://photos/all")
        first = min(many.glob("*.png"))
        open_store("s3://photos/all").write(first.name, first.read_bytes()[::-1])
        after = stamps_of("s3://photos/all")
    here = isnet("data", "pack", many, "d", *words).json()
    assert there["digest"] == here["digest"]
    assert there["reasons"] == {"empty file": 1}
    assert (mistaken.status, "--lists DIR" in mistaken.err) == (2, True)
    # As many bytes as before, and others: a packing that goes on must read it again.
    assert {name for name in before if before[name] != after[name]} == {first.name}


def test_large_photos_are_shrunk_and_others_keep_their_bytes(isnet, photos: Path, home: Path) -> None:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (60, 400, 3), dtype=np.uint8)).save(photos / "wide.png")
    isnet("data", "pack", photos, "mine", "--max-side", "100", "--quality", "80")
    (shard,) = (home / "datasets" / "mine").glob("*.tar")
    samples = {
        json.loads(sample["json"])["path"]: sample
        for sample in webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False)
    }
    wide = samples["wide.png"]
    described = json.loads(wide["json"])
    assert Image.open(io.BytesIO(wide["jpg"])).size == (described["width"], described["height"]) == (100, 15)
    for path in photos.iterdir():
        if path.name != "wide.png":
            assert samples[path.name][path.suffix[1:]] == path.read_bytes()


def test_a_list_may_name_what_is_absent_or_twice(isnet, photos: Path) -> None:
    (photos / "list.txt").write_text("photo-0.png\nnot there.jpg 3\nphoto-1.jpg 4\nphoto-0.png\n# comment\n\n")
    report = isnet("data", "pack", photos / "list.txt", "mine", "--json").json()
    assert report["samples"] == 2
    assert report["reasons"] == {"missing": 1, "named twice": 1}
    assert [entry["file"] for entry in report["skipped"]] == ["not%20there.jpg", "photo-0.png"]


def test_a_list_names_whatever_a_file_can_be_called(isnet, tmp_path: Path, home: Path) -> None:
    names = ["first.png", "#1.png", "my photo.png", " lead.png", "u\u2028x.png", "f\x0cx.png", "-rf.png"]
    for number, name in enumerate(names):
        (tmp_path / name).write_bytes(noise(number))
    lines = [
        "first.png",
        "#1.png",
        "my photo.png 3",
        " lead.png",
        "u\u2028x.png 0",
        "f\x0cx.png",
        "-rf.png\t7",
        "./-rf.png",
    ]
    long = "x" * 300 + ".png"
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, "# no", "  ", long]).encode())
    report = isnet("data", "pack", tmp_path / "l.txt", "mine", "--json").json()
    assert report["samples"] == len(names)
    assert report["reasons"] == {"named twice": 1, "unreadable": 1}
    assert paths_in(home / "datasets" / "mine") == {quote(name) for name in names}


@pytest.mark.parametrize("below", ["", "/x", "/x/y"])
def test_a_file_is_no_destination(isnet, photos: Path, tmp_path: Path, below: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    ran = isnet("data", "pack", photos, f"{file}{below}")
    assert (ran.status, f"{file} is a file; give a folder" in ran.err, ran.out) == (2, True, "")
    assert file.read_text() == "mine"


def test_what_has_no_end_and_what_has_no_name_are_refused(isnet, photos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tar")
    for words, sentence in (
        ((tmp_path / "pipe.tar", "mine"), "is a pipe, socket or device"),
        (("/dev/zero", "mine"), "is a pipe, socket or device"),
        (("", "mine"), "SRC is empty"),
        ((photos, ""), "the name of a dataset is empty"),
    ):
        ran = isnet("data", "pack", *words)
        assert (ran.status, sentence in ran.err) == (2, True)


def test_a_list_that_is_no_utf8_text_is_refused(isnet, many: Path) -> None:
    (many / "l.txt").write_bytes("000.png\n001.png\n".encode("utf-16"))
    ran = isnet("data", "pack", many / "l.txt", "mine")
    assert (ran.status, "save it as UTF-8" in ran.err) == (2, True)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_of_tars_that_were_joined_none_is_lost_in_silence(isnet, tmp_path: Path, mode: str) -> None:
    parts = []
    for number in range(2):
        with tarfile.open(tmp_path / "part.tar", mode) as tar:
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(noise(number))
            tar.addfile(member, io.BytesIO(noise(number)))
        parts.append((tmp_path / "part.tar").read_bytes())
    (tmp_path / "joined.tar").write_bytes(b"".join(parts))
    ran = isnet("data", "pack", tmp_path / "joined.tar", "mine")
    assert (ran.status, "content follows the tar's end mark" in ran.err) == (2, True)


def test_a_picture_behind_a_password_is_not_called_damaged(isnet, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        for number in range(2):
            archive.writestr(f"{number}.png", noise(number))
    data = bytearray((tmp_path / "m.zip").read_bytes())
    # Python writes no encrypted members: the flag of the second one is set in both of its headers.
    data[data.rfind(b"PK\x03\x04") + 6] |= 1
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "m.zip").write_bytes(data)
    report = isnet("data", "pack", tmp_path / "m.zip", "mine", "--json").json()
    assert (report["samples"], report["reasons"]) == (1, {"encrypted": 1})


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_lies_about_a_size_takes_no_more_memory_than_it_declares(tmp_path: Path, method: int) -> None:
    file = tmp_path / "m.zip"
    with zipfile.ZipFile(file, "w", method) as archive, archive.open("a.png", "w") as member:
        for _ in range(200):
            member.write(bytes(1 << 20))
    size = struct.pack("<I", 200 << 20)
    assert file.read_bytes().count(size) == 2  # before the member, and in the directory
    file.write_bytes(file.read_bytes().replace(size, struct.pack("<I", 1000)))
    with open_pictures(file) as found:
        (picture,) = found
        tracemalloc.start()
        try:
            with pytest.raises(PictureError, match="damaged in the zip"):
                picture.read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 150 << 20


def test_pictures_that_nobody_can_read_are_counted_in_archives_as_in_folders(isnet, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    (folder / "a.png").write_bytes(noise(1))
    (folder / "b.jxl").write_bytes(b"jxl")
    shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    shutil.make_archive(str(tmp_path / "all"), "tar", folder)
    for at, source in enumerate((folder, tmp_path / "all.zip", tmp_path / "all.tar")):
        report = isnet("data", "pack", source, f"d{at}", "--json").json()
        assert report["reasons"] == {".jxl pictures cannot be read here; convert it": 1}


@pytest.mark.parametrize(("kind", "shards"), [("folder", 4), ("tar.gz", 1)])
def test_a_command_killed_by_sigkill_goes_on_to_the_same_bytes(isnet, many: Path, home: Path, kind, shards) -> None:
    source = many
    if kind == "tar.gz":
        source = many.with_suffix(".tar.gz")
        with tarfile.open(source, "w:gz") as tar:
            tar.add(many, "many")
    words = ["data", "pack", str(source), "killed", "--name", "n", "--shard-bytes", "20K", "--max-side", "20"]
    folder = home / "datasets" / "killed"
    with subprocess.Popen([sys.executable, "-m", "jobs.cli", *words], stderr=subprocess.DEVNULL) as command:
        while command.poll() is None and len(list(folder.glob("packing.shard-*"))) < shards:
            time.sleep(0.001)
        command.send_signal(signal.SIGKILL)
    assert command.returncode == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.tar")}
    noted = [path.name.removeprefix("packing.").replace(".json", ".tar") for path in folder.glob("packing.shard-*")]
    assert isnet(*words).status == 0
    assert {name: (folder / name).stat().st_mtime_ns for name in noted} == {name: before[name] for name in noted}
    words[3] = "fresh"
    assert isnet(*words).status == 0
    assert files_of(folder) == files_of(home / "datasets" / "fresh")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--shares", "train=90,val=5"], "sum up to 95 percent; need 100"),
        (["--shares", "train=90,val=10"], "--split all has no share; need one of train, val"),
        (["--shares", "some"], "'some' is not a share; write names with percent"),
        (["--kind", "masks", "--max-side", "9"], "masks are not shrunk"),
        (["--black-is-hole"], "photos have no hole"),
        (["--quality", "101"], "quality 101 is out of range"),
        (["--split", "a b"], "split 'a b' cannot be used"),
        (["--parallel", "-1"], "-1 is negative"),
        (["--layout", "celeb"], "'celeb' is not known; did you mean celeba"),
        (["--layout", "celeba", "--split", "val"], "list_eval_partition.txt"),
        (["--max-side", "0"], "0 is too small"),
    ],
)
def test_mistakes_of_packing_are_answered_in_a_sentence(isnet, photos: Path, home: Path, words, sentence: str) -> None:
    ran = isnet("data", "pack", photos, "mine", *words)
    assert ran.status == 2
    assert sentence in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert not (home / "datasets" / "mine").exists()


def test_a_folder_without_a_usable_picture_says_why(isnet, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    ran = isnet("data", "pack", tmp_path / "none", "mine")
    assert (ran.status, "no sample was found" in ran.err) == (2, True)
    (tmp_path / "none" / "a.jpg").write_text("text")
    ran = isnet("data", "pack", tmp_path / "none", "mine")
    assert (ran.status, "1 file was left out, the first: a.jpg: not a picture" in ran.err) == (2, True)


def test_a_place_where_another_command_packs_is_refused(isnet, photos: Path, home: Path) -> None:
    from trainplane.data.pack.lease import PackLease
    from trainplane.storage import open_store

    lease = PackLease(open_store(str(home / "datasets" / "mine")))
    lease.acquire()
    ran = isnet("data", "pack", photos, "mine")
    lease.release(finished=True)
    assert ran.status == 2
    assert f"another packing is running there (process {os.getpid()} on" in ran.err


def test_the_dataset_that_was_packed_opens_with_its_labels_of_how(isnet, photos: Path, home: Path) -> None:
    isnet("data", "pack", photos, "mine", "--max-side", "64", "--quality", "77")
    packed = Dataset.open(str(home / "datasets" / "mine")).manifest.packed
    assert packed == {"kind": "photos", "layout": "folder", "max_side": 64, "quality": 77, "shard_bytes": 64 * 2**20}
