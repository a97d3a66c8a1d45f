"""Records an evaluation as a run in MLflow.

The same models on the same list of pairs are always the same run.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from isnet.metrics import METRICS
from jobs.cli.format import metric_names
from jobs.evaluation.evaluation import Protocol
from jobs.evaluation.models import Model
from jobs.evaluation.report import Report, tables
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.markdown import escaped, markdown_table
from trainplane.tracking import lineage
from trainplane.tracking.results import RunResult, VersionAttachment
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import RunHandle, discard_run, end_run, exit_status, find_or_create_run

EXPERIMENT = "isnet-evaluations"


def start_run(context: Context, models: Mapping[str, Model], protocol: Protocol) -> RunHandle:
    """Starts or reopens the evaluation's run."""
    pairing = protocol.eval_set.pairing
    addresses = {label: model.pinned for label, model in models.items()}
    keys = _keys(models)
    # The run key identifies models, list and definitions: the same measurement finds its run again.
    further = protocol.networks.names if protocol.networks else ()
    further += () if protocol.eval_set.refine == "off" else (f"refine-{protocol.eval_set.refine}",)
    identity = canonical_json([addresses, pairing.digest, *protocol.eval_set.definitions, *further])
    labels = ", ".join(models)
    run = find_or_create_run(
        context.tracking_server,
        RunSpec(
            EXPERIMENT,
            run_key=hashlib.sha256(identity).hexdigest(),
            run_name=f"{labels} on {protocol.name}"[:200],
            tags={
                **lineage.code_tags(),
                **lineage.job_tags(),
                "isnet.masks_digest": pairing.digest,
                "isnet.definition": ", ".join(protocol.eval_set.definitions),
                **{f"isnet.model.{keys[label]}": address for label, address in addresses.items()},
            },
            artifact_root=context.artifacts,
        ),
    )
    try:
        lineage.log_dataset(
            context.tracking_server,
            run.run_id,
            name=protocol.name,
            digest=pairing.dataset_digest,
            address=protocol.dataset.address,
            context="evaluation",
        )
    # Whatever ended it, an interruption too: the run must not stay open. The error is raised again.
    except BaseException as error:
        close_run(context, run, error)
        raise
    return run


def run_result(run_id: str, report: Report, folder: Path, attachments: Sequence[VersionAttachment]) -> RunResult:
    """Collects the run's metrics, files and attachments to versions."""
    # MLflow's page of a run begins with its description.
    tags = {"mlflow.note.content": _note(report)}
    return RunResult(run_id, folder, _metrics(report), tags, attachments=attachments)


def close_run(context: Context, run: RunHandle, error: BaseException) -> None:
    """Closes the run of an evaluation that `error` ended."""
    # Where the server is unreachable, the evaluation's own error counts.
    with suppress(UserError, RunFailed):
        # A mistake of the user leaves nothing behind; a run of earlier evaluations stays.
        if isinstance(error, UserError) and not run.resumed:
            discard_run(context.tracking_server, run.run_id)
        else:
            end_run(context.tracking_server, run.run_id, exit_status(error)[0])


def _metrics(report: Report) -> dict[str, float]:
    """Metrics of the run: `LABEL/psnr`, `LABEL/psnr_10-20`, …, costs."""
    metrics: dict[str, float] = {}
    keys = _keys(report.evaluations)
    for label, evaluation in report.evaluations.items():
        for name, row in evaluation["bins"].items():
            for metric in metric_names(row):
                metrics[f"{keys[label]}/{metric}{'' if name == 'all' else f'_{name}'}"] = float(row[metric])
        costs: dict[str, Any] = evaluation["cost"]
        metrics |= {f"{keys[label]}/{name}": float(value) for name, value in costs.items() if value is not None}
    return metrics


def _keys(labels: Iterable[str]) -> dict[str, str]:
    """Makes a unique metric prefix of each label."""
    # Short and without `/` and `:`, which would be read as groups of metrics, and without what MLflow refuses.
    keys = {label: re.sub(r"[^A-Za-z0-9_. -]", "_", label)[:100] for label in labels}
    # With one prefix for two labels one model's metrics would replace the other's.
    shared = {key for key, times in Counter(keys.values()).items() if times > 1}
    # Labels may differ only beyond the first 100 characters, such as two steps of a run in a deep folder.
    return {
        label: f"{key[:91]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}" if key in shared else key
        for label, key in keys.items()
    }


def _note(report: Report) -> str:
    # The first tables are the metrics.
    return "\n\n".join(
        f"**{escaped(table['title'])}**\n\n{markdown_table(table['columns'], table['rows'])}"
        for table in tables(report)[: len(METRICS)]
    )[:5000]
