"""Processors that a command on data uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainplane.cluster.ray_session import in_ray_job, ray_session


@contextmanager
def cluster_tasks(parallel: int | None) -> Iterator[tuple[Any, int] | None]:
    """Connects to Ray, for so many tasks; None: this process."""
    if not (parallel or (parallel is None and in_ray_job())):
        yield None
        return
    # In a job of a cluster the default is a task for each processor.
    with ray_session(num_cpus=parallel) as ray:
        yield ray, parallel or int(ray.cluster_resources().get("CPU", 1))
