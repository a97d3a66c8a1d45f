"""A trial takes over another one's weights: the donor's checkpoint, under the taker's address and with its settings.

Tensors, counters and the place in the data are the donor's, bit for bit; what the optimisers are set to (rates, betas)
comes from the taker's configuration. The donor's checkpoint is pinned while it is read. Repeating it changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trainplane.errors import RunFailed
from trainplane.storage import open_store
from trainplane.task import Task
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pinned, unpin
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.run_config import RunConfig


def copy_donor_weights(donor: str, place: str, *, config: RunConfig, task_class: type[Task], by: str) -> None:
    """Make the checkpoint at address `donor` the first one of the run at `place`, unless that has one already."""
    target = open_store(place)
    if checkpoints.newest_good(target) is not None:
        return
    folder, _, name = donor.rpartition("/")
    source = open_store(folder)
    with pinned(source, name, by=by):
        _, found = checkpoints.open_address(donor)
        loaded = checkpoints.read(source, found)
    if loaded.checkpoint.key != name:
        raise RunFailed(f"checkpoint {donor} is gone, and a trial was to take over its weights")
    task = task_class(config, torch.device("cpu"))
    scalars = {**loaded.state.scalars, "param_groups": _settings_of(task, loaded.state)}
    meta = {**loaded.meta, "config": config.model_dump(mode="json"), "config_digest": config.digest()}
    checkpoints.write(target, replace(loaded.state, scalars=scalars), meta=meta, metrics=found.metrics)


def release_donor(donor: str, *, by: str) -> None:
    """The take-over is committed: the donor's checkpoint may go."""
    folder, _, name = donor.rpartition("/")
    unpin(open_store(folder), name, by=by)


def _settings_of(task: Task, stored: TrainingState) -> dict[str, Any]:
    """The groups of each optimiser as a fresh one has them; what it does not set itself is kept."""
    groups: dict[str, Any] = {}
    for name, optimizer in task.optimizers().items():
        fresh = optimizer.state_dict()["param_groups"]
        old = stored.scalars["param_groups"][name]
        groups[name] = [
            {**before, **{key: value for key, value in now.items() if key != "params"}}
            for before, now in zip(old, fresh, strict=True)
        ]
    return groups
