"""`isnet train PRESET [a.b=c …]`: trains one run."""

from __future__ import annotations

import argparse

from jobs.api.training import TrainedRun
from jobs.api.training import train as train_run
from jobs.cli.main import emit
from jobs.train.summary import summary
from trainplane.cluster.context import Context
from trainplane.command_line import command_line


def train(args: argparse.Namespace, context: Context) -> int:
    """Trains a run, and registers its model if asked."""
    return show_trained(args, train_run(args.preset, args.overrides, fresh=args.fresh, context=context), context)


def show_trained(args: argparse.Namespace, run: TrainedRun, context: Context) -> int:
    """Reports a trained run."""
    text = summary(run.run_id, run)
    if run.page is not None:
        text += f"\n  page          {run.page}"
    # The pages of a database are not served until somebody asks for them.
    elif not context.tracking_server.address.startswith("http"):
        text += f"\n  pages         {command_line('ui')}"
    if run.registration:
        text += f"\n  registered       {run.registration}"
    emit(args, run.to_json(), text)
    return 0 if run.is_done else 1
