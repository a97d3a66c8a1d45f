"""Compares runs: settings that differ, metrics, curves and pictures.

Not covered: whether a difference is more than chance, which `isnet evaluate` tells of models on the same pictures.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jobs.evaluation.model_address import run_id_of
from jobs.tracking.current_settings import current_settings, saved_state
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.errors import UserError
from trainplane.tracking.local.lists import FoundRun
from trainplane.tracking.query.curves import Curve, read_curves
from trainplane.tracking.query.records import read_artifact, read_runs

_PREFIX = "val/"
_TRAINING = "train/"
_DATASETS = ("training", "validation")
_DATASET_TAG = "trainplane.dataset."
# Held-out samples that are shown, and curves at most.
_PICTURES = 4
_CURVES = 16


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs that are compared."""

    run_id: str
    name: str
    status: str


@dataclass(frozen=True)
class RunComparison:
    """Differences of runs; each row has a value of each.

    Attributes:
        runs: In the order in which they were named.
        settings: That differ, by name; None where a run has none.
        metrics: Last held-out metrics, by name without `val/`.
        curves: By metric, about 300 points of each run.
        pictures: Newest held-out samples as PNG, by run; None where a run has none.
    """

    runs: list[ComparedRun]
    settings: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    curves: dict[str, list[Curve]]
    pictures: list[list[bytes | None]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet runs compare --json` prints."""
        return {
            "runs": [asdict(run) for run in self.runs],
            "settings": self.settings,
            "metrics": self.metrics,
            "curves": {name: [asdict(curve) for curve in curves] for name, curves in self.curves.items()},
        }

    def to_html(self) -> str:
        """Returns one page for a browser."""
        from jobs.tracking.comparison_page import comparison_page

        return comparison_page(self)


def compare_runs(named: Sequence[str], context: Context, *, with_pictures: bool) -> RunComparison:
    """Compares runs.

    Args:
        named: Ids, beginnings of ids, or models for the runs that made them.
        context: Has the record of the runs.
        with_pictures: Read the pictures, too.

    Raises:
        UserError: There are fewer than two different runs.
    """
    server = context.tracking_server
    runs = read_runs(server, [run_id_of(name, context) for name in named])
    different_runs = {run.run_id for run in runs}
    if len(different_runs) < max(2, len(runs)):
        raise UserError(
            f"got {len(different_runs)} different runs, need two or more, each once; "
            f"`{command_line('runs', 'list')}` shows them"
        )
    with tempfile.TemporaryDirectory() as scratch:
        settings = different([_settings(run, context, Path(scratch)) for run in runs])
        pictures = [_pictures(run, context, Path(scratch)) if with_pictures else [] for run in runs]
    names = _curve_names(runs)
    columns = [read_curves(server, run, names) for run in runs]
    return RunComparison(
        [ComparedRun(run.run_id, run.name, run.status) for run in runs],
        settings,
        table([_metrics(run) for run in runs]),
        {name: [column[place] for column in columns] for place, name in enumerate(names)},
        pictures,
    )


def _settings(run: FoundRun, context: Context, scratch: Path) -> dict[str, Any]:
    """Settings of a run now, and its data's digests."""
    config = read_artifact(context.tracking_server, run, "config.json", scratch)
    recorded = flatten(json.loads(config or b"{}")) or run.params
    step, stored = saved_state(run.tags)
    settings = current_settings(recorded, stored, run.tags.get("trainplane.typed"))
    # What a run is called says nothing about what it does.
    settings.pop("name", None)
    # Further training datasets are counted: training.2, training.3.
    purposes = {tag.removeprefix(_DATASET_TAG) for tag in run.tags if tag.startswith(f"{_DATASET_TAG}training.")}
    digests = {f"{name} digest": run.tags.get(f"{_DATASET_TAG}{name}") for name in (*_DATASETS, *purposes)}
    return {**settings, **digests, "saved step": step}


def _metrics(run: FoundRun) -> dict[str, float]:
    return {name.removeprefix(_PREFIX): value for name, value in run.metrics.items() if name.startswith(_PREFIX)}


def _curve_names(runs: Sequence[FoundRun]) -> list[str]:
    """Metrics that are drawn: held-out ones without bins, then losses."""
    names = {name for run in runs for name in run.metrics}
    held_out = sorted(name for name in names if name.startswith(_PREFIX) and "_" not in name.rpartition("/")[2])
    return [*held_out, *sorted(name for name in names if name.startswith(_TRAINING))][:_CURVES]


def _pictures(run: FoundRun, context: Context, scratch: Path) -> list[bytes | None]:
    # Imports what draws.
    from trainplane.tracking.tracker import gallery_key, newest_image

    names = [newest_image(gallery_key(number)) for number in range(_PICTURES)]
    return [read_artifact(context.tracking_server, run, name, scratch) for name in names]


def different(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values of each run, by name, where they differ."""
    rows = table(settings)
    return {name: values for name, values in rows.items() if any(str(value) != str(values[0]) for value in values)}


def table(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values by name, one a column; None for none."""
    names = sorted({name for column in columns for name in column})
    return {name: [column.get(name) for column in columns] for name in names}
