"""Work in shares on a Ray cluster: some at once, results as they come, our own sentences as errors.

What a task needs is put into the object store once; a worker process opens the model at its first share and keeps it.
Not here: what is done with a share (scoring.py, inpaint_batch.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from jobs.model_ref import Model, open_model
from trainplane.cluster.context import Context
from trainplane.cluster.session import in_ray_job, ray_session


def tasks_wanted(parallel: int | None) -> int:
    """Ray tasks at once, as `--parallel` says; 0: this process. In a job of a cluster all its processors."""
    if parallel is not None or not in_ray_job():
        return parallel or 0
    with ray_session() as ray:
        return max(1, int(ray.cluster_resources().get("CPU", 1)))


def shares_done(work: Callable[..., Any], held: Any, shares: Sequence[Any], *, tasks: int) -> Iterator[Any]:
    """`work(held, share)` for every share, `tasks` at once; results in the order in which they come.

    A task that a lost worker takes with it is done again.
    """
    with ray_session(num_cpus=tasks) as ray:
        task = ray.remote(num_cpus=1, max_retries=3)(work)
        common = ray.put(held)
        waiting = list(reversed(shares))
        under_way: list[Any] = []
        try:
            while waiting or under_way:
                while waiting and len(under_way) < 2 * tasks:
                    under_way.append(task.remote(common, waiting.pop()))
                done, under_way = ray.wait(under_way, num_returns=1)
                yield _result(ray, done[0])
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        # Our sentences come back as themselves, without Ray's account of where they were said.
        raise error.cause from None


def portable(context: Context) -> tuple[Context, dict[str, str]]:
    """The context for another process, and the variables it needs to reach the same places: nothing secret, which is
    the cluster's own matter."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    found = {name: os.environ[name] for name in names if name in os.environ}
    return replace(context, environment={}), {**found, "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}


_OPENED: dict[str, Model] = {}


@contextmanager
def worker_model(address: str, place: tuple[Context, dict[str, str]]) -> Iterator[Model]:
    """The model in a worker process: opened at the first share, one at a time."""
    context, environment = place
    os.environ.update(environment)
    if address not in _OPENED:
        _OPENED.clear()
        # A task has one processor.
        torch.set_num_threads(1)
        _OPENED[address] = open_model(address, context)
    yield _OPENED[address]
