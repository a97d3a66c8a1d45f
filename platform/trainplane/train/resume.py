"""Going on: the newest good checkpoint of this run, loaded into the task on every rank."""

from __future__ import annotations

import logging
from typing import Any

from trainplane.config import RunConfig
from trainplane.errors import UserError
from trainplane.storage import Store
from trainplane.task import Task
from trainplane.train import checkpoint as checkpoints
from trainplane.train import state as states
from trainplane.train.checkpoint import Loaded
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
