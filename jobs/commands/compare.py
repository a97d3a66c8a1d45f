"""`isnet runs compare RUN RUN …`: what differs between runs.

Not covered: whether a difference is more than chance, which `isnet evaluate` tells of models on the same pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.cli.format import METRIC_COLUMNS
from jobs.cli.main import emit
from jobs.commands.runs import current_settings, saved_state
from jobs.evaluation.model_address import run_id_of
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.errors import UserError
from trainplane.tracking.run_record import RunRecord

_PREFIX = "val/"
_ID_DIGITS = 8


def compare(args: argparse.Namespace, context: Context) -> int:
    """Prints differing settings, and metrics side by side."""
    records = [RunRecord(context.tracking_server, run_id_of(run, context)) for run in args.runs]
    ids = [record.run_id for record in records]
    if len(set(ids)) < max(2, len(ids)):
        raise UserError(
            f"got {len(set(ids))} different runs, need two or more, each once; "
            f"`{command_line('runs', 'list')}` shows them"
        )
    settings = different([_settings(record) for record in records])
    metrics = table([_metrics(record) for record in records])
    payload = {
        "runs": [
            {"run_id": record.run_id, "name": record.run.info.run_name, "status": record.status} for record in records
        ],
        "settings": settings,
        "metrics": metrics,
    }
    emit(args, payload, _text(payload))
    return 0


def _settings(record: RunRecord) -> dict[str, Any]:
    """Settings of a run now, and its data's digests."""
    recorded = flatten(json.loads(record.read_text("config.json") or "{}")) or record.params
    step, stored = saved_state(record.tags)
    settings = current_settings(recorded, stored, record.tags.get("trainplane.typed"))
    # What a run is called says nothing about what it does.
    settings.pop("name", None)
    digests = {f"{purpose} digest": record.tags.get(f"trainplane.dataset.{purpose}") for purpose in _DATASETS}
    return {**settings, **digests, "saved step": step}


_DATASETS = ("training", "validation")


def _metrics(record: RunRecord) -> dict[str, float]:
    metrics = record.run.data.metrics
    return {name.removeprefix(_PREFIX): value for name, value in metrics.items() if name.startswith(_PREFIX)}


def different(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values of each run, by name, where they differ."""
    rows = table(settings)
    return {name: values for name, values in rows.items() if any(str(value) != str(values[0]) for value in values)}


def table(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values by name, one a column; None for none."""
    names = sorted({name for column in columns for name in column})
    return {name: [column.get(name) for column in columns] for name in names}


def _text(payload: Mapping[str, Any]) -> str:
    runs = payload["runs"]
    lines = [f"{run['run_id'][:_ID_DIGITS]}  {run['status']:<9} {run['name']}" for run in runs]
    settings = {
        name: ["-" if value is None else str(value) for value in row] for name, row in payload["settings"].items()
    }
    metrics = {name: [_figure(name, value) for value in row] for name, row in payload["metrics"].items()}
    ids = [run["run_id"][:_ID_DIGITS] for run in runs]
    for title, rows in (("settings that differ", settings), ("last metrics", metrics)):
        lines += ["", f"{title}:", *(_aligned({"": ids, **rows}) if rows else ["  none"])]
    return "\n".join(lines)


def _figure(name: str, value: float | None) -> str:
    # `psnr_10-20` is the metric `psnr` of a bin.
    digits = METRIC_COLUMNS.get(name.rpartition("_")[0] or name, METRIC_COLUMNS.get(name, ("", 4)))[1]
    return "-" if value is None else f"{value:.{digits}f}"


def _aligned(rows: Mapping[str, Sequence[str]]) -> list[str]:
    first = max(map(len, rows))
    widths = [max(map(len, column)) for column in zip(*rows.values(), strict=True)]
    return [
        f"  {name:<{first}}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        for name, row in rows.items()
    ]
