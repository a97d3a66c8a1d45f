"""A version shares the shards of the one before, reads as any dataset, and is all or nothing."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_datasets import make

from trainplane.data.grow.derive import check_same_kind, derive
from trainplane.data.grow.inheritance import Inheritance, whole
from trainplane.data.grow.lineage import lineage_of
from trainplane.data.manifest import Dataset
from trainplane.data.pack.shard_builder import PackItem
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.data.read.fetch import Fetcher, read_samples
from trainplane.data.verify import repair, verify
from trainplane.errors import UserError
from trainplane.storage import open_store

NEW = [PackItem(f"new/{n}.png", bytes([n]) * 900, "png", {"n": 1000 + n}) for n in range(60)]


def add(dataset: Dataset, new: list[PackItem], number: int = 2) -> Dataset:
    target = f"{dataset.address}/versions/{number:06d}"
    return derive([whole(dataset)], target, how="add", name=dataset.name, entries=new)


def files(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_a_grown_dataset_has_the_old_samples_and_the_new_ones_and_copies_none(tmp_path: Path) -> None:
    old = make(tmp_path / "mine", 80)
    before = files(old.address)
    new = add(old, NEW)
    after = files(old.address)
    assert {path: after[path] for path in before} == before
    written = sum(len(data) for path, data in after.items() if path not in before and path.endswith(".tar"))
    assert written == new.bytes - old.bytes
    expected = read_samples(old, range(80))
    assert read_samples(new, range(80)) == expected
    assert [sample["png"] for sample in read_samples(new, range(80, 140))] == [item.data for item in NEW]
    assert verify(new) == []
    lineage = lineage_of(new)
    assert lineage is not None
    assert (lineage.how, lineage.ancestors, lineage.parents[0].dataset) == ("add", (old.digest,), "../..")
    # Every epoch has every sample of the version once.
    order = new.order(seed=3, global_batch=4)
    assert sorted(sample for step in range(35) for sample in order.batch(step)) == list(range(140))


def test_damage_in_a_shared_shard_is_named_by_its_place_and_repaired(tmp_path: Path) -> None:
    old = make(tmp_path / "mine", 40)
    add(old, NEW)
    for path, data in files(old.address).items():
        copy = tmp_path / "copy" / Path(path).relative_to(old.address)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(data)
    new = Dataset.open(f"{old.address}/versions/000002")
    shard = Path(old.address) / old.shards[0].name
    shard.write_bytes(shard.read_bytes()[:-2048])
    assert {damage.shard for damage in verify(new)} == {f"../../{shard.name}"}
    damage, left = repair(new, open_store(f"{tmp_path}/copy/versions/000002"))
    assert damage
    assert not left
    assert verify(old) == []


def test_the_cache_serves_shared_shards(tmp_path: Path) -> None:
    old = make(tmp_path / "mine", 40)
    address = add(old, NEW).address
    cached = Dataset.open(address, cache=CacheConfig(str(tmp_path / "cache"), 1 << 30))
    first = read_samples(cached, range(100))
    for path in Path(old.address).rglob("*.tar"):
        path.unlink()
    with Fetcher(cached):
        assert read_samples(cached, range(100)) == first


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kept=st.sets(st.integers(0, 59), min_size=1), again=st.sets(st.integers(0, 59)))
def test_any_choice_of_samples_is_a_sound_dataset(tmp_path: Path, kept: set[int], again: set[int]) -> None:
    old = make(tmp_path / "mine", 60)
    mask = np.isin(np.arange(60), sorted(kept))
    name = f"{tmp_path}/{abs(hash((frozenset(kept), frozenset(again))))}"
    chosen = derive([Inheritance(old, mask)], name, how="subset", name="part")
    assert verify(chosen) == []
    expected = [sample["__key__"] for sample in read_samples(old, sorted(kept))]
    assert [sample["__key__"] for sample in read_samples(chosen, range(chosen.num_samples))] == expected
    # A part of a part is a part, and names its shards by one name only.
    both = np.isin(sorted(kept), sorted(again))
    if both.any():
        less = derive([Inheritance(chosen, both)], f"{name}-less", how="subset", name="less")
        assert verify(less) == []
        assert {shard.name for shard in less.shards} <= {f"../mine/{shard.name}" for shard in old.shards}
        assert lineage_of(less).ancestors == (old.digest, chosen.digest)  # type: ignore[union-attr]


def _killed_at(count: int, folder: str, where: str) -> None:
    """Adds in a child process that dies at its `count`-th write."""
    link, calls = os.link, [0]

    def counted(*args: Any, **options: Any) -> None:
        calls[0] += 1
        if calls[0] == count and where == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        link(*args, **options)
        if calls[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        os.link = counted
        add(Dataset.open(folder), NEW)
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_at_any_write_the_old_version_stays_and_the_new_one_comes_out_the_same(
    tmp_path: Path, where: str
) -> None:
    old = make(tmp_path / "whole", 40)
    expected = add(old, NEW).digest
    # A lease, then shard and note of each of the two shards, index and manifest.
    for count in range(1 + (where == "after"), 8, 2):
        folder = str(tmp_path / f"{where}-{count}")
        copy = make(folder, 40)
        before = files(folder)
        _killed_at(count, folder, where)
        after = files(folder)
        assert {path: after[path] for path in before} == before
        assert Dataset.open(folder).digest == copy.digest
        assert add(copy, NEW).digest == expected
        assert verify(Dataset.open(f"{folder}/versions/000002")) == []


def test_sets_of_other_sides_or_kinds_do_not_merge(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a", 10), make(tmp_path / "b", 10, seed=1)

    def named(**changes: Any) -> Dataset:
        return Dataset(second.store, replace(second.manifest, name="b", **changes))

    check_same_kind(first, named())
    for changes in ({"split": "val"}, {"packed": {"shares": "train=90,val=10"}}):
        with pytest.raises(UserError, match="a photo could change its side; merge sets that were packed alike"):
            check_same_kind(first, named(**changes))
    with pytest.raises(UserError, match="has layout none and b has places2: they do not mix"):
        check_same_kind(first, named(packed={"layout": "places2"}))
    with pytest.raises(UserError, match="are the same dataset"):
        check_same_kind(first, first)


def test_shards_of_another_bucket_are_not_shared(tmp_path: Path) -> None:
    old = make(tmp_path / "mine", 10)
    with pytest.raises(UserError, match="is in another store than s3://bucket/mine, so its shards cannot be shared"):
        derive([whole(old)], "s3://bucket/mine", how="subset", name="mine")


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "a/../shard-000000.tar", "../x/../shard-000000.tar", "/shard-000000.tar"]
)
def test_a_manifest_cannot_lead_elsewhere(tmp_path: Path, name: str) -> None:
    old = make(tmp_path / "mine", 10)
    shards = (replace(old.shards[0], name=name), *old.shards[1:])
    old.store.write("manifest.json", replace(old.manifest, shards=shards).to_json())
    with pytest.raises(UserError, match="it names a shard"):
        Dataset.open(old.address)
