"""`isnet data verify`: damage is found, named, and repaired from a copy."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import pytest
from project_fixtures import files_of


def cut_at_a_member(shard: Path, folder: Path) -> None:
    with tarfile.open(shard) as tar:
        at = tar.getmembers()[3].offset
    shard.write_bytes(shard.read_bytes()[:at])


def cut_in_a_payload(shard: Path, folder: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:2000])


def hole_of_zeros(shard: Path, folder: Path) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data[:2048] + bytes(1024) + data[3072:])


def flipped_header_byte(shard: Path, folder: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[110] ^= 4
    shard.write_bytes(data)


def flipped_payload_byte(shard: Path, folder: Path) -> None:
    with tarfile.open(shard) as tar:
        picture = next(member for member in tar if member.name.endswith(".png"))
    data = bytearray(shard.read_bytes())
    data[picture.offset_data + picture.size // 2] ^= 4
    shard.write_bytes(data)


def missing_member(shard: Path, folder: Path) -> None:
    with tarfile.open(shard) as tar:
        first, second = (member.offset for member in tar.getmembers()[2:4])
    data = shard.read_bytes()
    shard.write_bytes(data[:first] + data[second:])


def swapped_shard(shard: Path, folder: Path) -> None:
    shutil.copyfile(folder / "shard-000000.tar", shard)


def stale_shard(shard: Path, folder: Path) -> None:
    shutil.copyfile(folder.parent / "stale" / shard.name, shard)


def lost_shard(shard: Path, folder: Path) -> None:
    shard.unlink()


def spoilt_index(shard: Path, folder: Path) -> None:
    (folder / "samples.parquet").write_bytes(b"PAR1 no longer")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (cut_at_a_member, "cut-shard"),
        (cut_in_a_payload, "cut-shard"),
        (hole_of_zeros, "zeros"),
        (flipped_header_byte, "damaged-header"),
        (flipped_payload_byte, "damaged-payload"),
        (missing_member, "missing-member"),
        (swapped_shard, "swapped-shard"),
        (stale_shard, "stale-shard"),
        (lost_shard, "missing-shard"),
        (spoilt_index, "damaged-index"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_damage_is_found_named_and_repaired_from_a_copy(isnet, many: Path, home: Path, spoil, kind: str) -> None:
    isnet("data", "pack", many, "mine", "--shard-bytes", "30K")
    folder, copy = home / "datasets" / "mine", home / "datasets" / "copy"
    shutil.copytree(folder, copy)
    for file in many.iterdir():
        file.rename(file.with_name(f"renamed-{file.name}"))
    isnet("data", "pack", many, "stale", "--shard-bytes", "30K")
    before = files_of(folder)
    spoil(folder / "shard-000001.tar", folder)

    found = isnet("data", "verify", "mine", "--json")
    assert found.status == 1
    assert not found.json()["sound"]
    assert kind in {damage["kind"] for damage in found.json()["damage"]}
    assert kind in isnet("data", "verify", "mine").out

    mended = isnet("data", "verify", "mine", "--repair", "copy", "--json")
    assert mended.status == 0, mended.err
    report = mended.json()
    assert (report["sound"], report["damage"]) == (True, [])
    assert report["repaired"] == found.json()["damage"]
    assert files_of(folder) == before
    assert isnet("data", "verify", "mine").out.startswith("sound: 61 samples, 8 shards, ")


def test_damage_that_the_copy_shares_is_left_and_the_exit_status_says_so(isnet, many: Path, home: Path) -> None:
    isnet("data", "pack", many, "mine", "--shard-bytes", "30K")
    folder, copy = home / "datasets" / "mine", home / "datasets" / "copy"
    for at in (1, 2):
        flipped_payload_byte(folder / f"shard-{at:06d}.tar", folder)
        if at == 1:
            shutil.copytree(folder, copy)
    ran = isnet("data", "verify", "mine", "--repair", "copy", "--json")
    assert ran.status == 1
    report = ran.json()
    assert [damage["shard"] for damage in report["repaired"]] == ["shard-000002.tar"]
    assert [damage["shard"] for damage in report["damage"]] == ["shard-000001.tar"]
    text = isnet("data", "verify", "mine", "--repair", "copy")
    assert text.status == 1
    assert "1 place damaged" in text.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "there is no dataset"),
        (["mine", "--repair", "mine"], "is the dataset itself"),
        (["mine", "--repair", "nowhere"], "nothing is there to repair from"),
    ],
)
def test_mistakes_of_verifying_are_answered_in_a_sentence(isnet, photos: Path, words, sentence: str) -> None:
    isnet("data", "pack", photos, "mine")
    ran = isnet("data", "verify", *words)
    assert ran.status == 2
    assert sentence in ran.err
    assert "Traceback" not in ran.err
