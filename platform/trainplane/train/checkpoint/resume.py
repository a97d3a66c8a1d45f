"""Going on: the newest good checkpoint of this run, loaded into the task on every rank."""

from __future__ import annotations

import logging
from typing import Any

from trainplane.config.canonical import flatten
from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError, Store
from trainplane.task import Task
from trainplane.train.checkpoint import state as states
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.store import Checkpoint, Loaded
from trainplane.train.run_config import RunConfig
from trainplane.train.world import World

log = logging.getLogger(__name__)


def load_newest(
    task: Task, store: Store, *, config: RunConfig, must_match: dict[str, Any], world: World
) -> Loaded | None:
    """Put the newest good checkpoint into `task`; None where there is none. Rank 0 chooses it for all.

    `must_match` names facts of the checkpoint that this run has, too: digests of the data and its order.
    """
    found = checkpoints.newest_good(store) if world.is_first else None
    step = world.agree(found.checkpoint.step if found else 0, task.device)
    if step == 0:
        return None
    if found is None:
        found = checkpoints.read(store, next(c for c in reversed(checkpoints.committed(store)) if c.step == step))
    where = f"{store.address}/{found.checkpoint.key}"
    for name, ours in must_match.items():
        if found.meta[name] != ours:
            raise UserError(
                f"checkpoint {where} was made with {name} {found.meta[name]}, and this run has {ours}; "
                "give it the same data, seed and batch, or start anew with --fresh"
            )
    check_not_beyond(step, config)
    states.restore(task, found.state, source=where)
    log.info("resumed at step %d from %s", step, store.address)
    return found


def check_goes_on(store: Store, config: RunConfig, dataset: Dataset) -> int:
    """The step of the newest checkpoint, 0 where there is none; `UserError` where this run cannot go on from it.

    Reads no tensors: what a checkpoint was made from stands in its JSON. One whose JSON is damaged is passed over.
    """
    present = checkpoints.committed(store)
    newest, meta = _newest_with_meta(store, present)
    if newest is None:
        # Where all are damaged, loading says so.
        return present[-1].step if present else 0
    where = f"{store.address}/{newest.key}"
    if meta.get("dataset_digest") not in (None, dataset.digest):
        raise UserError(
            f"checkpoint {where} was made with dataset_digest {meta['dataset_digest']}, and this run has "
            f"{dataset.digest}; give it the same data, or start anew with --fresh"
        )
    differing = _differing(meta, config)
    if differing:
        raise UserError(
            f"checkpoint {where} was made with {differing}; give the configuration it was made with, or start anew "
            "with --fresh"
        )
    order = dataset.order(seed=config.train.seed, global_batch=config.train.global_batch).hash
    if meta.get("order_hash") not in (None, order):
        raise UserError(
            f"checkpoint {where} was made by another version of this program, which read the same pictures in another "
            f"order (order_hash {meta['order_hash']}, here {order}); "
            "go on with that version, or start anew with --fresh"
        )
    check_not_beyond(newest.step, config)
    return newest.step


def _newest_with_meta(store: Store, present: list[Checkpoint]) -> tuple[Checkpoint | None, dict[str, Any]]:
    """The newest one of which can be told what it was made from, and that."""
    for checkpoint in reversed(present):
        try:
            return checkpoint, checkpoints.read_meta(store, checkpoint)
        except StorageError:
            raise
        except RunFailed as error:
            log.info("%s; looking at the one before", error)
    return None, {}


def _differing(meta: dict[str, Any], config: RunConfig) -> str:
    """`model.width=8 (here 4)` for the first settings of the identity that differ; empty where none does."""
    try:
        theirs = flatten(build(type(config), meta["config"]).identity())
    except (ValueError, KeyError, TypeError):
        # Of another version: what it can be used for is found out when it is read.
        return ""
    ours = flatten(config.identity())
    names = [name for name in sorted(theirs.keys() | ours.keys()) if theirs.get(name) != ours.get(name)]
    return ", ".join(f"{name}={theirs.get(name)} (here {ours.get(name)})" for name in names[:3])


def check_not_beyond(step: int, config: RunConfig) -> None:
    """`UserError` where the run has more steps behind it than it is asked for."""
    if step > config.train.steps:
        raise UserError(
            f"this run stands at step {step} already, beyond train.steps={config.train.steps}; "
            "ask for more steps, or start anew with --fresh"
        )


def forget_after(store: Store, step: int) -> None:
    """Let go of the checkpoints beyond `step`, newest first, so that the newest good one is from before it.

    Where all are beyond it, as retention may have taken the others, the oldest one stays.
    """
    present = checkpoints.committed(store)
    beyond = [c for c in present if c.step > step]
    for checkpoint in reversed(beyond if len(beyond) < len(present) else beyond[1:]):
        checkpoints.abandon(store, checkpoint.key)
