"""`isnet evaluate MODEL DATASET`: the table by hole ratio."""

from __future__ import annotations

import argparse

from jobs.cli import emit
from jobs.evaluating import evaluate_model, protocol, table
from jobs.model_ref import open_model
from trainplane.cluster.context import resolve
from trainplane.registry.versions import attach_evaluation, find_version


def evaluate(args: argparse.Namespace) -> int:
    """The command. The evaluation of a registered version is kept with it."""
    context = resolve(args.context)
    context.activate()
    model = open_model(args.model, context)
    rules = protocol(
        context,
        args.dataset,
        masks=args.masks,
        size=args.size or model.size or 256,
        seed=args.seed,
        definition=args.definition,
    )
    found = evaluate_model(model, rules)
    if args.model.startswith("models:/"):
        version = find_version(context.tracking, args.model)
        attach_evaluation(context.tracking, version.name, version.version, found)
    emit(args, found, table([found]))
    return 0
