"""`isnet evaluate MODEL… DATASET`: measures models by hole ratio.

All models are measured on one fixed list of pairs of picture and hole.
"""

from __future__ import annotations

import argparse

from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.cluster.worker_pool import task_count
from jobs.evaluation.evaluation import make_protocol
from jobs.evaluation.report import terminal_text
from jobs.evaluation.report_folder import report_folder
from jobs.evaluation.run import PAGE, evaluate_and_record, open_models
from trainplane.cluster.context import Context
from trainplane.errors import UserError


def evaluate(args: argparse.Namespace, context: Context) -> int:
    """Evaluates models on the same pictures and holes."""
    # The last word is the dataset; argparse cannot tell it from the models.
    *words, dataset = args.words
    if not words:
        raise UserError(f"{dataset!r} alone is not enough; need MODEL… and then DATASET")
    # Bad folders and addresses are refused before anything is measured.
    folder = report_folder(args.output) if args.output else None
    models = open_models(words, context)
    rules = make_protocol(
        context,
        dataset,
        masks=args.masks,
        size=args.size or next((model.size for model in models.values() if model.size), 256),
        seed=args.seed,
        definition=args.definition,
        loading=args.mask_loading,
        pictures=args.pictures,
    )
    # The study loads the masks of a dataset in every way, so it starts from files and the plain way.
    if args.mask_study and (rules.eval_set.mask_set is None or args.mask_loading != "nearest"):
        raise UserError("--mask-study compares ways of loading masks: give a packed mask dataset and no --mask-loading")
    recording = evaluate_and_record(
        context,
        models,
        rules,
        folder=folder,
        tasks=task_count(args.parallel),
        with_study=args.mask_study,
    )
    # The report is complete; only MLflow does not have it yet.
    if recording.unsent is not None:
        notify(recording.unsent)
    page = recording.folder / PAGE
    payload = {
        **recording.report.to_json(),
        "run_id": recording.run_id,
        "folder": str(recording.folder),
        "page": str(page),
        "unsent": recording.unsent,
    }
    emit(args, payload, f"{terminal_text(recording.report)}\npage: {page}\nMLflow run: {recording.run_id}")
    return 0
