"""`isnet data`, as typed: pack, verify and show agree, on every kind of source."""

import gzip
import io
import json
import tarfile
import zipfile

import numpy as np
import webdataset
from PIL import Image


def test_pack_verify_and_show_agree_and_plain_tools_read_the_shards(isnet, photos, home):
    packed = isnet("data", "pack", photos, "mine", "--json")
    assert packed.status == 0, packed.err
    shown = isnet("data", "show", "mine", "--json").json()
    assert shown == packed.json()
    assert (shown["samples"], shown["shards"], shown["skipped"]) == (8, 1, [])
    assert shown["sizes"]["looked_at"] == 8
    verified = isnet("data", "verify", "mine", "--json").json()
    assert {key: verified[key] for key in ("dataset", "sound", "damage")} == {
        "dataset": "mine",
        "sound": True,
        "damage": [],
    }
    assert {key: verified[key] for key in ("samples", "bytes")} == {key: shown[key] for key in ("samples", "bytes")}
    shard = home / "datasets" / "mine" / "shard-000000.tar"
    with tarfile.open(shard) as tar:
        assert len(tar.getnames()) == 16
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
    originals = {json.loads(sample["json"])["path"] for sample in samples}
    assert originals == {path.name for path in photos.iterdir()}


def test_packing_again_changes_nothing_and_other_input_is_refused(isnet, photos):
    first = isnet("data", "pack", photos, "mine", "--json").json()
    assert isnet("data", "pack", photos, "mine", "--json").json() == first
    (photos / "photo-0.png").unlink()
    refused = isnet("data", "pack", photos, "mine")
    assert refused.status == 2
    assert "allow replacing it (--replace)" in refused.err
    assert isnet("data", "pack", photos, "mine", "--replace", "--json").json()["samples"] == 7


def test_folder_tar_zip_and_list_pack_the_same_pictures(isnet, photos, tmp_path):
    files = sorted(photos.iterdir())
    with tarfile.open(tmp_path / "p.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    (photos / "list.txt").write_text("".join(f"{file.name} {label}\n" for label, file in enumerate(files)))
    shards = {
        isnet("data", "pack", source, f"d{number}", "--name", "same", "--json").json()["digest"]
        for number, source in enumerate([photos, tmp_path / "p.tar", tmp_path / "p.zip", photos / "list.txt"])
    }
    assert len(shards) == 1


def test_unusable_files_are_named_with_their_reason(isnet, photos):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not much of a picture")
    (photos / "empty.png").touch()
    (photos / "linked.png").symlink_to(photos.parent / "elsewhere.png")
    (photos.parent / "elsewhere.png").write_bytes((photos / "photo-0.png").read_bytes())
    found = isnet("data", "pack", photos, "mine", "--json").json()
    assert found["samples"] == 8
    assert {entry["file"] for entry in found["skipped"]} == {"broken.jpg", "empty.png", "linked.png"}
    # In words that say what to do.
    shown = isnet("data", "show", "mine").out
    assert "1 link that leaves the folder (only files of this folder are taken; copy" in shown


def test_large_pictures_shrink_and_masks_carry_their_ratio(isnet, photos, tmp_path, home):
    shrunk = isnet("data", "pack", photos, "small", "--max-side", "40", "--json").json()
    assert shrunk["samples"] == 8
    masks = tmp_path / "masks"
    masks.mkdir()
    hole = np.zeros((40, 40), np.uint8)
    hole[:10] = 255
    Image.fromarray(hole).save(masks / "quarter.png")
    assert isnet("data", "pack", masks, "holes", "--kind", "masks").status == 0
    (sample,) = webdataset.WebDataset(
        str(home / "datasets" / "holes" / "shard-000000.tar"), shardshuffle=False, empty_check=False
    )
    assert json.loads(sample["json"])["hole_ratio"] == 0.25


def test_a_flipped_byte_is_found_and_the_exit_status_says_so(isnet, photos, home):
    isnet("data", "pack", photos, "mine")
    shard = home / "datasets" / "mine" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[1024] ^= 1
    shard.write_bytes(data)
    found = isnet("data", "verify", "mine", "--json")
    assert found.status == 1
    assert not found.json()["sound"]
    assert len(found.json()["damage"]) == 1


def test_a_damaged_archive_is_refused_whole_and_nothing_is_packed(isnet, photos, tmp_path, home):
    plain, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for file in sorted(photos.iterdir()):
            tar.add(file, file.name)
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(photos.iterdir()):
            archive.write(file, file.name)
    whole = plain.getvalue()
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        third = tar.getmembers()[2].offset
    header = bytearray(whole)
    header[third + 150] ^= 0xFF
    squeezed = bytearray(gzip.compress(whole))
    squeezed[len(squeezed) // 2] ^= 0xFF
    damaged = {
        "header.tar": bytes(header),
        "between-members.tar": whole[:third],
        "inside-a-member.tar": whole[: third + 700],
        "flipped.tar.gz": bytes(squeezed),
        "cut.tar.gz": gzip.compress(whole)[:-2000],
        "cut.zip": zipped.getvalue()[:-40] + b"\0" * 18 + zipped.getvalue()[-22:],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        ran = isnet("data", "pack", tmp_path / name, "d")
        assert ran.status == 2, f"{name}: {ran.out}{ran.err}"
        assert "damaged" in ran.err or "is no folder" in ran.err, name
        assert "Traceback" not in ran.err
        assert not (home / "datasets" / "d" / "manifest.json").exists()


def test_datasets_are_listed_by_name_with_those_that_cannot_be_opened(isnet, photos, home):
    assert "no datasets" in isnet("data", "list").out
    isnet("data", "pack", photos, "mine-val", "--split", "val")
    isnet("data", "pack", photos, "mine")
    (home / "datasets" / "torn").mkdir()
    (home / "datasets" / "torn" / "manifest.json").write_text("{")
    listed = isnet("data", "list", "--json").json()["datasets"]
    assert [(row["dataset"], row.get("samples")) for row in listed] == [("mine", 8), ("mine-val", 8), ("torn", None)]
    assert "8 samples, 1 shard" in isnet("data", "list").out
