"""Executor that runs a packing as Ray tasks.

Prepared samples stay in Ray's object store, from the task that prepares them to the one that stores their shard. Ray
repeats the tasks of a lost worker; they give the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from trainplane.cluster.ray_tasks import portable_environment, task_result
from trainplane.data.pack.destination import ListingRange, PackedRange, ShardWriter
from trainplane.data.pack.executor import Entry, PackExecutor, prepare, store_shard
from trainplane.data.pack.shard_builder import PackItem
from trainplane.data.pack.sharding import Outcome, ShardPlan


class RayExecutor(PackExecutor):
    """Runs up to `count` tasks on the connected cluster."""

    def __init__(self, ray: Any, count: int) -> None:
        # Twice as many units as tasks, so that no processor waits for the leading process.
        self.max_units = 2 * count
        self.max_shards = count
        self._ray = ray
        self._environment = portable_environment()
        self._prepare = ray.remote(num_cpus=1, num_returns=2, max_retries=3)(prepare)
        self._store = ray.remote(num_cpus=1, max_retries=3)(_store)
        self._in_progress: dict[Any, None] = {}

    def start_unit(self, entries: Sequence[Entry]) -> Any:
        """Starts a task that prepares the entries."""
        outcomes, items = self._prepare.remote(list(entries))
        self._in_progress[outcomes] = None
        return outcomes, items

    def outcomes(self, unit: Any) -> Sequence[Outcome]:
        """Waits for the task of a unit."""
        outcomes: Sequence[Outcome] = self._result(unit[0])
        return outcomes

    def start_shard(self, writer: ShardWriter, plan: ShardPlan, entries: ListingRange, units: Mapping[int, Any]) -> Any:
        """Starts a task that builds and stores the shard."""
        # As arguments of their own, so that Ray hands the items over and they never come here.
        items = [items for _, items in units.values()]
        shard = self._store.remote(self._environment, writer, plan, entries, list(units), *items)
        self._in_progress[shard] = None
        return shard

    def stored(self, shard: Any) -> PackedRange:
        """Waits for the task of a shard."""
        packed: PackedRange = self._result(shard)
        return packed

    def stop(self) -> None:
        """Cancels all tasks and waits until they end."""
        for reference in self._in_progress:
            self._ray.cancel(reference, force=True)
        if self._in_progress:
            self._ray.wait(list(self._in_progress), num_returns=len(self._in_progress), timeout=30)
        self._in_progress.clear()

    def _result(self, reference: Any) -> Any:
        try:
            return task_result(self._ray, reference)
        finally:
            self._in_progress.pop(reference, None)


def _store(
    environment: Mapping[str, str],
    writer: ShardWriter,
    plan: ShardPlan,
    entries: ListingRange,
    numbers: Sequence[int],
    *items: list[PackItem | None],
) -> PackedRange:
    os.environ.update(environment)
    return store_shard(writer, plan, entries, dict(zip(numbers, items, strict=True)))
