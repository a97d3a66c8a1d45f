"""Estimates the memory of one rank.

The bytes of a step come from `isnet.training.memory` and are exact. The overhead of a process was measured on CPUs
(docs/LOG.md): 0.7 GiB of libraries, and 15 % of the step and 60 MiB for the allocator and the convolutions' scratch
space. On GPUs it was not measured; half a GiB is assumed for a CUDA context.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from isnet.training.memory import Footprint, state_bytes, step_footprint
from isnet.training.players import Players
from jobs.config import ISNetConfig
from jobs.train.networks import build_players
from jobs.train.resources import RanksHere
from trainplane.train.batch_size import split_batch

# Overhead of a process on a CPU and on a GPU, in bytes, and the factor of the allocator over the step's own bytes.
LIBRARIES = (700 + 60) * 2**20
GPU_CONTEXT = 512 * 2**20
ALLOCATOR = 1.15


@dataclass(frozen=True)
class Memory:
    """Memory of one rank in bytes."""

    state: int  # weights, moving average and Adam's moments, as a checkpoint holds them
    step: int  # peak within a step, state included
    process: int  # use of `available`, overhead included
    available: int | None  # free memory of the GPU or of this machine; None if unknown
    ranks_per_host: int  # ranks that share `available`
    gpu: bool

    def __str__(self) -> str:
        kind = "GPU memory" if self.gpu else "memory"
        available = f", {self.available / 2**30:.1f} GiB available" if self.available is not None else ""
        return (
            f"{self.process / 2**30:.2f} GiB of {kind} a rank: {self.step / 2**30:.2f} at the peak of a step, "
            f"of which {self.state / 2**30:.2f} state{available}"
        )


def memory_of(config: ISNetConfig, ranks: RanksHere) -> Memory:
    """Estimates the memory of one of these ranks."""
    footprint = step_bytes(config, ranks=ranks.most, on_gpu=ranks.gpu)
    overhead = GPU_CONTEXT if ranks.gpu else LIBRARIES
    # Memory on a cluster's nodes cannot be read from here.
    is_here = ranks.where == "this machine" and not (ranks.gpu and not torch.cuda.is_available())
    return Memory(
        state=footprint.state,
        step=footprint.peak,
        process=round(ALLOCATOR * footprint.peak) + overhead,
        available=_available(ranks.gpu) if is_here else None,
        ranks_per_host=1 if ranks.gpu else ranks.most,
        gpu=ranks.gpu,
    )


def step_bytes(config: ISNetConfig, *, ranks: int, on_gpu: bool = False) -> Footprint:
    """Computes the bytes of a step on one rank."""
    train = config.train
    batch = split_batch(global_batch=train.global_batch, ranks=ranks, micro_batch=train.fixed_micro)
    # Gradients are added up in place, so two micro-batches have the same peak as more.
    return step_footprint(
        on_meta_device(config),
        size=config.data.size,
        micro_batch=batch.micro_batch,
        accumulation=min(2, batch.accumulation),
        on_gpu=on_gpu,
    )


def on_meta_device(config: ISNetConfig) -> Players:
    """Builds the networks on torch's device "meta"."""
    # VGG's weights are not read, and nothing is downloaded.
    loss = config.loss.model_copy(update={"perceptual_weights": "random"})
    train = config.train.model_copy(update={"compile": False})
    with torch.device("meta"):
        return build_players(config.model_copy(update={"loss": loss, "train": train}), torch.device("meta"))


def _available(gpu: bool) -> int:
    if gpu:
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def new_state_bytes(config: ISNetConfig) -> int:
    """Bounds a checkpoint's bytes from above, from shapes alone."""
    players = on_meta_device(config)
    groups = [group for optimizer in players.optimizers().values() for group in optimizer.param_groups]
    # Weights that never get a gradient have no moments, but only a step would show which these are.
    # Two moments of each parameter and Adam's step counter of 4 bytes.
    moments: int = sum(2 * parameter.nbytes + 4 for group in groups for parameter in group["params"])
    return state_bytes(players.modules(), {}) + moments
