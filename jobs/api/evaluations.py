"""Measures models: `isnet evaluate`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal

from jobs.api.session import session
from jobs.cluster.worker_pool import task_count
from jobs.evaluation.evaluation import make_protocol
from jobs.evaluation.paper_tables import OF_ISNET, OF_OTHERS, OF_THE_FIELD, PAPER_SIZE
from jobs.evaluation.report_folder import report_folder
from jobs.evaluation.run import RecordedEvaluation, evaluate_and_record, open_models
from trainplane.cluster.context import Context
from trainplane.errors import UserError


def evaluate(
    models: str | Sequence[str] | Mapping[str, str],
    dataset: str,
    *,
    masks: str = "irregular",
    size: int | None = None,
    seed: int = 0,
    definition: Literal["isnet", "edge_connect", "skimage"] = "isnet",
    paper: Literal["places2", "celeba"] | None = None,
    mask_loading: Literal["nearest", "legacy-png", "legacy-jpeg"] = "nearest",
    pictures: int | None = None,
    lpips: Literal["alex", "vgg"] | None = None,
    fid: bool = False,
    refine: Literal["off", "auto"] = "off",
    mask_study: bool = False,
    parallel: int | None = None,
    output: str | os.PathLike[str] | None = None,
    context: Context | str | None = None,
) -> RecordedEvaluation:
    """Measures models on the same pictures and holes.

    The report is recorded in MLflow, and attached to the registered versions among the models.

    Args:
        models: Address, several of them, or addresses by label; ours first.
        dataset: Held-out pictures, a name or an address.
        masks: Generator, or a dataset of masks.
        size: Side of the centre square, pixels; by default the model's, with `paper` 256.
        seed: Of the fixed list of masks, 0 or more.
        definition: Of PSNR, SSIM and L1.
        paper: Measure by all definitions, and set the paper's table of this test set beside ours.
        mask_loading: How mask files are resized; legacy as the author's loader, which shrinks holes.
        pictures: Measure on so many, evenly drawn; None for all.
        lpips: Measure LPIPS too, on this backbone.
        fid: Measure FID, P-IDS and U-IDS too; needs 1,000 pictures.
        refine: "auto" measures networks as they fill photos, coarse to fine; "off" at the square's own scale.
        mask_study: Measure what the way of loading masks does, too.
        parallel: Tasks of Ray; 0 is this process.
        output: Folder for a copy of the report.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: A model or the dataset cannot be opened; nothing was measured.
    """
    with session(context, is_recording=True, is_long=True) as opened:
        if paper is not None and definition != OF_ISNET:
            raise UserError(f"--paper measures by all definitions, and got --definition {definition}; leave it out")
        # Bad folders and addresses are refused before anything is measured.
        folder = report_folder(os.fspath(output)) if output else None
        labelled = open_models(_words(models), opened)
        protocol = make_protocol(
            opened,
            dataset,
            masks=masks,
            size=size or (PAPER_SIZE if paper else next((m.size for m in labelled.values() if m.size), PAPER_SIZE)),
            seed=seed,
            definition=definition,
            also=(OF_OTHERS, OF_THE_FIELD) if paper else (),
            loading=mask_loading,
            pictures=pictures,
            lpips=lpips,
            fid=fid,
            refine=refine,
        )
        # The study loads the masks of a dataset in every way, so it starts from files and the plain way.
        if mask_study and (protocol.eval_set.mask_set is None or mask_loading != "nearest"):
            raise UserError(
                "--mask-study compares ways of loading masks: give a packed mask dataset and no --mask-loading"
            )
        tasks = task_count(parallel)
        return evaluate_and_record(
            opened, labelled, protocol, folder=folder, tasks=tasks, with_study=mask_study, paper=paper
        )


def _words(models: str | Sequence[str] | Mapping[str, str]) -> list[str]:
    """Models as on the command line: `LABEL=MODEL` or an address."""
    if isinstance(models, str):
        return [models]
    return [f"{label}={model}" for label, model in models.items()] if isinstance(models, Mapping) else list(models)
