"""Selects and sorts runs by metrics, settings and facts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.local.database import SQLITE, database_path
from trainplane.tracking.local.lists import FoundRun
from trainplane.tracking.local.moved import follow_move
from trainplane.tracking.query.recorded_settings import read_settings
from trainplane.tracking.query.run_filter import RunFilter, complete_name
from trainplane.tracking.search_runs import Conditions, FoundRuns, search_runs

# Of every run, beside its metrics and settings.
FACTS = ("experiment", "name", "run_id", "started", "status")
_ASCENDING, _DESCENDING = ":asc", ":desc"


@dataclass(frozen=True)
class SelectedRuns(FoundRuns):
    """Runs that fit, with the values that were asked for."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)  # By name, by run


def started_text(run: FoundRun) -> str:
    """Start of a run, to the minute, UTC."""
    return datetime.fromtimestamp(run.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def select_runs(
    server: TrackingServer,
    *,
    limit: int | None,
    conditions: Conditions,
    where: str | None = None,
    sort: str | None = None,
    home: Path,
) -> SelectedRuns:
    """Finds the runs that fit; the newest first, unless sorted.

    Args:
        server: Has the runs.
        limit: At most so many; None for all.
        conditions: What a run meets besides.
        where: Condition on metrics, settings and facts.
        sort: Name of one of these, the largest first; NAME:asc for the smallest first. Runs without a value come last.
        home: Folder of the cache of settings.

    Raises:
        UserError: A condition cannot be read, or has an unknown name.
    """
    if where is None and sort is None:
        return SelectedRuns(**vars(search_runs(server, limit=limit, conditions=conditions)))
    # Settings are read from files, wherever the database has been moved to.
    if server.address.startswith(SQLITE) and server.exists:
        follow_move(database_path(server.address))
    every = search_runs(server, limit=None, conditions=conditions, with_settings=True)
    if not every.runs:
        return SelectedRuns(**vars(every))
    metrics = {name for run in every.runs for name in run.metrics}
    try:
        query = _Query.parse(where, sort, {*FACTS, *metrics})
        settings: list[dict[str, Any]] = [{}] * len(every.runs)
    # Settings are read where something else is named.
    except UserError:
        settings = read_settings(server, every.runs, home)
        query = _Query.parse(where, sort, {*FACTS, *metrics, *(name for own in settings for name in own)})
    values = {
        run.run_id: query.values(run, own, every.experiments.get(run.experiment_id, ""))
        for run, own in zip(every.runs, settings, strict=True)
    }
    condition, column = query.condition, query.column
    runs = [run for run in every.runs if condition is None or condition.holds(values[run.run_id])]
    if column is not None:
        runs = _in_order(runs, {run.run_id: values[run.run_id].get(column) for run in runs}, query.is_ascending)
    first = runs if limit is None else runs[:limit]
    chosen = replace(every, runs=first, num_more=len(runs) - len(first))
    return SelectedRuns(**vars(chosen), values={run.run_id: values[run.run_id] for run in first})


@dataclass(frozen=True)
class _Query:
    """Condition and column of a list, parsed."""

    condition: RunFilter | None
    column: str | None
    is_ascending: bool

    @staticmethod
    def parse(where: str | None, sort: str | None, names: Collection[str]) -> _Query:
        condition = RunFilter.parse(where, names=names) if where is not None else None
        if sort is None:
            return _Query(condition, None, False)
        name = sort.removesuffix(_ASCENDING).removesuffix(_DESCENDING)
        if not name:
            raise UserError(f"--sort {sort!r} has no name; give one such as val/psnr or train.lr_g:asc")
        return _Query(condition, complete_name(name, names), sort.endswith(_ASCENDING))

    def values(self, run: FoundRun, settings: Mapping[str, Any], experiment: str) -> dict[str, Any]:
        """Values of a run, of the names in this query."""
        names = [*(self.condition.names if self.condition else ()), *([self.column] if self.column else [])]
        facts = {
            "experiment": experiment,
            "name": run.name,
            "run_id": run.run_id,
            "started": started_text(run),
            "status": run.status,
        }
        all_values = {**settings, **run.metrics, **facts}
        return {name: all_values[name] for name in names if name in all_values}


def _in_order(runs: list[FoundRun], values: dict[str, Any], is_ascending: bool) -> list[FoundRun]:
    """Sorts runs; those without a value come last."""

    def has_value(run: FoundRun) -> bool:
        value = values[run.run_id]
        return value is not None and not (isinstance(value, float) and math.isnan(value))

    def key(run: FoundRun) -> tuple[bool, Any]:
        value = values[run.run_id]
        # Texts and numbers cannot be compared with each other.
        is_number = isinstance(value, int | float)
        return not is_number, value if is_number else str(value)

    return [
        *sorted(filter(has_value, runs), key=key, reverse=not is_ascending),
        *(run for run in runs if not has_value(run)),
    ]
