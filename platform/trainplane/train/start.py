"""What a rank needs before its first step: a device, a loader, a recorder; and the randomness of each step."""

from __future__ import annotations

import torch

from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.task import Task
from trainplane.tracking.run_id import Birth
from trainplane.tracking.tracker import NullTracker, Recorder, Tracker
from trainplane.train.run_config import RunConfig
from trainplane.train.spec import Job
from trainplane.train.world import World

# A rank that was cut off with its node, where nodes share a disk, lives on until Ray there gives up its head: a minute,
# and twice that on a busy machine.
PREDECESSOR_S = 240.0


def device_of(config: RunConfig) -> torch.device:
    wants = config.train.use_gpu
    if wants is True and not torch.cuda.is_available():
        raise UserError("train.use_gpu=true and this machine has no GPU; set train.use_gpu=auto or false")
    return torch.device("cuda" if wants and torch.cuda.is_available() else "cpu")


def loader_of(dataset: Dataset, config: RunConfig, task_class: type[Task], world: World) -> Loader:
    return Loader(
        dataset,
        transform=task_class.transform_of(config),
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=world.rank,
        world=world.size,
        workers=config.data.loader_workers,
        prefetch=config.data.prefetch,
        on_damage=config.data.on_damage,
        damage_budget=config.data.damage_budget,
    )


def tracker_of(job: Job, world: World) -> Recorder:
    """Rank 0 records; the others have a tracker that does nothing, so that no call site asks who it is."""
    if job.tracking is None or not world.is_first:
        return NullTracker()
    birth = Birth(**job.tracking.birth) if job.tracking.birth else None
    target = job.tracking
    return Tracker(target.uri, target.run_id, spool=target.spool, birth=birth, patience_s=PREDECESSOR_S)


def step_seed(seed: int, index: int, rank: int) -> int:
    """A generator seed that differs for every (seed, step, rank): splitmix64's finaliser over the three."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) & ((1 << 63) - 1)
