"""Finds, reads and copies the checkpoint of a start."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch

from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.mixture import TrainingData
from trainplane.errors import UserError
from trainplane.storage import AccessDenied, Store, open_store
from trainplane.task import Task
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pin
from trainplane.train.checkpoint.state import TrainingState, check_architecture
from trainplane.train.checkpoint.store import LoadedCheckpoint
from trainplane.train.run_config import RunConfig
from trainplane.train.start.weights import StartSource, StartWeights

log = logging.getLogger(__name__)


def find_checkpoint(typed: str, context: Context) -> StartSource:
    """Finds a checkpoint by address, or a run's newest."""
    address = typed
    if typed.startswith("runs:/"):
        address = checkpoints_of_run(typed, context)
    store, checkpoint = checkpoints.open_address(address)
    return StartSource(f"{store.address}/{checkpoint.key}", checkpoint.state_digest)


def checkpoints_of_run(run_id: str, context: Context) -> str:
    """Address of the checkpoints of an MLflow run."""
    record = RunRecord(context.tracking_server, run_id)
    if (folder := record.tags.get("trainplane.checkpoints")) is None:
        raise UserError(f"run {run_id!r} has no checkpoints; need a run of `{command_line('train', 'PRESET')}`")
    return str(folder)


def read_checkpoint(address: str) -> LoadedCheckpoint:
    """Reads the checkpoint at an address."""
    store, checkpoint = checkpoints.open_address(address)
    return checkpoints.read(store, checkpoint)


def pin_checkpoint(address: str, *, by: str) -> None:
    """Keeps a checkpoint, if it is one, from retention."""
    folder, _, name = address.rpartition("/")
    if not name.startswith("step-"):
        return
    try:
        pin(open_store(folder), name, by=by)
    except AccessDenied as error:
        log.warning("%s: not pinned, so the rules of its run may delete it later (%s)", address, error)


def read_networks(address: str, task: str) -> StartWeights:
    """Reads the networks of a checkpoint of the same task."""
    loaded = read_checkpoint(address)
    config = loaded.meta.get("config")
    theirs = config.get("task") if isinstance(config, dict) else None
    if theirs != task:
        raise UserError(
            f"train.start_from={address} is a checkpoint of {theirs or 'no known task'}, and this run trains {task}; "
            "give a checkpoint of the same task"
        )
    networks = {name: value for name, value in loaded.state.tensors.items() if name.startswith("module/")}
    return StartWeights(networks, loaded.checkpoint.state_digest, meta=loaded.meta)


def copy_state(
    loaded: LoadedCheckpoint,
    target: Store,
    *,
    config: RunConfig,
    task_class: type[Task],
    data: TrainingData | None = None,
) -> None:
    """Writes another run's state as a run's first checkpoint.

    Tensors, counters and step stay bit for bit. The settings of the optimisers (rates, betas) come from `config`.

    Args:
        loaded: The other run's checkpoint.
        target: Folder of the run.
        config: Of the run.
        task_class: Of the run.
        data: What the run trains on; None: what the other one did, in the same order.
    """
    task = task_class(config, torch.device("cpu"))
    check_architecture(task, loaded.state, source=f"of step {loaded.state.step}")
    meta = {**loaded.meta, "config": config.model_dump(mode="json"), "config_digest": config.digest()}
    if data is not None:
        order = data.order(seed=config.train.seed, global_batch=config.train.global_batch).hash
        if order != loaded.meta["order_hash"]:
            # Batches that the guard skips, and samples that were damaged, belong to the other order.
            meta |= {"guard": {**loaded.meta["guard"], "passed_over": []}, "damage": []}
        # Hours are counted anew in a new run.
        ending = {**loaded.meta.get("ending", {}), "seconds": 0.0}
        meta |= {"dataset_digest": data.digest, "order_hash": order, "ending": ending}
    scalars = {**loaded.state.scalars, "param_groups": _param_groups(task, loaded.state)}
    metrics = loaded.checkpoint.metrics
    checkpoints.write(target, replace(loaded.state, scalars=scalars), meta=meta, metrics=metrics)


def _param_groups(task: Task, stored: TrainingState) -> dict[str, Any]:
    # Parameter groups with the settings of a new optimiser. Values that a new optimiser does not set are kept.
    groups: dict[str, Any] = {}
    for name, optimizer in task.optimizers().items():
        # `params` are positions of tensors and stay; everything else comes from the new optimiser.
        new_groups = optimizer.state_dict()["param_groups"]
        stored_groups = stored.scalars["param_groups"][name]
        if len(new_groups) != len(stored_groups):
            raise UserError(
                f"the start has {len(stored_groups)} rates of {name}, and train.rate_factors make {len(new_groups)}; "
                "keep train.rate_factors as they were, or begin at its weights alone, with train.start_from"
            )
        groups[name] = [
            {**old, **{key: value for key, value in new.items() if key != "params"}}
            for old, new in zip(stored_groups, new_groups, strict=True)
        ]
    return groups


def step_of(typed: str, step: int | None, context: Context) -> str:
    """Address of a run's checkpoint; None: the newest one."""
    folder = checkpoints_of_run(typed, context)
    present = checkpoints.committed(open_store(folder))
    fitting = [checkpoint for checkpoint in present if step in (None, checkpoint.step)]
    if not fitting:
        steps = ", ".join(str(checkpoint.step) for checkpoint in present) or "none"
        raise UserError(
            f"run {typed} has no checkpoint of step {step} (it has: {steps}); name one of these, or keep more with "
            "train.keep_every"
        )
    return f"{folder}/{fitting[-1].key}"
