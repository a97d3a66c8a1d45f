"""Lists the datasets of a store, and their pictures' sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from trainplane.command_line import command_line
from trainplane.data.damage import DamageError
from trainplane.data.grow.sharing import sharers_of
from trainplane.data.grow.versions import all_versions, find_version, pinned
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
            yield Listed(name, Dataset.open(find_version(f"{address}/{name}")))
        except (UserError, StorageError) as error:
            yield Listed(name, None, str(error))


def check_replaceable(address: str, store: str) -> None:
    """Raises `UserError` where other datasets have shards at `address`.

    Args:
        address: of a dataset that is to be replaced.
        store: address of the datasets to look at.
    """
    datasets = [listed.dataset for listed in list_datasets(store) if listed.dataset is not None]
    datasets += [Dataset.open(version.address) for version in all_versions(address) if version.number > 1]
    if sharers := sorted({pinned(dataset.address) for dataset in sharers_of(address, datasets)}):
        add = command_line("data", "add", address.rpartition("/")[2], "SRC")
        raise UserError(
            f"{address} cannot be replaced: {', '.join(sharers)} {'have' if len(sharers) > 1 else 'has'} shards there; "
            f"pack under another name, or add the photos to it: `{add}`"
        )


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
            store, key = dataset.shard_place(shard)
            facts = json.loads(store.read(key, start=about.offset, length=about.size))
            sizes.append((int(facts["width"]), int(facts["height"])))
        except (ValueError, LookupError, TypeError, NotFound, StorageError):
            continue
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: size[0] * size[1])
    return PictureSizes(by_area[0], by_area[-1], len(sizes))
