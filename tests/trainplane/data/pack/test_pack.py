"""Packing: ordinary tars, the same bytes every time, nothing trusted before the manifest, nothing replaced unasked."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.data.manifest import Dataset, SkippedFile
from trainplane.data.pack.pack import pack
from trainplane.data.pack.shard_builder import PackItem, build_shard, key_of, percent_encoded
from trainplane.errors import UserError
from trainplane.storage import open_store


def items_of(count: int, *, seed: int = 0) -> list[PackItem]:
    chance = np.random.default_rng(seed)
    return [
        PackItem(
            f"class {n % 3}/sample.{n}.JPG",
            chance.bytes(int(chance.integers(1, 3000))),
            ("jpg", "png", "webp")[n % 3],
            {"width": n, "height": n + 1},
        )
        for n in range(count)
    ]


def pack_to(dest: object, items: object, **changed: object) -> Dataset:
    options: dict = {"name": "tiny", "split": "train", "shard_bytes": 20_000, "how": {"layout": "folder"}}
    return pack(items, str(dest), **(options | changed))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tar_and_webdataset_read_every_sample(tmp_path: Path) -> None:
    items = items_of(40)
    dataset = pack_to(tmp_path, items)
    assert dataset.num_shards > 3
    members = []
    for shard in dataset.shards:
        listed = subprocess.run(["tar", "tf", tmp_path / shard.name], capture_output=True, text=True, check=True)
        assert listed.stderr == ""
        members += listed.stdout.split()
    samples = list(webdataset.WebDataset([str(tmp_path / shard.name) for shard in dataset.shards], shardshuffle=False))
    assert len(members) == 2 * len(samples) == 2 * len(items) == 2 * dataset.num_samples
    for item, sample in zip(items, samples, strict=True):
        assert sample["__key__"] == key_of(item.source)
        assert sample[item.extension] == item.data
        described = json.loads(sample["json"])
        assert unquote_to_bytes(described.pop("path")).decode() == item.source
        assert described == item.extra


def test_the_index_points_to_every_member(tmp_path: Path) -> None:
    dataset = pack_to(tmp_path, items_of(25))
    for number, shard in enumerate(dataset.shards):
        with tarfile.open(tmp_path / shard.name) as tar:
            stored = [(info.name, info.offset_data, info.size) for info in tar]
        indexed = [
            (f"{dataset.index.key_of(sample)}.{member.extension}", member.offset, member.size)
            for sample in dataset.index.samples_of(number)
            for member in dataset.index.members_of(sample)
        ]
        assert indexed == stored
        assert len(stored) == 2 * shard.samples


def test_tar_headers_say_nothing_of_the_packer(tmp_path: Path) -> None:
    dataset = pack_to(tmp_path, items_of(3))
    with tarfile.open(tmp_path / dataset.shards[0].name) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname) == (0, 0, 0, "", "")
            assert info.pax_headers == {}


@given(count=st.integers(1, 40), seed=st.integers(0, 100), shard_bytes=st.integers(1, 60_000))
@settings(max_examples=15, deadline=None)
def test_same_samples_and_options_give_the_same_bytes(
    tmp_path_factory, count: int, seed: int, shard_bytes: int
) -> None:
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    first = pack_to(one, items_of(count, seed=seed), shard_bytes=shard_bytes)
    second = pack_to(other, iter(items_of(count, seed=seed)), shard_bytes=shard_bytes)
    assert files_of(one) == files_of(other)
    assert first.digest == second.digest
    assert first.num_samples == count


def test_shards_stay_below_the_size_asked_for(tmp_path: Path) -> None:
    dataset = pack_to(tmp_path, items_of(60), shard_bytes=30_000)
    # tar ends an archive with zeros up to a multiple of 10,240 bytes.
    assert all(shard.bytes <= 30_000 + 2 * 512 + 10_240 for shard in dataset.shards)
    assert len(dataset.shards) < 10


def test_skipped_files_stand_in_the_manifest(tmp_path: Path) -> None:
    dataset = pack_to(tmp_path, [*items_of(2), SkippedFile(percent_encoded("broken é.jpg"), "truncated")])
    assert Dataset.open(str(tmp_path)).skipped == (SkippedFile("broken%20%C3%A9.jpg", "truncated"),)
    assert dataset.manifest.packed == {"layout": "folder", "shard_bytes": 20_000}


def test_packing_the_same_again_writes_nothing(tmp_path: Path) -> None:
    first = pack_to(tmp_path, items_of(30))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    second = pack_to(tmp_path, items_of(30))
    assert second.digest == first.digest
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_packing_the_same_again_brings_back_a_missing_shard(tmp_path: Path) -> None:
    dataset = pack_to(tmp_path, items_of(30))
    path = tmp_path / dataset.shards[1].name
    content = path.read_bytes()
    path.unlink()
    pack_to(tmp_path, items_of(30))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "other",
    [
        {"items": items_of(31)},
        {"items": items_of(20)},
        {"items": items_of(30, seed=1)},
        {"items": items_of(30), "how": {"layout": "list"}},
        {"items": items_of(30), "split": "val"},
        {"items": [*items_of(30), SkippedFile("x", "y")]},
    ],
)
def test_another_dataset_is_refused_untouched_and_replaced_on_request(tmp_path: Path, other: dict) -> None:
    first = pack_to(tmp_path / "set", items_of(30))
    before = files_of(tmp_path / "set")
    items = other.pop("items")
    with pytest.raises(UserError, match=f"another dataset is there.*{first.digest[:12]}"):
        pack_to(tmp_path / "set", items, **other)
    assert files_of(tmp_path / "set") == before
    replaced = pack_to(tmp_path / "set", items, replace=True, **other)
    assert replaced.digest != first.digest
    assert pack_to(tmp_path / "fresh", items, **other).digest == replaced.digest
    assert files_of(tmp_path / "set") == files_of(tmp_path / "fresh")


@pytest.mark.parametrize("stop_at", [0, 7, 29])
def test_a_packing_that_was_interrupted_is_no_dataset_and_can_be_run_again(tmp_path: Path, stop_at: int) -> None:
    def interrupted() -> Iterator[PackItem]:
        for n, item in enumerate(items_of(30)):
            if n == stop_at:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        pack_to(tmp_path / "set", interrupted())
    with pytest.raises(UserError, match="there is no dataset"):
        Dataset.open(str(tmp_path / "set"))
    pack_to(tmp_path / "set", items_of(30))
    pack_to(tmp_path / "whole", items_of(30))
    assert files_of(tmp_path / "set") == files_of(tmp_path / "whole")


def test_packs_to_s3_the_bytes_it_packs_to_a_folder(tmp_path: Path, s3_address: str) -> None:
    dataset = pack(items_of(30), s3_address, name="tiny", split="train", shard_bytes=20_000, how={"layout": "folder"})
    local = pack_to(tmp_path, items_of(30))
    assert dataset.digest == local.digest
    store = open_store(s3_address)
    assert {entry.key: store.read(entry.key) for entry in store.list()} == files_of(tmp_path)


def test_mistakes_are_answered_before_anything_is_stored(tmp_path: Path) -> None:
    dest = tmp_path / "set"
    for items, changed, complaint in (
        ([], {}, "nothing to pack"),
        ([PackItem("a.json", b"", "json")], {}, "is no extension of a sample"),
        ([PackItem("a.tar", b"", "tar.gz")], {}, "is no extension of a sample"),
        (items_of(1), {"name": "a b"}, "need letters"),
        (items_of(1), {"shard_bytes": 0}, "positive"),
        (items_of(1), {"how": {"folder": tmp_path}}, "cannot be recorded"),
    ):
        with pytest.raises(UserError, match=complaint):
            pack_to(dest, items, **changed)
        assert not dest.exists()


def test_a_sample_given_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="given twice"):
        pack_to(tmp_path, [*items_of(5), items_of(1)[0]])
    with pytest.raises(UserError, match="there is no dataset"):
        Dataset.open(str(tmp_path))


@given(st.text(min_size=0, max_size=60))
@settings(deadline=None)
def test_keys_are_safe_in_tars_and_shells_and_unlike_for_unlike_paths(path: str) -> None:
    path = path.encode("utf-8", "ignore").decode()
    key = key_of(path)
    assert key == key_of(path)
    assert key != key_of(path + "x")
    assert len(key) <= 60
    assert all(letter.isascii() and (letter.isalnum() or letter in "_-") for letter in key)
    assert key[0].isalnum()
    assert unquote_to_bytes(percent_encoded(path)).decode() == path


def test_file_names_that_are_no_unicode_survive() -> None:
    path = b"caf\xe9/\xff.jpg".decode("utf-8", "surrogateescape")
    built = build_shard(0, [PackItem(path, b"x", "jpg")])
    assert b'"path":"caf%E9/%FF.jpg"' in built.data
    assert built.rows[0].key.startswith("caf-")
