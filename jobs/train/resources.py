"""What `isnet train` would run on: this machine, or the cluster that this process is a job of. Starts nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from jobs.config import ISNetConfig
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import UserError
from trainplane.train.launch.capacity import Room
from trainplane.train.setup import device_of


@dataclass(frozen=True)
class RanksHere:
    """Ranks of a run and what they run on. `most`: the largest number there is room for; cpus and gpus: in all.

    refusal -- why there is no room; then `most` is what was asked for
    """

    wanted: list[int]
    most: int
    gpu: bool
    cpus: float
    gpus: float
    where: str
    refusal: str | None = None

    def __str__(self) -> str:
        elastic = f" (any of {', '.join(map(str, self.wanted))})" if self.wanted[1:] else ""
        kind = "a GPU each" if self.gpu else "on CPUs"
        return f"{self.most}{elastic}, {kind}; {self.where} has {self.cpus:g} CPUs and {self.gpus:g} GPUs"


class _ThisMachine:
    """Looks to `Room` like a Ray cluster of one node."""

    def __init__(self) -> None:
        # As many as a private cluster here could count at most; it looks at a container's limits, too, and refuses for
        # itself. Ray must not be imported here: a private cluster's token is set before it is.
        cpus = max(len(os.sched_getaffinity(0)), os.cpu_count() or 1)
        self._has = {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}

    def is_initialized(self) -> bool:
        return False

    def cluster_resources(self) -> dict[str, float]:
        return self._has

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self._has}]


def ranks_here(config: ISNetConfig) -> RanksHere:
    """How many ranks there would be, and on what."""
    train = config.train
    if in_ray_job():
        import ray

        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level="ERROR")
        cluster, where = ray, "the cluster"
    else:
        cluster, where = _ThisMachine(), "this machine"
    has = cluster.cluster_resources()
    gpu = train.use_gpu is True or (train.use_gpu == "auto" and has.get("GPU", 0.0) > 0)
    most, refusal = train.world_sizes[-1], None
    try:
        if train.max_workers == 1 and not in_ray_job():
            # In this process: nothing is reserved.
            gpu = device_of(config).type == "cuda"
        else:
            most = Room(cluster, train).most()
    except UserError as error:
        refusal = str(error)
    return RanksHere(train.world_sizes, most, gpu, has.get("CPU", 0.0), has.get("GPU", 0.0), where, refusal)
