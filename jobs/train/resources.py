"""Counts the ranks that fit on this machine or cluster.

A run uses this machine, or the cluster that this process is a job of. Nothing is started.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from jobs.config import ISNetConfig
from trainplane.cluster.ray_session import connect_job, in_ray_job
from trainplane.errors import UserError
from trainplane.train.launch.capacity import ClusterCapacity
from trainplane.train.run_config import RunConfig
from trainplane.train.setup import device_of

# Side of a picture from which a run is meant for GPUs, in pixels: the paper's.
LARGE_SIZE = 256


@dataclass(frozen=True)
class RanksHere:
    """Ranks of a run and their hardware."""

    wanted: list[int]  # admissible numbers of ranks, ascending
    most: int  # largest of them that fits; with a `refusal`, the largest one of all
    gpu: bool
    cpus: float
    gpus: float
    where: str  # `this machine` or `the cluster`
    refusal: str | None = None  # reason why no number of ranks fits
    awaited_s: float = 0.0  # seconds that the run waits for nodes, where none of them is there yet

    @property
    def hosts(self) -> int:
        """Hosts that the ranks are spread over, at most."""
        return 1 if self.where == "this machine" else self.most

    def __str__(self) -> str:
        elastic = f" (any of {', '.join(map(str, self.wanted))})" if self.wanted[1:] else ""
        kind = "a GPU each" if self.gpu else "on CPUs"
        has = f"{self.where} has {self.cpus:g} CPUs and {self.gpus:g} GPUs"
        waits = f", and the run waits up to {self.awaited_s / 60:g} min for more" if self.awaited_s else ""
        return f"{self.most}{elastic}, {kind}; {has}{waits}"


class _ThisMachine:
    """A stand-in for Ray with one node: this machine."""

    def __init__(self) -> None:
        # An upper bound: a private cluster also looks at a container's limits, and refuses for itself. Ray must not be
        # imported here: a private cluster's token is set before that.
        cpus = max(len(os.sched_getaffinity(0)), os.cpu_count() or 1)
        self._resources = {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}

    def is_initialized(self) -> bool:
        return False

    def cluster_resources(self) -> dict[str, float]:
        return self._resources

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self._resources}]


def ranks_here(config: RunConfig) -> RanksHere:
    """Finds the number of ranks and their hardware."""
    train = config.train
    if in_ray_job():
        import ray

        connect_job(ray)
        cluster, where = ray, "the cluster"
    else:
        cluster, where = _ThisMachine(), "this machine"
    resources = cluster.cluster_resources()
    gpu = train.use_gpu is True or (train.use_gpu == "auto" and resources.get("GPU", 0.0) > 0)
    most, refusal, awaited_s = train.world_sizes[-1], None, 0.0
    capacity = ClusterCapacity(cluster, train)
    try:
        if train.max_workers == 1 and not in_ray_job():
            # A single local rank runs in this process and reserves nothing.
            gpu = device_of(config).type == "cuda"
        else:
            most = capacity.largest()
    except UserError as error:
        # Nodes may come when the run asks for them.
        awaited_s = capacity.wait_s
        refusal = None if awaited_s else str(error)
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    return RanksHere(train.world_sizes, most, gpu, cpus, gpus, where, refusal, awaited_s)


def computes_bf16() -> bool:
    """True if this machine's GPU or processor computes in bf16."""
    return torch.cuda.is_available() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def bf16_line(config: RunConfig) -> str | None:
    """Sentence about bf16 on a processor without it, or None."""
    # What other nodes of a cluster can do is not known here.
    if getattr(config.train, "precision", None) != "bf16" or in_ray_job() or computes_bf16():
        return None
    return "this processor has no bf16 arithmetic, and takes about ten times as long with it; set train.precision=fp32"


def processor_line(config: RunConfig) -> str | None:
    """Sentence about a large run on processors, or None."""
    is_large = in_ray_job() or (isinstance(config, ISNetConfig) and config.data.size >= LARGE_SIZE)
    if config.train.use_gpu != "auto" or not is_large or ranks_here(config).gpu:
        return None
    where = "the cluster" if in_ray_job() else "this machine"
    return f"{where} has no GPU: ranks train on processors; train.use_gpu=true waits for GPUs, or refuses"
