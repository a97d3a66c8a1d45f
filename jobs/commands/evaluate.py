"""`isnet evaluate MODEL… DATASET`: measures models by hole ratio.

All models are measured on one fixed list of pairs of picture and hole.
"""

from __future__ import annotations

import argparse

from jobs.api.evaluations import evaluate as evaluate_models
from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.evaluation.report import terminal_text
from trainplane.cluster.context import Context
from trainplane.errors import UserError


def evaluate(args: argparse.Namespace, context: Context) -> int:
    """Evaluates models on the same pictures and holes."""
    # The last word is the dataset; argparse cannot tell it from the models.
    *words, dataset = args.words
    if not words:
        raise UserError(f"{dataset!r} alone is not enough; need MODEL… and then DATASET")
    recording = evaluate_models(
        words,
        dataset,
        masks=args.masks,
        size=args.size,
        seed=args.seed,
        definition=args.definition,
        paper=args.paper,
        mask_loading=args.mask_loading,
        pictures=args.pictures,
        lpips=args.lpips,
        fid=args.fid,
        refine=args.refine,
        mask_study=args.mask_study,
        parallel=args.parallel,
        output=args.output,
        context=context,
    )
    # The report is complete; only MLflow does not have it yet.
    if recording.unsent is not None:
        notify(recording.unsent)
    text = f"{terminal_text(recording.report)}\npage: {recording.page}\nMLflow run: {recording.run_id}"
    emit(args, recording.to_json(), text)
    return 0
