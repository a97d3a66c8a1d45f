"""Number of trials that may run at once.

Pure arithmetic, so that no trial waits forever. A trial of one worker is that worker. A trial of several holds a small
share of a CPU for its own process, and its workers, which Ray Train starts, need theirs beside it. Started without
counting, trials take every CPU and no worker ever starts (ray#54305). Nodes are counted one by one: a worker cannot be
split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainplane.errors import UserError

# Share of a CPU for a trial's own process. Ray rejects a trial without any resources.
TRIAL_CPUS = 0.01
# Tolerance for fractions of CPUs and GPUs.
_EPSILON = 1e-9

Node = tuple[float, float]
"""CPUs and GPUs of a node."""


@dataclass(frozen=True)
class TrialResources:
    """Resources of one running trial.

    An elastic trial starts with `min_workers` on a full cluster.
    """

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0
    min_workers: int | None = None

    @property
    def required_workers(self) -> int:
        """Workers without which a trial does not start."""
        return min(self.min_workers or self.workers, self.workers)

    @property
    def is_group(self) -> bool:
        """Workers are separate processes, beside the trial's own."""
        return self.workers > 1

    @property
    def own_cpus(self) -> float:
        """CPUs of the trial's own process."""
        return TRIAL_CPUS if self.is_group else self.cpus_per_worker

    @property
    def cpus(self) -> float:
        """CPUs of the whole trial."""
        return TRIAL_CPUS + self.workers * self.cpus_per_worker if self.is_group else self.cpus_per_worker

    @property
    def gpus(self) -> float:
        """GPUs of the whole trial."""
        return self.workers * self.gpus_per_worker


def admit(resources: TrialResources, *, nodes: Sequence[Node], trials: int, requested: int | None) -> int:
    """Number of trials to run at once, at least 1.

    At most `trials` and `requested` (by the user). Elastic trials get fewer workers where not even one could get all.
    Raises `UserError`, with the arithmetic and the smallest change that fits, if not one trial fits.
    """
    fits = fitting_trials(resources, nodes, workers=resources.workers)
    # Elastic trials get fewer workers only where no trial fits with all of them.
    fits = fits or fitting_trials(resources, nodes, workers=resources.required_workers)
    if fits < 1:
        raise UserError(_refusal(resources, nodes))
    return min(fits, trials, requested or fits)


def fitting_trials(resources: TrialResources, nodes: Sequence[Node], *, workers: int) -> int:
    """Largest number of trials that fit in every placement order.

    The trials' own processes may all be placed on the nodes where they take the capacity of a worker.
    """
    capacity = sum(_worker_capacity(resources, node, 0) for node in nodes)
    # From the number without any trial processes downwards.
    for count in range(capacity // workers, 0, -1):
        processes = count if resources.is_group else 0
        # Each node with trial processes may lose a worker, and there are no more such nodes than processes.
        losses = sorted(
            (_worker_capacity(resources, node, 0) - _worker_capacity(resources, node, processes) for node in nodes),
            reverse=True,
        )
        if capacity - sum(losses[:processes]) >= count * workers:
            return count
    return 0


def _worker_capacity(resources: TrialResources, node: Node, processes: int) -> int:
    """Workers that fit on a node beside the trial processes."""
    cpus, gpus = node
    by_cpu = int((cpus - processes * TRIAL_CPUS + _EPSILON) // resources.cpus_per_worker)
    # A head without CPUs has nothing to lose to a trial's process.
    if not resources.gpus_per_worker:
        return max(0, by_cpu)
    return max(0, min(by_cpu, int((gpus + _EPSILON) // resources.gpus_per_worker)))


def _refusal(resources: TrialResources, nodes: Sequence[Node]) -> str:
    """Explains why not one trial fits, and what would."""
    cpus, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    workers = resources.required_workers
    # Too few GPUs.
    if workers * resources.gpus_per_worker > gpus + _EPSILON:
        fits = int(gpus // resources.gpus_per_worker)
        return (
            f"one trial needs {workers * resources.gpus_per_worker:g} GPUs and the cluster has {gpus:g}; "
            f"set train.workers={fits or 1}" + ("" if gpus else " and train.use_gpu=false")
        )
    # Too few CPUs.
    own = f" + {TRIAL_CPUS} for the trial itself" if resources.is_group else ""
    total = workers * resources.cpus_per_worker + (TRIAL_CPUS if resources.is_group else 0)
    required = f"one trial needs {workers} workers × {resources.cpus_per_worker:g} CPUs{own} = {total:g}"
    available = f"the cluster has {cpus:g}" + (f" on {len(nodes)} nodes" if len(nodes) > 1 else "")
    # The largest number of workers that fits.
    for fewer in range(workers - 1, 0, -1):
        smaller = TrialResources(fewer, resources.cpus_per_worker, resources.gpus_per_worker)
        if fitting_trials(smaller, nodes, workers=fewer):
            return f"{required}, and {available}; set train.workers={fewer}"
    # No setting helps where there is nothing to run on.
    if not cpus:
        return f"{required}, and {available}; add nodes, or set train.wait_for_nodes=900 where they come by themselves"
    # Not even one worker fits: make the worker smaller.
    largest = max((node[0] for node in nodes), default=0.0)
    return f"{required}, and {available}; set train.workers=1 and train.cpus_per_worker={largest:g}"
