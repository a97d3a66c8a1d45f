"""Runs an evaluation: measures models, writes and records the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.evaluation import figures, mask_study, mlflow_record, pending_results
from jobs.evaluation.evaluation import Measurement, Protocol, compare, measure_model
from jobs.evaluation.headline import ranking
from jobs.evaluation.models import Model, open_model
from jobs.evaluation.paper_tables import Paper
from jobs.evaluation.report import Report, csv, markdown
from jobs.evaluation.report_folder import is_of_report, write_files
from jobs.evaluation.report_html import page
from jobs.evaluation.scores import to_csv
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.versions import evaluation_attachment
from trainplane.tracking import lineage
from trainplane.tracking.images import contact_sheet
from trainplane.tracking.results import VersionAttachment

# `LABEL=MODEL`; addresses of files may contain `=`, so a label has few characters.
_LABELLED = re.compile(r"(?P<label>[A-Za-z0-9][A-Za-z0-9_.+ -]{0,39})=(?P<address>.+)")
# Files of a report that are also stored with a registered version.
PAGE, FIGURE, WORST = "report.html", "figure.png", "worst.png"


@dataclass(frozen=True)
class RecordedEvaluation:
    """A report and its record in MLflow."""

    report: Report
    run_id: str
    folder: Path
    unsent: str | None  # message if the result waits on this disk, because MLflow does not answer

    @property
    def page(self) -> Path:
        """File of the report for a browser."""
        return self.folder / PAGE

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet evaluate --json` prints."""
        record = {"run_id": self.run_id, "folder": str(self.folder), "page": str(self.page), "unsent": self.unsent}
        return {**self.report.to_json(), **record}


def open_models(args: list[str], context: Context) -> dict[str, Model]:
    """Opens models by label: `LABEL=MODEL`, or a bare address."""
    models: dict[str, Model] = {}
    for arg in args:
        match = _LABELLED.fullmatch(arg)
        label, address = (match["label"], match["address"]) if match else (arg, arg)
        if label in models:
            raise UserError(f"two models are called {label!r}; call one of them otherwise: NAME={address}")
        models[label] = open_model(address, context)
    return models


def evaluate_and_record(
    context: Context,
    models: Mapping[str, Model],
    protocol: Protocol,
    *,
    folder: Path | None = None,
    tasks: int = 0,
    with_study: bool = False,
    paper: Paper | None = None,
    measured: Mapping[str, Measurement] | None = None,
) -> RecordedEvaluation:
    """Evaluates models and records the report in MLflow.

    The evaluation of a registered version is attached to it. If MLflow does not answer when the measuring is done, the
    result is sent later.

    Args:
        context: tracking server, cluster and home folder.
        models: models by label, ours first.
        protocol: data and settings.
        folder: for a copy of the report's files, beside those of the run below the home folder.
        tasks: number of Ray tasks at once; 0 for this process.
        with_study: also compare the ways of loading masks.
        paper: test set of the paper whose table is set beside ours; the protocol has all definitions then.
        measured: measurements of the models by this protocol that exist already.
    """
    run = mlflow_record.start_run(context, models, protocol)
    try:
        # Stored in a folder of the run's own, all of which goes to MLflow, and copied to the user's.
        own = context.home / "evaluations" / run.run_id
        report = evaluate(
            context,
            models,
            protocol,
            folder=own,
            tasks=tasks,
            with_study=with_study,
            paper=paper,
            measured=measured,
        )
        if folder is not None:
            write_files(folder, {path.name: path.read_bytes() for path in own.iterdir() if is_of_report(path.name)})
        result = mlflow_record.run_result(run.run_id, report, own, _attachments(models, report, own))
        unsent = pending_results.send(context, result)
        return RecordedEvaluation(report, run.run_id, folder or own, unsent)
    except BaseException as error:
        # Also after Ctrl-C: no run may stay RUNNING.
        mlflow_record.close_run(context, run, error)
        raise


