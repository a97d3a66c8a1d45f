"""A plain name means the newest version; `@` means one that stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import items, make

from trainplane.cluster.context import local
from trainplane.data.grow.derive import derive
from trainplane.data.grow.inheritance import whole
from trainplane.data.grow.sharing import parents_of, shard_addresses, sharers_of
from trainplane.data.grow.versions import VersionName, find_version, next_version, pinned
from trainplane.data.manifest import Dataset, NoDataset
from trainplane.data.named import dataset_names, open_dataset


def grown(dataset: Dataset, more: int, *, seed: int) -> Dataset:
    root = VersionName.of(dataset.address).root
    new = [item.__class__(f"v{seed}/{item.source}", item.data, "png", item.extra) for item in items(more, seed=seed)]
    return derive([whole(dataset)], next_version(root).address, how="add", name=dataset.name, entries=new)


def test_a_name_means_the_newest_version_and_a_number_or_digest_one_that_stays(tmp_path: Path) -> None:
    context = local(tmp_path)
    first = make(f"{context.datasets}/mine", 20)
    assert pinned(first.address) == first.address
    second = grown(first, 3, seed=1)
    third = grown(second, 2, seed=2)
    assert [data.num_samples for data in (first, second, third)] == [20, 23, 25]
    assert open_dataset("mine", context).digest == third.digest
    for number, version in enumerate((first, second, third), start=1):
        assert open_dataset(f"mine@{number}", context).digest == version.digest
        assert open_dataset(f"mine@{version.digest[:12]}", context).digest == version.digest
        # Runs hold the folder of the version that they saw.
        assert Dataset.open(version.address, expected_digest=version.digest).address == version.address
        assert find_version(pinned(version.address)) == version.address
    assert dataset_names(context.datasets) == ["mine@1", "mine@2", "mine@3"]


def test_an_unknown_version_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    first = make(tmp_path / "mine", 10)
    grown(first, 3, seed=1)
    with pytest.raises(NoDataset, match=r"no version 7 \(there is: @1, @2\); name one of these"):
        find_version(f"{first.address}@7")
    with pytest.raises(
        NoDataset, match=rf"no version has the digest 0123456789ab \(there is: @1 is {first.digest[:12]}"
    ):
        find_version(f"{first.address}@0123456789abcdef")


def test_who_shares_the_shards_of_a_dataset_is_known(tmp_path: Path) -> None:
    first = make(tmp_path / "mine", 20)
    second = grown(first, 3, seed=1)
    third = grown(second, 3, seed=2)
    other = make(tmp_path / "other", 5, seed=9)
    everything = [first, second, third, other]
    assert sharers_of(first.address, everything) == [second, third]
    assert sharers_of(second.address, everything) == [third]
    assert sharers_of(third.address, everything) == sharers_of(other.address, everything) == []
    assert parents_of(third) == [second.address]
    assert set(shard_addresses(first)) < set(shard_addresses(second)) < set(shard_addresses(third))
