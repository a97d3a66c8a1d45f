"""Resumes a run from its newest good checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from trainplane.config.canonical import flatten
from trainplane.config.load import build
from trainplane.data.mixture import TrainingData
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError, Store
from trainplane.task import Task
from trainplane.train.checkpoint import state as states
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.broadcast import shared
from trainplane.train.checkpoint.store import LoadedCheckpoint
from trainplane.train.run_config import RunConfig
from trainplane.train.world import World

log = logging.getLogger(__name__)


def load_newest(
    task: Task, store: Store, *, config: RunConfig, must_match: dict[str, Any], world: World
) -> LoadedCheckpoint | None:
    """Loads the newest good checkpoint into `task`, if any.

    Rank 0 reads and verifies it, and sends it to the others. Its `meta` must have the values of `must_match`: digests
    of the data and its order.
    """
    loaded = shared(checkpoints.newest_good(store) if world.is_first else None, world=world, device=task.device)
    if loaded is None:
        return None
    # Refuse a checkpoint of other data or of a longer run.
    address = f"{store.address}/{loaded.checkpoint.key}"
    for name, ours in must_match.items():
        if loaded.meta[name] != ours:
            raise UserError(
                f"checkpoint {address} was made with {name} {loaded.meta[name]}, and this run has {ours}; "
                "give it the same data, seed and batch, or start a new run with --fresh"
            )
    step = loaded.checkpoint.step
    check_not_beyond(step, config)
    states.restore(task, loaded.state, source=address)
    log.info("resumed at step %d from %s", step, store.address)
    return loaded


def check_resumable(store: Store, config: RunConfig, data: TrainingData) -> int:
    """Returns the step of the newest checkpoint, else 0.

    Raises `UserError` where this run cannot resume from it. Reads JSON only, no tensors; skips damaged JSON.
    """
    # The newest checkpoint with readable JSON stands for the run.
    damaged = 0
    for newest in checkpoints.newest_first(store):
        try:
            meta = checkpoints.read_meta(store, newest)
        except StorageError:
            raise
        except RunFailed as error:
            log.info("%s; trying the one before", error)
            damaged = damaged or newest.step
        else:
            break
    else:
        # If all are damaged, loading them raises.
        return damaged
    address = f"{store.address}/{newest.key}"
    # The same dataset, settings and sample order as this run?
    if meta.get("dataset_digest") not in (None, data.digest):
        raise UserError(
            f"checkpoint {address} was made with dataset_digest {meta['dataset_digest']}, and this run has "
            f"{data.digest}; give it the same data, or start a new run with --fresh"
        )
    differing = _differing(meta, config)
    if differing:
        raise UserError(
            f"checkpoint {address} was made with {differing}; give the configuration it was made with, or start a new "
            "run with --fresh"
        )
    # With equal data and settings, another order means another version of the program.
    order = data.order(seed=config.train.seed, global_batch=config.train.global_batch).hash
    if meta.get("order_hash") not in (None, order):
        raise UserError(
            f"checkpoint {address} was made by another version of this program, which read the same samples in another "
            f"order (order_hash {meta['order_hash']}, here {order}); "
            "resume with that version, or start a new run with --fresh"
        )
    check_not_beyond(newest.step, config)
    return newest.step


def _differing(meta: dict[str, Any], config: RunConfig) -> str:
    """First differing settings, as `model.width=8 (here 4)`."""
    try:
        theirs = flatten(build(type(config), meta["config"]).identity())
    except (ValueError, KeyError, TypeError):
        # Made by another version: whether it fits is found out when it is loaded.
        return ""
    ours = flatten(config.identity())
    names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name}={theirs.get(name)} (here {ours.get(name)})" for name in names[:3])


def check_not_beyond(step: int, config: RunConfig) -> None:
    """Raises `UserError` where the run has done more steps already."""
    if step > config.train.steps:
        raise UserError(
            f"this run has done {step} steps already, more than train.steps={config.train.steps}; "
            "give more steps, or start a new run with --fresh"
        )


def drop_checkpoints_after(store: Store, step: int, *, check: Callable[[], None] = lambda: None) -> None:
    """Abandons the checkpoints beyond `step`, newest first.

    `check` raises where this process must not write. If all are beyond it, because retention deleted the earlier ones,
    the oldest one stays.
    """
    present = checkpoints.committed(store)
    beyond = [c for c in present if c.step > step]
    for checkpoint in reversed(beyond if len(beyond) < len(present) else beyond[1:]):
        checkpoints.abandon(store, checkpoint.key, check=check)
