"""`isnet train PRESET [a.b=c …]`: trains one run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from jobs.cli.main import emit
from jobs.config import load_run_config
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import with_located_masks
from jobs.registry.register import try_register
from jobs.train.run import run_training
from jobs.train.summary import report, summary
from trainplane.cluster.context import Context
from trainplane.train.run_config import is_identity_setting


def train(args: argparse.Namespace, context: Context) -> int:
    """Trains a run, and registers its model if asked."""
    config = with_located_masks(load_run_config(args.preset, args.overrides), context)
    # The demo's datasets need no step of their own.
    ensure_demo_datasets([config.data.train, config.data.val], context)
    prepared, outcome = run_training(config, context, fresh=args.fresh, label=_label(args.overrides))
    payload, text = report(prepared, outcome), summary(prepared, outcome)
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


def _label(overrides: Sequence[str]) -> str:
    """Overrides that decide the result, to tell runs apart."""
    return " ".join(word for word in overrides if is_identity_setting(word.partition("=")[0]))[:80]
