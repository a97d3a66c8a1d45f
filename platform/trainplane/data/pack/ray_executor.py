"""The work of a packing as Ray tasks: pictures go from the tasks that prepare them to those that store them.

The leading process sees outcomes and findings; prepared pictures stay in Ray's object store until their shard is
stored. Tasks that a lost worker takes with it are done again by Ray: the same bytes come of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainplane.data.pack.destination import Finished, Place, Range
from trainplane.data.pack.executor import Crew, Entry, prepare, store_shard
from trainplane.data.pack.sharding import Cut, Outcome
from trainplane.data.shards import PackItem

# What tasks need to reach the same store, apart from secrets: those are the cluster's own matter.
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
)


class Tasks(Crew):
    """`count` tasks at once on the connected cluster."""

    def __init__(self, ray: Any, count: int) -> None:
        # As many units again wait for their turn, so that no processor waits for the leader.
        self.units = 2 * count
        self.shards = count
        self._ray = ray
        self._environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._prepare = ray.remote(num_cpus=1, num_returns=2, max_retries=3)(_prepare)
        self._store = ray.remote(num_cpus=1, max_retries=3)(_store)
        self._under_way: dict[Any, None] = {}

    def begin_unit(self, entries: Sequence[Entry]) -> Any:
        outcomes, items = self._prepare.remote(list(entries))
        self._under_way[outcomes] = None
        return outcomes, items

    def outcomes(self, unit: Any) -> Sequence[Outcome]:
        found: Sequence[Outcome] = self._result(unit[0])
        return found

    def begin_shard(self, place: Place, cut: Cut, where: Range, units: Mapping[int, Any]) -> Any:
        items = [items for _, items in units.values()]
        shard = self._store.remote(self._environment, place, cut, where, list(units), *items)
        self._under_way[shard] = None
        return shard

    def finished(self, shard: Any) -> Finished:
        found: Finished = self._result(shard)
        return found

    def stop(self) -> None:
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        if self._under_way:
            self._ray.wait(list(self._under_way), num_returns=len(self._under_way), timeout=30)
        self._under_way.clear()

    def _result(self, reference: Any) -> Any:
        try:
            found = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            # Our sentences come back as themselves, without Ray's account of where they were said.
            raise error.cause from None
        finally:
            self._under_way.pop(reference, None)
        return found


def _prepare(entries: Sequence[Entry]) -> tuple[list[Outcome], list[PackItem | None]]:
    return prepare(entries)


def _store(
    environment: Mapping[str, str],
    place: Place,
    cut: Cut,
    where: Range,
    numbers: Sequence[int],
    *items: list[PackItem | None],
) -> Finished:
    os.environ.update(environment)
    return store_shard(place, cut, where, dict(zip(numbers, items, strict=True)))
