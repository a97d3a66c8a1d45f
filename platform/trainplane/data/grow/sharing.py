"""Finds the datasets that share the shards of another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trainplane.data.grow.lineage import lineage_of
from trainplane.data.manifest import Dataset
from trainplane.data.shard import is_inherited, joined


def shard_addresses(dataset: Dataset) -> Iterator[str]:
    """Yields the address of each shard of a dataset."""
    for shard in dataset.shards:
        store, key = dataset.shard_place(shard)
        yield f"{store.address}/{key}"


def parents_of(dataset: Dataset) -> list[str]:
    """Addresses of the datasets that one grew out of."""
    lineage = lineage_of(dataset)
    return [joined(dataset.address, parent.dataset) for parent in lineage.parents] if lineage else []


def sharers_of(address: str, datasets: Iterable[Dataset]) -> list[Dataset]:
    """Other datasets with shards in the folder `address`."""
    return [
        dataset
        for dataset in datasets
        if dataset.address != address and any(_lies_in(dataset, shard.name, address) for shard in dataset.shards)
    ]


def _lies_in(dataset: Dataset, name: str, address: str) -> bool:
    return is_inherited(name) and joined(dataset.address, name).rpartition("/")[0] == address
