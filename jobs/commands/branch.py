"""`isnet runs branch RUN …`: a run from another's state."""

from __future__ import annotations

import argparse

from jobs.commands.train import train_run
from jobs.config import build_run
from jobs.data.mask_datasets import with_located_masks
from jobs.evaluation.model_address import run_id_of
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.run_page import Typed
from trainplane.train.start.checkpoint import step_of


def branch(args: argparse.Namespace, context: Context) -> int:
    """Trains a new run from a run's state."""
    run_id = RunRecord(context.tracking_server, run_id_of(args.run, context)).run_id
    address = step_of(run_id, args.step, context)
    store, checkpoint = checkpoints.open_address(address)
    tree = checkpoints.read_meta(store, checkpoint).get("config")
    if not isinstance(tree, dict):
        raise UserError(f"checkpoint {address} has no configuration; name a run of this program")
    # The parent's own start, if it had one, is behind it.
    start = {
        "start_from": address,
        "start_from_digest": checkpoint.state_digest,
        "start_from_strict": True,
        "start_state": "all",
    }
    config = with_located_masks(build_run({**tree, "train": {**tree["train"], **start}}, args.overrides), context)
    typed = Typed(run_id, tuple(args.overrides), command=("runs", "branch"), options=("--step", str(checkpoint.step)))
    return train_run(args, config, context, typed)
