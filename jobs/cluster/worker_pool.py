"""Work in shares on a Ray cluster: some at once, results as they come, our own sentences as errors.

What a task needs is put into the object store once; a worker process opens the model at its first share and keeps it.
Not here: what is done with a share (scoring.py, inpaint_batch.py).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job, ray_session
from trainplane.errors import RunFailed

# One reads, decodes and measures while the other computes.
TASKS_PER_GPU = 2
# Of a share whose process is lost each time, before it is taken for what loses them.
ATTEMPTS = 4


def tasks_wanted(parallel: int | None) -> int:
    """Ray tasks at once, as `--parallel` says; 0: this process. In a job of a cluster as many as it has room for."""
    if parallel is not None or not in_ray_job():
        return parallel or 0
    with ray_session() as ray:
        return tasks_for(ray.cluster_resources())


def tasks_for(cluster: Mapping[str, float]) -> int:
    """Tasks that fill a cluster of these resources: two a GPU or, where there are none, one a processor."""
    return max(1, TASKS_PER_GPU * int(cluster.get("GPU", 0)) or int(cluster.get("CPU", 0)))


def needs_of_each(tasks: int, cluster: Mapping[str, float]) -> dict[str, float]:
    """What each of so many tasks asks of Ray: a processor and, where there are GPUs, its part of one.

    Without asking, a task would see no GPU, or one that a training has for itself.
    """
    gpus = int(cluster.get("GPU", 0))
    # Not tasks' exact part: 3 tasks on 2 GPUs ask for a half each, because no task spans two.
    return {"CPU": 1.0, "GPU": 1.0 / math.ceil(tasks / gpus)} if gpus else {"CPU": 1.0}


def waits_for(needs: Mapping[str, float], free: Mapping[str, float]) -> str | None:
    """What nobody on the cluster has to spare just now, as a sentence; None where a task can begin."""
    short = [name for name, amount in needs.items() if free.get(name, 0.0) < amount]
    if not short:
        return None
    wanted = " and ".join(f"{needs[name]:g} {name} ({free.get(name, 0.0):g} free)" for name in short)
    return f"waits until the cluster has {wanted} for a task"


def shares_done(work: Callable[..., Any], held: Any, shares: Sequence[Any], *, tasks: int) -> Iterator[Any]:
    """`work(held, share)` for every share, in `tasks` processes; results in the order in which they come.

    A share goes to a process that is ready for it. One whose process is lost is done again by another; after
    `ATTEMPTS` it is a `RunFailed`.
    """
    with ray_session(num_cpus=tasks) as ray:
        needs = needs_of_each(tasks, ray.cluster_resources())
        if (sentence := waits_for(needs, ray.available_resources())) is not None:
            print(sentence, file=sys.stderr)
        # Actors, because Ray ends the process of a task that had a GPU, and the next share would open the model anew.
        worker = ray.remote(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))(_Worker)
        common, waiting = ray.put(held), [(share, 1) for share in reversed(shares)]
        # The actor behind each answer, and the share that it was given with its attempt; none where it only starts.
        under_way: dict[Any, tuple[Any, tuple[Any, int] | None]] = {}

        def start() -> None:
            actor = worker.remote(work)
            under_way[actor.ready.remote()] = actor, None

        for _ in range(min(tasks, len(shares))):
            start()
        left, failed_starts = len(shares), 0
        try:
            while left:
                (reference,), _ = ray.wait(list(under_way), num_returns=1)
                actor, given = under_way.pop(reference)
                try:
                    result = _result(ray, reference)
                except _lost(ray) as error:
                    failed_starts += 0 if given else 1
                    if (given[1] if given else failed_starts) >= ATTEMPTS:
                        what = "at the same work" if given else "before they began"
                        raise RunFailed(f"{ATTEMPTS} processes in a row were lost {what}: {error}") from error
                    waiting += [(given[0], given[1] + 1)] if given else []
                    start()
                    continue
                failed_starts = 0
                if waiting:
                    share = waiting.pop()
                    under_way[actor.do.remote(common, share[0])] = actor, share
                if given:
                    left -= 1
                    yield result
        finally:
            for actor, _ in under_way.values():
                ray.kill(actor)


def _lost(ray: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where a process is gone, and not where its work raised."""
    found = ray.exceptions
    return (
        found.RayActorError,
        found.WorkerCrashedError,
        found.NodeDiedError,
        found.OutOfMemoryError,
        found.ObjectLostError,
    )


class _Worker:
    """A process that does one share after the other."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work

    def ready(self) -> None:
        """Answers once the process is there."""

    def do(self, held: Any, share: Any) -> Any:
        return self._work(held, share)


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
