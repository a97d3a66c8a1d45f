"""Waits until a cluster has nodes for a search's trials."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trainplane.cluster.autoscaler import NodeRequest
from trainplane.errors import UserError
from trainplane.search.policy.admission import TrialResources, admit

# More nodes may be on their way while the number of trials that fit still grows.
_SETTLED_S = 30.0


def wait_for_width(
    ray: Any,
    resources: TrialResources,
    *,
    trials: int,
    requested: int | None,
    limit_s: float,
    emit: Callable[[str], None],
) -> int:
    """Returns how many trials run at once.

    Where nodes are missing it waits for as many as were requested, and starts with fewer when no more have come for
    half a minute.

    Args:
        ray: The connected module.
        resources: Of one trial.
        trials: Most trials that the search can have.
        requested: `search.concurrent`.
        limit_s: Seconds to wait for nodes; with 0 the cluster is taken as it is.
        emit: Tells what is waited for.

    Raises:
        UserError: If not even one trial fits in time.
    """
    started = time.monotonic()
    request: NodeRequest | None = None
    width, since = 0, started
    try:
        while True:
            try:
                fitting = admit(resources, nodes=_nodes(ray), trials=trials, requested=requested)
            except UserError as error:
                fitting = 0
                if time.monotonic() - started >= limit_s:
                    raise
                if request is None:
                    at_once = min(trials, requested or 1)
                    request = NodeRequest(_bundles(resources) * at_once)
                    emit(f"waiting up to {limit_s / 60:g} min for nodes: {error}")
            if fitting != width:
                width, since = fitting, time.monotonic()
            settled = time.monotonic() - since > _SETTLED_S
            if width and (request is None or request.is_met() or width == requested or settled):
                return width
            time.sleep(0.5)
    finally:
        if request is not None:
            request.cancel()


def fitting_now(ray: Any, resources: TrialResources, *, trials: int, requested: int | None) -> int:
    """Number of trials that fit the cluster now."""
    try:
        return admit(resources, nodes=_nodes(ray), trials=trials, requested=requested)
    except UserError:
        return 0


def _nodes(ray: Any) -> list[tuple[float, float]]:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]


def _bundles(resources: TrialResources) -> list[dict[str, float]]:
    worker = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        worker["GPU"] = resources.gpus_per_worker
    own = [{"CPU": resources.own_cpus}] if resources.is_group else []
    return [worker] * resources.required_workers + own
