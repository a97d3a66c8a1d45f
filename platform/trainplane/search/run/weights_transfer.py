"""Copies a donor's checkpoint to another trial (population-based training).

Tensors, counters and the position in the data are the donor's, bit for bit. The settings of the optimisers (rates,
betas) come from the taker's configuration.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from trainplane.storage import open_store
from trainplane.task import Task
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pinned, unpin
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.run_config import RunConfig


def pin_owner(parent_run_id: str, trial: int) -> str:
    """Name of the owner of a donor's pin."""
    return f"search {parent_run_id} trial {trial}"


def copy_donor_weights(donor: str, run_dir: str, *, config: RunConfig, task_class: type[Task], by: str) -> None:
    """Copies a donor's checkpoint to the start of a run.

    The donor's is pinned `by` (see `pin_owner`) while it is read. Writes nothing if the run has a checkpoint already.
    """
    target = open_store(run_dir)
    # A repeated attempt finds its own copy.
    if checkpoints.newest_good(target) is not None:
        return
    folder, _, name = donor.rpartition("/")
    source = open_store(folder)
    # Pinned, so that retention does not delete it during the read.
    with pinned(source, name, by=by):
        _, checkpoint = checkpoints.open_address(donor)
        loaded = checkpoints.read(source, checkpoint)
    task = task_class(config, torch.device("cpu"))
    # The donor's state with the taker's optimiser settings and configuration.
    scalars = {**loaded.state.scalars, "param_groups": _param_groups(task, loaded.state)}
    meta = {**loaded.meta, "config": config.model_dump(mode="json"), "config_digest": config.digest()}
    checkpoints.write(target, replace(loaded.state, scalars=scalars), meta=meta, metrics=checkpoint.metrics)


def release_donor(donor: str, *, by: str) -> None:
    """Unpins a donor's checkpoint, after its copy is written."""
    folder, _, name = donor.rpartition("/")
    unpin(open_store(folder), name, by=by)


def _param_groups(task: Task, stored: TrainingState) -> dict[str, Any]:
    # Parameter groups with the settings of a new optimiser. Values that a new optimiser does not set are kept.
    groups: dict[str, Any] = {}
    for name, optimizer in task.optimizers().items():
        # `params` are positions of tensors and stay; everything else comes from the new optimiser.
        new_groups = optimizer.state_dict()["param_groups"]
        stored_groups = stored.scalars["param_groups"][name]
        groups[name] = [
            {**old, **{key: value for key, value in new.items() if key != "params"}}
            for old, new in zip(stored_groups, new_groups, strict=True)
        ]
    return groups
