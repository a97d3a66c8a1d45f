"""`isnet evaluate MODEL… DATASET`: the table by hole ratio, of one model or of many on the same pictures and holes.

Everything is measured on one fixed list of pairs and left as Markdown, CSV, JSON and an HTML page with pictures, in a
folder and in MLflow. The evaluation of a registered version is kept with it. Not here: what each part does
(pairing.py, scoring.py, evaluating.py, report.py and its pages).
"""

from __future__ import annotations

import argparse
import sys

from jobs.cli.main import emit
from jobs.cluster.worker_pool import tasks_wanted
from jobs.evaluation.evaluation import protocol
from jobs.evaluation.report import plain
from jobs.evaluation.run import PAGE, _folder, open_models, recorded
from trainplane.cluster.context import resolve
from trainplane.errors import UserError


def evaluate(args: argparse.Namespace) -> int:
    """The command."""
    *words, dataset = args.words
    if not words:
        raise UserError(f"{dataset!r} alone is not enough; need MODEL… and then DATASET")
    folder = _folder(args.output) if args.output else None
    context = resolve(args.context)
    context.activate()
    models = open_models(words, context)
    rules = protocol(
        context,
        dataset,
        masks=args.masks,
        size=args.size or next((model.size for model in models.values() if model.size), 256),
        seed=args.seed,
        definition=args.definition,
        loading=args.mask_loading,
        pictures=args.pictures,
    )
    if args.mask_study and (rules.bench.mask_set is None or args.mask_loading != "nearest"):
        raise UserError("--mask-study compares ways of loading masks: give a packed mask dataset and no --mask-loading")
    found = recorded(
        context,
        models,
        rules,
        folder=folder,
        tasks=tasks_wanted(args.parallel),
        with_study=args.mask_study,
    )
    if found.unsent is not None:
        print(f"isnet: {found.unsent}", file=sys.stderr)
    page_of = found.folder / PAGE
    places = {"run_id": found.run_id, "folder": str(found.folder), "page": str(page_of), "unsent": found.unsent}
    text = f"{plain(found.report)}\npage: {page_of}\nMLflow run: {found.run_id}"
    emit(args, {**found.report.to_json(), **places}, text)
    return 0
