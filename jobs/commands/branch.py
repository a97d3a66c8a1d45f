"""`isnet runs branch RUN …`: a run from another's state."""

from __future__ import annotations

import argparse

from jobs.api.training import branch as branch_run
from jobs.commands.train import show_trained
from trainplane.cluster.context import Context


def branch(args: argparse.Namespace, context: Context) -> int:
    """Trains a new run from a run's state."""
    run = branch_run(args.run, args.overrides, step=args.step, fresh=args.fresh, context=context)
    return show_trained(args, run, context)
