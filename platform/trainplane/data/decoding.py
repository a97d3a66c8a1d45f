"""What a sample that is stored as it was packed, and yet cannot be read by the task, is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from trainplane.data.damage import UNDECODABLE, Damage, DamageError
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError


def undecodable(dataset: Dataset, sample: int, error: ValueError) -> Damage:
    """Sample number `sample` as damage, because decoding it raised `error`."""
    shard = dataset.shards[dataset.index.shard_of(sample)].name
    return Damage(shard, dataset.index.key_of(sample), UNDECODABLE, str(error))


@contextmanager
def decoding(dataset: Dataset, sample: int) -> Iterator[None]:
    """Around the decoding of one sample that nothing may stand in for.

    A `ValueError` becomes a `DamageError` that names dataset, shard and key; a `UserError` is about something else, and
    stays.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        remedy = dataset.remedy("repair the picture and pack again, or pack without it")
        raise DamageError(dataset.address, [undecodable(dataset, sample, error)], remedy) from error
