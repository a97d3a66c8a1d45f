"""An evaluation in MLflow: one run for one measurement, with its metrics, tables, pictures, page and scores.

The same models on the same list of pairs are the same run, however often they are measured. A registered version keeps
its evaluation as well (`registry.versions`). Not here: what is measured.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from isnet.metrics import METRICS
from jobs.evaluation.evaluation import Protocol
from jobs.evaluation.models import Model
from jobs.evaluation.report import Report, tables
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.markdown import escaped, markdown_table
from trainplane.tracking import lineage
from trainplane.tracking.results import RunResult, VersionAttachment
from trainplane.tracking.runs import end_run, find_or_create_run

EXPERIMENT = "isnet-evaluations"


def begin(context: Context, models: Mapping[str, Model], rules: Protocol) -> str:
    """The run of this measurement, now RUNNING; a `UserError` where MLflow does not answer."""
    pairing = rules.bench.pairing
    addresses = {label: model.pinned for label, model in models.items()}
    keys = _keys(models)
    identity = canonical_json([addresses, pairing.digest, rules.bench.definition])
    labels = ", ".join(models)
    run = find_or_create_run(
        context.tracking_server,
        EXPERIMENT,
        run_key=hashlib.sha256(identity).hexdigest(),
        run_name=f"{labels} on {rules.name}"[:200],
        tags={
            **lineage.code_tags(),
            "isnet.masks_digest": pairing.digest,
            "isnet.definition": rules.bench.definition,
            **{f"isnet.model.{keys[label]}": address for label, address in addresses.items()},
        },
        artifact_root=context.artifacts,
    )
    lineage.log_dataset(
        context.tracking_server,
        run.run_id,
        name=rules.name,
        digest=pairing.dataset_digest,
        address=rules.dataset.address,
        context="evaluation",
    )
    return run.run_id


def record_of(run_id: str, report: Report, folder: Path, attachments: Sequence[VersionAttachment]) -> RunResult:
    """Figures of the report, every file of `folder`, and attachments to registered versions."""
    # The page's first screen in MLflow is the run's description.
    tags = {"mlflow.note.content": _note(report)}
    return RunResult(run_id, folder, _metrics(report), tags, attachments=attachments)


def fail(context: Context, run_id: str) -> None:
    """Close the run of a measurement that did not come to an end; a dead server changes nothing about that."""
    try:
        end_run(context.tracking_server, run_id, "FAILED")
    except UserError:
        return


def _metrics(report: Report) -> dict[str, float]:
    """`LABEL/psnr`, `LABEL/psnr_10-20`, …, and what the model costs."""
    found: dict[str, float] = {}
    keys = _keys(report.evaluations)
    for label, evaluation in report.evaluations.items():
        for name, row in evaluation["bins"].items():
            for metric in METRICS:
                found[f"{keys[label]}/{metric}{'' if name == 'all' else f'_{name}'}"] = float(row[metric])
        costs: dict[str, Any] = evaluation["cost"]
        found |= {f"{keys[label]}/{name}": float(value) for name, value in costs.items() if value is not None}
    return found


def _keys(labels: Iterable[str]) -> dict[str, str]:
    """Labels as MLflow's names may be, no two of them alike: one model's figures would replace another's."""
    keys = {label: re.sub(r"[^A-Za-z0-9_.@ -]", "_", label)[:100] for label in labels}
    shared = {key for key, times in Counter(keys.values()).items() if times > 1}
    # Two steps of one run in a deep folder, say, which differ only beyond what is kept of an address.
    return {
        label: f"{key[:91]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}" if key in shared else key
        for label, key in keys.items()
    }


def _note(report: Report) -> str:
    shown = tables(report)[: len(METRICS)]
    return "\n\n".join(
        f"**{escaped(table['title'])}**\n\n{markdown_table(table['columns'], table['rows'])}" for table in shown
    )[:5000]
