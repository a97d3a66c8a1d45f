"""Runs an evaluation: measures every model and writes the report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.evaluation import figures, mask_study, mlflow_record, pending_results
from jobs.evaluation.evaluation import Measured, Protocol, compare, measure_model
from jobs.evaluation.models import Model, open_model
from jobs.evaluation.report import Report, csv, markdown
from jobs.evaluation.report_html import page
from jobs.evaluation.scores import Score, to_csv
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.versions import evaluation_attachment
from trainplane.tracking import lineage
from trainplane.tracking.results import VersionAttachment

_LABELLED = re.compile(r"(?P<label>[A-Za-z0-9][A-Za-z0-9_.+ -]{0,39})=(?P<address>.+)")


PAGE, FIGURE, WORST = "report.html", "figure.png", "worst.png"


@dataclass(frozen=True)
class Recorded:
    """A report, its MLflow run and its folder; why MLflow does not have it yet, where it does not answer."""

    report: Report
    run_id: str
    folder: Path
    unsent: str | None


def _folder(output: str) -> Path:
    """The folder for the report, made; a `UserError` where that cannot be, before anything is measured."""
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be the report's folder ({error.strerror}); give another with -o") from error
    return folder


def recorded(
    context: Context,
    models: Mapping[str, Model],
    rules: Protocol,
    *,
    folder: Path | None = None,
    tasks: int = 0,
    with_study: bool = False,
) -> Recorded:
    """Measure and record; registered versions among the models have it attached, now or when MLflow answers."""
    run_id = mlflow_record.begin(context, models, rules)
    try:
        folder = folder or context.home / "evaluations" / run_id
        report = run(context, models, rules, folder=folder, tasks=tasks, with_study=with_study)
        result = mlflow_record.record_of(run_id, report, folder, _attachments(models, report, folder))
        return Recorded(report, run_id, folder, pending_results.send(context, result))
    except BaseException:
        # Whatever ended it, Ctrl-C too: no run may stay RUNNING.
        mlflow_record.fail(context, run_id)
        raise


def open_models(words: list[str], context: Context) -> dict[str, Model]:
    """The models by label: `LABEL=MODEL`, or the address itself."""
    found: dict[str, Model] = {}
    for word in words:
        match = _LABELLED.fullmatch(word)
        label, address = (match["label"], match["address"]) if match else (word, word)
        if label in found:
            raise UserError(f"two models are called {label!r}; call one of them otherwise: NAME={address}")
        found[label] = open_model(address, context)
    return found


def run(
    context: Context,
    models: Mapping[str, Model],
    rules: Protocol,
    *,
    folder: Path,
    tasks: int = 0,
    with_study: bool = False,
) -> Report:
    """Measure every model, compare the others with the first, and write all files of the report into `folder`."""
    measured = {label: measure_model(model, rules, context=context, tasks=tasks) for label, model in models.items()}
    ours, *others = measured.values()
    study = []
    if with_study:

        def scored(changed: Protocol) -> list[Score]:
            return measure_model(ours.model, changed, context=context, tasks=tasks).scores

        study = mask_study.study(rules, scored, nearest=ours.scores)
    labels = list(measured)
    worst = figures.worst(ours.scores)
    report = Report(
        evaluations={label: found.evaluation for label, found in measured.items()},
        comparisons={
            label: compare(ours.scores, found.scores) for label, found in zip(labels[1:], others, strict=True)
        },
        study=study,
        worst=figures.facts_of(worst),
        facts=facts(models, rules),
    )
    _write(folder, report, measured, rules, worst)
    return report


def facts(models: Mapping[str, Model], rules: Protocol) -> dict[str, str]:
    """The head of a report: what exactly was measured."""
    pairing = rules.bench.pairing
    code = lineage.code_tags()
    dirty = " with changes" if code["trainplane.dirty"] == "true" else ""
    return {
        **{f"model {label}": model.pinned for label, model in models.items()},
        "pictures": f"{rules.name}, digest {pairing.dataset_digest}",
        "masks": f"{rules.masks}, loaded {pairing.loading}",
        "list": f"{len(pairing.pairs)} pairs of picture and hole, digest {pairing.digest}",
        "measure": f"definition {rules.bench.definition} on composites, {pairing.size}x{pairing.size}",
        "code": f"{code['trainplane.commit']}{dirty}",
    }


def _write(folder: Path, report: Report, measured: Mapping[str, Measured], rules: Protocol, worst: list[Score]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    models = {label: found.model for label, found in measured.items()}
    psnr = {label: {one.pair: one.psnr for one in found.scores} for label, found in measured.items()}
    chosen = figures.representative(measured[report.ours].scores)
    figure, bad = (figures.strips(pairs, rules.bench, models, psnr=psnr) for pairs in (chosen, worst))
    for name, strips in ((FIGURE, figure), (WORST, bad)):
        (folder / name).write_bytes(figures.png(figures.sheet(strips)))
    texts = {
        "report.json": json.dumps(report.to_json(), ensure_ascii=False, indent=1),
        "report.csv": csv(report),
        "report.md": markdown(report, pictures={"Pictures": FIGURE, "What it fills worst": WORST}),
        PAGE: page(report, figure=figure, worst=bad),
        "pairs.json": rules.bench.pairing.to_json().decode(),
        **{f"scores-{number}.csv": to_csv(found.scores) for number, found in enumerate(measured.values())},
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _attachments(models: Mapping[str, Model], report: Report, folder: Path) -> list[VersionAttachment]:
    """Evaluations of the registered versions among the models, with the files that are stored with each."""
    attachments = []
    for number, (label, model) in enumerate(models.items()):
        if model.pinned.startswith("models:/"):
            files = {"scores.csv": folder / f"scores-{number}.csv"}
            if label == report.ours:
                files |= {name: folder / name for name in (PAGE, FIGURE, WORST)}
            attachments.append(evaluation_attachment(model.pinned, report.evaluations[label], files))
    return attachments
