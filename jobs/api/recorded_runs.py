"""Lists and compares runs: `isnet runs`."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.api.session import session
from jobs.evaluation.model_address import run_id_of
from jobs.tracking.comparison import RunComparison, compare_runs
from jobs.tracking.export import FORMATS, write_csv, write_tensorboard
from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.query.curves import all_points
from trainplane.tracking.query.records import read_runs
from trainplane.tracking.query.select import SelectedRuns, select_runs, started_text
from trainplane.tracking.search_runs import Conditions


@dataclass(frozen=True)
class ListedRun:
    """A run of a list.

    Attributes:
        run_id: Of MLflow.
        name: Preset, settings and date.
        experiment: Of MLflow.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: UTC, to the minute.
        metrics: Last values of what was validated.
        values: Values of the names in `where` and `sort`.
    """

    run_id: str
    name: str
    experiment: str
    status: str
    started: str
    metrics: dict[str, float]
    values: dict[str, Any]


@dataclass(frozen=True)
class ExportedCurves:
    """Curves of a run that were written to `path`."""

    run_id: str
    to: str
    path: Path
    metrics: int
    points: int


def runs(
    where: str | None = None,
    sort: str | None = None,
    *,
    limit: int | None = None,
    experiment: str | None = None,
    status: str | None = None,
    search: str | None = None,
    context: Context | str | None = None,
) -> list[ListedRun]:
    """Lists runs, the newest first unless sorted.

    Args:
        where: Condition on metrics, settings and facts, such as "val/psnr > 24 and model.blocks = 4".
        sort: Metric or setting, the largest first; "NAME:asc" for the smallest first.
        limit: At most so many.
        experiment: Of this experiment of MLflow only.
        status: With this status only.
        search: Trials of this search only, by its name or its run.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: The condition cannot be read, or names what no run has.
    """
    with session(context) as opened:
        conditions = Conditions(experiment=experiment, status=status, search=search)
        return listed(find_runs(opened, where, sort, limit=limit, conditions=conditions))


def compare(*runs: str, with_pictures: bool = True, context: Context | str | None = None) -> RunComparison:
    """Compares runs: settings that differ, metrics, curves, pictures.

    Args:
        *runs: Ids, beginnings of ids, or models for the runs that made them; two or more.
        with_pictures: Read the newest held-out samples, too.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such run, or one is named twice.
    """
    with session(context) as opened:
        return compare_runs(runs, opened, with_pictures=with_pictures)


def export_run(
    run: str,
    to: Literal["csv", "tensorboard"] = "csv",
    output: str | os.PathLike[str] | None = None,
    *,
    context: Context | str | None = None,
) -> ExportedCurves:
    """Writes every point of a run's curves for other programs.

    Args:
        run: Id, the beginning of it, or a model for the run that made it.
        to: "csv" has a row a point; "tensorboard" is a folder of event files.
        output: File or folder; by default the first 8 letters of the id, in the current folder.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such run, or the output cannot be written.
    """
    if to not in FORMATS:
        raise UserError(f"to is {to!r}; need one of {', '.join(FORMATS)}")
    with session(context) as opened:
        server = opened.tracking_server
        [record] = read_runs(server, [run_id_of(run, opened)])
        suffix = ".csv" if to == "csv" else ""
        path = Path(output or f"run-{record.run_id[:8]}{suffix}").expanduser()
        if not path.parent.is_dir():
            raise UserError(f"{path.parent}: there is no such folder to write to; make it")
        if path.is_dir() if to == "csv" else path.is_file():
            raise UserError(f"{path} is {'a folder' if to == 'csv' else 'a file'}; name another")
        points = all_points(server, record)
        count = write_csv(points, path) if to == "csv" else write_tensorboard(points, dict(record.params), path)
        return ExportedCurves(record.run_id, to, path, len(record.metrics), count)


def find_runs(
    context: Context, where: str | None, sort: str | None, *, limit: int | None, conditions: Conditions
) -> SelectedRuns:
    """Finds runs, after those of dead processes are closed."""
    # Where only reading is allowed, the list shows what is recorded.
    with suppress(UserError, RunFailed):
        fail_stale_runs(context.tracking_server, context.home)
    return select_runs(
        context.tracking_server, limit=limit, conditions=conditions, where=where, sort=sort, home=context.home
    )


def listed(found: SelectedRuns) -> list[ListedRun]:
    """Runs as a list shows them."""
    return [
        ListedRun(
            run_id=run.run_id,
            name=run.name,
            experiment=found.experiments[run.experiment_id],
            status=run.status,
            started=started_text(run),
            metrics={key: value for key, value in run.metrics.items() if key.startswith("val/")},
            values=found.values.get(run.run_id, {}),
        )
        for run in found.runs
    ]