def evaluate(
    context: Context,
    models: Mapping[str, Model],
    protocol: Protocol,
    *,
    folder: Path,
    tasks: int = 0,
    with_study: bool = False,
    paper: Paper | None = None,
    measured: Mapping[str, Measurement] | None = None,
) -> Report:
    """Measures models, ours first, and writes the report into `folder`."""
    models = {label: model.with_refine(protocol.eval_set.refine) for label, model in models.items()}

    def measure(model: Model, protocol: Protocol) -> Measurement:
        return measure_model(model, protocol, context=context, tasks=tasks)

    # Measure one model after the other, each with all tasks, then ours again for the study.
    existing = measured or {}
    measurements = {label: existing.get(label) or measure(model, protocol) for label, model in models.items()}
    (ours_label, ours), *others = measurements.items()
    study = []
    if with_study:
        study = mask_study.study(
            protocol, lambda changed: measure(models[ours_label], changed).scores, nearest=ours.scores
        )
    report = Report(
        evaluations={label: measurement.evaluation for label, measurement in measurements.items()},
        comparisons={label: compare(ours.scores, measurement.scores) for label, measurement in others},
        study=study,
        worst=figures.pair_rows(figures.worst_pairs(ours.scores)),
        facts=_facts(models, protocol),
        paper=paper,
        lead=_lead(measurements),
    )
    _write(folder, report, models, measurements, protocol)
    return report


def _lead(measurements: Mapping[str, Measurement]) -> dict[str, Any] | None:
    """Compares the PSNR of the best model and the second."""
    ranked = ranking({label: measurement.evaluation for label, measurement in measurements.items()})
    if len(ranked) == 1:
        return None
    best, second = (measurements[label].scores for label in ranked[:2])
    return compare(best, second, bins=("all",))["all"]["psnr"]


def _facts(models: Mapping[str, Model], protocol: Protocol) -> dict[str, str]:
    """Identifies what was measured, for the report's head."""
    # With these digests and this commit the numbers can be reproduced.
    pairing = protocol.eval_set.pairing
    code = lineage.code_tags()
    dirty = " with changes" if code["trainplane.dirty"] == "true" else ""
    return {
        **{f"model {label}": model.pinned for label, model in models.items()},
        "pictures": f"{protocol.name}, digest {pairing.dataset_digest}",
        "masks": f"{protocol.masks}, loaded {pairing.loading}",
        "list": f"{len(pairing.pairs)} pairs of picture and hole, digest {pairing.digest}",
        "measure": f"{_definitions(protocol)} on composites, {pairing.size}x{pairing.size}{_scales(protocol)}",
        "code": f"{code['trainplane.commit']}{dirty}",
    }


def _scales(protocol: Protocol) -> str:
    return "" if protocol.eval_set.refine == "off" else ", networks fill coarse to fine (refine auto)"


def _definitions(protocol: Protocol) -> str:
    names = protocol.eval_set.definitions
    return f"definition{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _write(
    folder: Path,
    report: Report,
    models: Mapping[str, Model],
    measurements: Mapping[str, Measurement],
    protocol: Protocol,
) -> None:
    # Draw the pictures; the models fill these pairs once more.
    psnr = {label: {score.pair: score.psnr for score in m.scores} for label, m in measurements.items()}
    ours, eval_set = measurements[report.ours].scores, protocol.eval_set
    examples, worst = (
        figures.rows(pairs, eval_set, models, psnr=psnr)
        for pairs in (figures.representative_pairs(ours), figures.worst_pairs(ours))
    )
    best = measurements[ranking(report.evaluations)[0]].scores
    costs = [evaluation["cost"] for evaluation in report.evaluations.values()]
    photo = figures.whole_photo(best, eval_set, models, costs=costs)
    # The report in each format, the pairs, and the scores of each model.
    texts = {
        "report.json": json.dumps(report.to_json(), ensure_ascii=False, indent=1),
        "report.csv": csv(report),
        "report.md": markdown(report, pictures={"Pictures": FIGURE, "Worst pairs": WORST}),
        PAGE: page(report, photo=photo, examples=examples, worst=worst),
        "pairs.json": eval_set.pairing.to_json().decode(),
        **{f"scores-{number}.csv": to_csv(m.scores) for number, m in enumerate(measurements.values())},
    }
    files = {name: text.encode("utf-8", errors="backslashreplace") for name, text in texts.items()}
    sheets = ((FIGURE, [photo, *examples]), (WORST, worst))
    files |= {name: figures.png(contact_sheet(figures.titled_strips(rows))) for name, rows in sheets}
    write_files(folder, files)


def _attachments(models: Mapping[str, Model], report: Report, folder: Path) -> list[VersionAttachment]:
    """Evaluations and files for the registered versions among the models."""
    attachments = []
    for number, (label, model) in enumerate(models.items()):
        if model.pinned.startswith("models:/"):
            # The report is about the first model; the others only get their scores.
            files = {"scores.csv": folder / f"scores-{number}.csv"}
            if label == report.ours:
                files |= {name: folder / name for name in (PAGE, FIGURE, WORST)}
            attachments.append(evaluation_attachment(model.pinned, report.evaluations[label], files))
    return attachments
