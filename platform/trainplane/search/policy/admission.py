"""Pure arithmetic: how many trials of a search may run at once on a cluster, so that none waits for ever.

A trial of one worker is that worker. A trial of several holds a sliver of a CPU for its own process while its workers,
which Ray Train starts, need theirs beside it; started without counting, trials take every CPU and no worker ever
starts (ray#54305). Nodes are counted one by one, since a worker cannot be half here and half there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainplane.errors import UserError

# Ray rejects a trial that needs nothing at all; this much it may hold.
TRIAL_CPUS = 0.01
_EPSILON = 1e-9

Node = tuple[float, float]
"""CPUs and GPUs of a node."""


@dataclass(frozen=True)
class TrialResources:
    """What one trial occupies while it runs. An elastic one starts with `min_workers` where there is no more room."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0
    min_workers: int | None = None

    @property
    def least(self) -> int:
        """Workers without which a trial does not start."""
        return min(self.min_workers or self.workers, self.workers)

    @property
    def is_group(self) -> bool:
        """Whether its workers are processes beside the trial's own."""
        return self.workers > 1

    @property
    def own_cpus(self) -> float:
        """CPUs of the trial's own process."""
        return TRIAL_CPUS if self.is_group else self.cpus_per_worker

    @property
    def cpus(self) -> float:
        return TRIAL_CPUS + self.workers * self.cpus_per_worker if self.is_group else self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker


def admit(need: TrialResources, *, nodes: Sequence[Node], trials: int, requested: int | None) -> int:
    """How many trials to run at once: as many as fit, at most `wanted` and `trials`.

    Each gets all its workers where that is possible for one at least; elastic ones share where it is not. Raises
    `UserError`, with the arithmetic and the smallest change that fits, where not even one has room.
    """
    fits = fitting(need, nodes, workers=need.workers) or fitting(need, nodes, workers=need.least)
    if fits < 1:
        raise UserError(_refusal(need, nodes))
    return min(fits, trials, requested or fits)


def fitting(need: TrialResources, nodes: Sequence[Node], *, workers: int) -> int:
    """The largest number of trials, of so many workers each, that all find room whatever order they are placed in.

    The trials' own slivers may all lie on the node where they hurt most.
    """
    most = sum(_slots(need, node, 0) for node in nodes) // workers
    for count in range(most, 0, -1):
        slivers = count if need.is_group else 0
        room = sum(_slots(need, node, 0) for node in nodes)
        # Each node that the slivers eat into may lose a worker, and there are no more such nodes than slivers.
        losses = sorted((_slots(need, node, 0) - _slots(need, node, slivers) for node in nodes), reverse=True)
        if room - sum(losses[:slivers]) >= count * workers:
            return count
    return 0


def _slots(need: TrialResources, node: Node, slivers: int) -> int:
    """Workers that a node has room for beside so many trials' own processes."""
    cpus, gpus = node
    by_cpu = int((cpus - slivers * TRIAL_CPUS + _EPSILON) // need.cpus_per_worker)
    return max(0, min(by_cpu, int((gpus + _EPSILON) // need.gpus_per_worker)) if need.gpus_per_worker else by_cpu)


def _refusal(need: TrialResources, nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    if need.least * need.gpus_per_worker > gpus + _EPSILON:
        fits = int(gpus // need.gpus_per_worker)
        return (
            f"one trial needs {need.least * need.gpus_per_worker:g} GPUs and the cluster has {gpus:g}; "
            f"set train.workers={fits or 1}" + ("" if gpus else " and train.use_gpu=false")
        )
    own = f" + {TRIAL_CPUS} for the trial itself" if need.is_group else ""
    total = need.least * need.cpus_per_worker + (TRIAL_CPUS if need.is_group else 0)
    got = f"one trial needs {need.least} workers × {need.cpus_per_worker:g} CPUs{own} = {total:g}"
    has = f"the cluster has {cpus:g}" + (f" on {len(nodes)} nodes" if len(nodes) > 1 else "")
    for workers in range(need.least - 1, 0, -1):
        smaller = TrialResources(workers, need.cpus_per_worker, need.gpus_per_worker)
        if fitting(smaller, nodes, workers=workers):
            return f"{got}, and {has}; set train.workers={workers}"
    largest = max((node[0] for node in nodes), default=0.0)
    return f"{got}, and {has}; set train.workers=1 and train.cpus_per_worker={largest:g}"
