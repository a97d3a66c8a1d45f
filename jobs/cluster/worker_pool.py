"""Pool of Ray workers that process shares of one task.

Results arrive in the order in which shares are finished. Data that all shares need goes to the object store once; a
worker process loads the model at its first share and keeps it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job, ray_session
from trainplane.cluster.ray_tasks import portable_environment, task_result
from trainplane.errors import RunFailed

# One reads, decodes and measures while the other computes.
TASKS_PER_GPU = 2
# Attempts at a share whose process is lost each time: after that, the share is taken for the cause.
ATTEMPTS = 4


def task_count(parallel: int | None) -> int:
    """Number of Ray tasks at once; 0 uses this process."""
    if parallel is not None or not in_ray_job():
        return parallel or 0
    # Without the option `--parallel`, a job of a cluster fills its cluster.
    with ray_session() as ray:
        return tasks_for(ray.cluster_resources())


def tasks_for(resources: Mapping[str, float]) -> int:
    """Number of tasks that fill a cluster; at least one."""
    return max(1, TASKS_PER_GPU * int(resources.get("GPU", 0)) or int(resources.get("CPU", 0)))


def resources_per_task(tasks: int, cluster: Mapping[str, float]) -> dict[str, float]:
    """Resources that each task requests.

    Without a request, a task would see no GPU, or one that a training has reserved.
    """
    gpus = int(cluster.get("GPU", 0))
    # A fraction 1/n, because no task spans two GPUs: 3 tasks on 2 GPUs request a half each.
    return {"CPU": 1.0, "GPU": 1.0 / math.ceil(tasks / gpus)} if gpus else {"CPU": 1.0}


def capacity_message(request: Mapping[str, float], available: Mapping[str, float]) -> str | None:
    """Explains which resources a task waits for, if any."""
    short = [name for name, amount in request.items() if available.get(name, 0.0) < amount]
    if not short:
        return None
    resources = " and ".join(f"{request[name]:g} {name} ({available.get(name, 0.0):g} free)" for name in short)
    return f"waits until the cluster has {resources} for a task"


def run_shares(work: Callable[..., Any], common: Any, shares: Sequence[Any], *, tasks: int) -> Iterator[Any]:
    """Yields `work(common, share)` of every share, as completed.

    A share whose process is lost is repeated by another one. Raises `RunFailed` if `ATTEMPTS` processes in a row were
    lost at one share, or before their first one.
    """
    with ray_session(num_cpus=tasks) as ray:
        resources = resources_per_task(tasks, ray.cluster_resources())
        if (message := capacity_message(resources, ray.available_resources())) is not None:
            print(message, file=sys.stderr)
        # Actors, because Ray ends the process of a task that had a GPU, and the next share would load the model again.
        worker = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(_Worker)
        # Queue of (share, attempt); the next one is popped from its end.
        common_ref, waiting = ray.put(common), [(share, 1) for share in reversed(shares)]
        # By reference of a result: its actor, and (share, attempt), or None while the actor only starts.
        pending: dict[Any, tuple[Any, tuple[Any, int] | None]] = {}

        def start_worker() -> None:
            actor = worker.remote(work)
            pending[actor.ready.remote()] = actor, None

        for _ in range(min(tasks, len(shares))):
            start_worker()
        unfinished, failed_starts = len(shares), 0
        try:
            while unfinished:
                (reference,), _ = ray.wait(list(pending), num_returns=1)
                actor, assignment = pending.pop(reference)
                try:
                    result = task_result(ray, reference)
                except _lost_process(ray) as error:
                    failed_starts += 0 if assignment else 1
                    if (assignment[1] if assignment else failed_starts) >= ATTEMPTS:
                        what = "at the same work" if assignment else "before they began"
                        raise RunFailed(f"{ATTEMPTS} processes in a row were lost {what}: {error}") from error
                    waiting += [(assignment[0], assignment[1] + 1)] if assignment else []
                    start_worker()
                    continue
                failed_starts = 0
                # The worker gets its next share before the caller uses this result.
                if waiting:
                    share = waiting.pop()
                    pending[actor.do.remote(common_ref, share[0])] = actor, share
                if assignment:
                    unfinished -= 1
                    yield result
        finally:
            for actor, _ in pending.values():
                ray.kill(actor)


def portable_context(context: Context) -> tuple[Context, dict[str, str]]:
    """Context and variables for another process, without secrets."""
    # Credentials are set on the cluster's nodes.
    return replace(context, environment={}), portable_environment()


def _lost_process(ray: Any) -> tuple[type[Exception], ...]:
    """Ray's errors for a lost process; its work's errors differ."""
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.WorkerCrashedError,
        errors.NodeDiedError,
        errors.OutOfMemoryError,
        errors.ObjectLostError,
    )


class _Worker:
    """Worker process for one share after the other."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work = work

    def ready(self) -> None:
        """Returns once the process runs."""

    def do(self, common: Any, share: Any) -> Any:
        return self._work(common, share)
