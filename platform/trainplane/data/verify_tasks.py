"""Checks a dataset by Ray tasks, one a shard."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from trainplane.cluster.ray_tasks import portable_environment, task_result
from trainplane.data.damage import Damage
from trainplane.data.index import Index
from trainplane.data.manifest import Dataset
from trainplane.data.verify import ShardChecks, damage_of_shard


def checks_by_tasks(ray: Any, count: int) -> ShardChecks:
    """Checks `count` shards at once on the connected cluster.

    Each task has one shard in memory, and the index that all processes of its host share.
    """
    environment = portable_environment()
    task = ray.remote(num_cpus=1, max_retries=3)(_check)

    def check(dataset: Dataset, index: Index | None) -> Iterator[list[Damage]]:
        shared, running = ray.put(dataset), deque[Any]()
        try:
            for number in range(dataset.num_shards):
                running.append(task.remote(environment, shared, number, index is not None))
                # As many again wait, so that no processor does.
                if len(running) == 2 * count:
                    yield task_result(ray, running.popleft())
            while running:
                yield task_result(ray, running.popleft())
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    return check


def _check(environment: Mapping[str, str], dataset: Dataset, number: int, has_index: bool) -> list[Damage]:
    os.environ.update(environment)
    return damage_of_shard(dataset, number, dataset.index if has_index else None)
