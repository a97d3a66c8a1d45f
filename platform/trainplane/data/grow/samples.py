"""Samples of a dataset that are stored again in another."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from urllib.parse import unquote_to_bytes

from trainplane.data.manifest import Dataset, Members
from trainplane.data.pack.shard_builder import PackItem
from trainplane.data.read.fetch import read_samples
from trainplane.errors import UserError

_AT_ONCE = 64  # samples in memory


def stored_again(dataset: Dataset, samples: Iterable[int], *, prefix: str = "") -> Iterator[PackItem]:
    """Yields samples as they were packed, checked.

    Args:
        dataset: That has them.
        samples: Their numbers.
        prefix: Goes before their paths, and so makes other keys.
    """
    numbers = list(samples)
    for start in range(0, len(numbers), _AT_ONCE):
        for members in read_samples(dataset, numbers[start : start + _AT_ONCE]):
            yield _item(dataset, members, prefix)


def _item(dataset: Dataset, members: Members, prefix: str) -> PackItem:
    extensions = [name for name in members if name != "json" and not name.startswith("__")]
    try:
        about = json.loads(members["json"])
        path = unquote_to_bytes(about.pop("path")).decode("utf-8", "surrogateescape")
    except (LookupError, ValueError, AttributeError, TypeError):
        extensions = []
    if len(extensions) != 1:
        key = os.fsdecode(members["__key__"])
        raise UserError(f"{dataset.address}: sample {key} was not packed by this program; leave it in its own dataset")
    return PackItem(prefix + path, members[extensions[0]], extensions[0], about)
