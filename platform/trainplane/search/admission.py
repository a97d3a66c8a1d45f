"""Pure arithmetic: how many trials of a search may run at once on a cluster, so that none waits for ever.

A trial of one worker is that worker. A trial of several holds a sliver of a CPU for its own process while its workers,
which Ray Train starts, need theirs beside it; started without counting, trials take every CPU and no worker ever
starts (ray#54305).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.errors import UserError

# Ray rejects a trial that needs nothing at all; this much it may hold.
TRIAL_CPUS = 0.01


@dataclass(frozen=True)
class Need:
    """What one trial occupies while it runs."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float = 0.0

    @property
    def own_cpus(self) -> float:
        """CPUs of the trial's own process."""
        return self.cpus_per_worker if self.workers == 1 else TRIAL_CPUS

    @property
    def cpus(self) -> float:
        return self.cpus_per_worker if self.workers == 1 else TRIAL_CPUS + self.workers * self.cpus_per_worker

    @property
    def gpus(self) -> float:
        return self.workers * self.gpus_per_worker


def admit(need: Need, *, cpus: float, gpus: float, trials: int, wanted: int | None) -> int:
    """How many trials to run at once: as many as fit, at most `wanted` and `trials`.

    Raises UserError, with the arithmetic and the smallest change that fits, where not even one does.
    """
    by_cpu = int((cpus + 1e-9) // need.cpus)
    by_gpu = int((gpus + 1e-9) // need.gpus) if need.gpus else by_cpu
    fits = min(by_cpu, by_gpu)
    if fits < 1:
        raise UserError(_refusal(need, cpus, gpus, by_cpu))
    return min(fits, trials, wanted or fits)


def _refusal(need: Need, cpus: float, gpus: float, by_cpu: int) -> str:
    if by_cpu < 1:
        own = "" if need.workers == 1 else f" + {TRIAL_CPUS} for the trial itself"
        got = f"one trial needs {need.workers} workers × {need.cpus_per_worker:g} CPUs{own} = {need.cpus:g}"
        spare = cpus - (0 if need.workers == 1 else TRIAL_CPUS)
        workers = int(spare // need.cpus_per_worker)
        if workers >= 1:
            return f"{got}, and the cluster has {cpus:g}; set train.workers={workers}"
        return f"{got}, and the cluster has {cpus:g}; set train.workers=1 and train.cpus_per_worker={cpus:g}"
    return (
        f"one trial needs {need.gpus:g} GPUs and the cluster has {gpus:g}; "
        f"set train.workers={int(gpus // need.gpus_per_worker) or 1}" + ("" if gpus else " and train.use_gpu=false")
    )
