"""Lists the datasets of a store, and their pictures' sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from trainplane.data.damage import DamageError
from trainplane.data.manifest import Dataset
from trainplane.data.named import dataset_names
from trainplane.errors import UserError
from trainplane.storage import NotFound, StorageError

# Samples whose sizes are read, evenly spread: each is a small request to the store.
LOOKED_AT = 32


@dataclass(frozen=True)
class Listed:
    """A dataset in a store's list."""

    name: str  # as commands take it
    dataset: Dataset | None  # None if it cannot be opened
    fault: str = ""  # why


@dataclass(frozen=True)
class PictureSizes:
    """Sizes of some pictures, (width, height) in pixels."""

    smallest: tuple[int, int]
    largest: tuple[int, int]
    looked_at: int  # pictures


def list_datasets(address: str) -> Iterator[Listed]:
    """Yields the datasets below a store's address, by name."""
    for name in dataset_names(address):
        try:
            yield Listed(name, Dataset.open(f"{address}/{name}"))
        except (UserError, StorageError) as error:
            yield Listed(name, None, str(error))


def picture_sizes(dataset: Dataset) -> PictureSizes | None:
    """Reads the sizes that packing recorded.

    None for a dataset without them, or one whose index is damaged: `isnet data verify` tells about that.
    """
    try:
        index = dataset.index
    except (DamageError, StorageError):
        return None
    count = min(LOOKED_AT, dataset.num_samples)
    sizes = []
    for sample in sorted({number * (dataset.num_samples - 1) // max(1, count - 1) for number in range(count)}):
        shard = dataset.manifest.shards[index.shard_of(sample)]
        about = next((member for member in index.members_of(sample) if member.extension == "json"), None)
        if about is None:
            continue
        try:
            facts = json.loads(dataset.store.read(shard.name, start=about.offset, length=about.size))
            sizes.append((int(facts["width"]), int(facts["height"])))
        except (ValueError, LookupError, TypeError, NotFound, StorageError):
            continue
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return PictureSizes(by_area[0], by_area[-1], len(sizes))
