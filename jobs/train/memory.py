"""What a rank needs in memory, for people: `isnet.training.memory`'s bytes, and what lies around them.

The step's own bytes are exact. What a process takes beside them was measured on CPUs (docs/LOG.md): 0.7 GiB of
libraries, and 15 % of the step and 60 MiB for the allocator and the convolutions' scratch space. On GPUs it was not
measured; a context is reckoned with half a GiB.
"""

from __future__ import annotations

from dataclasses import dataclass

import psutil
import torch

from isnet.gan import GAN
from isnet.training.memory import Footprint, state_bytes, step_footprint
from jobs.config import ISNetConfig
from jobs.isnet_task import build_gan
from jobs.train.resources import RanksHere
from trainplane.train.batch_size import arithmetic

LIBRARIES = (700 + 60) * 2**20
GPU_CONTEXT = 512 * 2**20
ALLOCATOR = 1.15


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. `process`: what it takes from `available`, which is a GPU's or this machine's; None: unknown.

    state -- weights, moving average and Adam's moments, as a checkpoint holds them
    step  -- the peak within a step, state included
    """

    state: int
    step: int
    process: int
    available: int | None
    ranks_per_host: int
    gpu: bool

    def __str__(self) -> str:
        place = "GPU memory" if self.gpu else "memory"
        has = f", {self.available / 2**30:.1f} GiB available" if self.available is not None else ""
        return (
            f"{self.process / 2**30:.2f} GiB of {place} a rank: {self.step / 2**30:.2f} at the peak of a step, "
            f"of which {self.state / 2**30:.2f} state{has}"
        )


def memory_of(config: ISNetConfig, ranks: RanksHere) -> Memory:
    """The memory of one of these ranks."""
    found = step_bytes(config, ranks=ranks.most, on_gpu=ranks.gpu)
    around = GPU_CONTEXT if ranks.gpu else LIBRARIES
    is_here = ranks.where == "this machine" and not (ranks.gpu and not torch.cuda.is_available())
    return Memory(
        state=found.state,
        step=found.peak,
        process=round(ALLOCATOR * found.peak) + around,
        available=_available(ranks.gpu) if is_here else None,
        ranks_per_host=1 if ranks.gpu else ranks.most,
        gpu=ranks.gpu,
    )


def step_bytes(config: ISNetConfig, *, ranks: int, on_gpu: bool = False) -> Footprint:
    """The bytes of a step on one of so many ranks."""
    train = config.train
    cut = arithmetic(global_batch=train.global_batch, ranks=ranks, micro_batch=train.fixed_micro)
    # One in turn or many: gradients are added up in place, so that the second pass shows the peak of all.
    return step_footprint(
        _without_numbers(config),
        size=config.data.size,
        micro_batch=cut.micro_batch,
        accumulation=min(2, cut.accumulation),
        on_gpu=on_gpu,
    )


def _without_numbers(config: ISNetConfig) -> GAN:
    """The players on torch's device "meta"; VGG's weights are not read, and nothing is downloaded."""
    loss = config.loss.model_copy(update={"perceptual_weights": "random"})
    train = config.train.model_copy(update={"compile": False})
    with torch.device("meta"):
        return build_gan(config.model_copy(update={"loss": loss, "train": train}), torch.device("meta"))


def _available(gpu: bool) -> int:
    if gpu:
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def new_state_bytes(config: ISNetConfig) -> int:
    """Bytes of a checkpoint of this configuration, at most, from the shapes alone and at once.

    Weights that never get a gradient, which only a step tells, count as if Adam kept moments of them.
    """
    gan = _without_numbers(config)
    groups = [group for optimizer in gan.optimizers().values() for group in optimizer.param_groups]
    moments: int = sum(2 * parameter.nbytes + 4 for group in groups for parameter in group["params"])
    return state_bytes(gan.modules(), {}) + moments
