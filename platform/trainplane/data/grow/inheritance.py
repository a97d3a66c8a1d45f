"""Shards and rows that a dataset shares with another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from trainplane.data.index import index_rows
from trainplane.data.manifest import Dataset
from trainplane.data.shard import Shard, relative_name
from trainplane.errors import UserError

Mask: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"


@dataclass(frozen=True)
class Inheritance:
    """Samples of another dataset, by the shards that hold them."""

    dataset: Dataset  # that has them
    keeps: Mask  # bool (samples,): which of them

    def shards(self, address: str) -> Iterator[tuple[Shard, pa.Table]]:
        """Yields shards and rows for the dataset at `address`.

        A shard of which nothing is kept is left out.
        """
        index = self.dataset.index
        for number, rows in enumerate(index_rows(self.dataset.index_bytes())):
            samples = index.samples_of(number)
            mask = self.keeps[samples.start : samples.stop]
            count = int(mask.sum())
            if not count:
                continue
            shard = self.dataset.shards[number]
            store, key = self.dataset.shard_place(shard)
            name = relative_name(f"{store.address}/{key}", address)
            if name is None:
                raise other_store(self.dataset, address)
            if count < len(mask):
                rows = rows.filter(pa.array(mask))
            rows = rows.set_column(0, "shard", pa.array([name] * count, pa.string()))
            yield replace(shard, name=name, samples=count), rows


def whole(dataset: Dataset) -> Inheritance:
    """All samples of a dataset."""
    return Inheritance(dataset, np.ones(dataset.num_samples, dtype=np.bool_))


def other_store(dataset: Dataset, address: str) -> UserError:
    """Error about a dataset whose shards cannot be shared."""
    return UserError(
        f"{dataset.address} is in another store than {address}, so its shards cannot be shared; "
        "copy its folder beside the other dataset first"
    )
