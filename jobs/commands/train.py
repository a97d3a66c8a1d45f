"""`isnet train PRESET [a.b=c …]`: trains one run."""

from __future__ import annotations

import argparse

from jobs.cli.main import emit
from jobs.config import ISNetConfig, load_run_config
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import with_located_masks
from jobs.presets import is_shipped
from jobs.registry.register import try_register
from jobs.train.run import run_training
from jobs.train.summary import report, summary
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import RunFailed, UserError
from trainplane.tracking.pages import run_page
from trainplane.tracking.run_record import RunRecord
from trainplane.train.run_config import RunConfig
from trainplane.train.run_page import Typed


def train(args: argparse.Namespace, context: Context) -> int:
    """Trains a run, and registers its model if asked."""
    config = with_located_masks(load_run_config(args.preset, args.overrides), context)
    return train_run(args, config, context, Typed(args.preset, tuple(args.overrides), is_shipped(args.preset)))


def train_run(args: argparse.Namespace, config: RunConfig, context: Context, typed: Typed) -> int:
    """Trains a configured run, and reports it."""
    _check_registration(config)
    # The demo's datasets need no step of their own.
    ensure_demo_datasets([config.data.train, config.data.val], context)
    prepared, outcome = run_training(config, context, fresh=args.fresh, typed=typed)
    payload, text = report(prepared, outcome), summary(prepared, outcome)
    payload["page"], page_text = _page(context, prepared.run_id)
    text += page_text
    is_done = outcome.status == "finished"
    # A registration that fails does not lose the run; the message says how to register it later.
    if config.tracking.register_as is not None and is_done:
        name = config.tracking.register_as
        version, message = try_register(context, outcome.checkpoint, name=name, run_id=prepared.run_id)
        payload["registered"] = {"name": name, "version": version}
        text += f"\n  registered       {message}"
        is_done = version is not None
    emit(args, payload, text)
    return 0 if is_done else 1


def _page(context: Context, run_id: str) -> tuple[str | None, str]:
    """Returns the address of a run's page, and its line."""
    server = context.tracking_server
    # The pages of a database are not served until somebody asks for them.
    if not server.address.startswith("http"):
        return None, f"\n  pages         {command_line('ui')}"
    try:
        run = RunRecord(server, run_id).run
    # The run is complete; MLflow gets it later.
    except (UserError, RunFailed):
        return None, ""
    page = run_page(server.public_address, run.info.experiment_id, run.info.run_id)
    return page, f"\n  page          {page}"


def _check_registration(config: RunConfig) -> None:
    """Refuses to register another task's model, before anything is trained."""
    name = config.tracking.register_as
    if name is not None and not isinstance(config, ISNetConfig):
        raise UserError(
            f"tracking.register_as={name}: only ISNet's models are registered by `isnet`; leave it out, and register "
            f"the model of {config.task} with trainplane.registry.package"
        )
