"""Copies a donor's checkpoint to another trial (population-based training).

Tensors, counters and the position in the data are the donor's, bit for bit. The settings of the optimisers (rates,
betas) come from the taker's configuration.
"""

from __future__ import annotations

from trainplane.storage import open_store
from trainplane.task import Task
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.pins import pinned, unpin
from trainplane.train.run_config import RunConfig
from trainplane.train.start.checkpoint import copy_state


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
    copy_state(loaded, target, config=config, task_class=task_class)


def release_donor(donor: str, *, by: str) -> None:
    """Unpins a donor's checkpoint, after its copy is written."""
    folder, _, name = donor.rpartition("/")
    unpin(open_store(folder), name, by=by)
