"""Reads curves of a run, thinned or whole.

A run of 500,000 steps has millions of points. A picture needs a few hundred, and those are looked up one by one by the
database's index, so that the time does not grow with the run.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainplane.errors import RunFailed
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.local.database import SQLITE, connection, database_path
from trainplane.tracking.local.lists import FoundRun

POINTS = 300
_ROUTE = "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval"
_PAGE = 10_000


@dataclass(frozen=True)
class Curve:
    """Points of a metric in order of steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Point:
    """One recorded value of a metric."""

    metric: str
    step: int
    time_ms: int  # since 1970
    value: float


def read_curves(server: TrackingServer, run: FoundRun, metrics: Sequence[str], *, points: int = POINTS) -> list[Curve]:
    """Reads about so many points of each metric."""
    if server.address.startswith(SQLITE):
        try:
            with connection(database_path(server.address)) as database:
                return [_sampled(database, run.run_id, metric, points) for metric in metrics]
        except sqlite3.Error as error:
            raise RunFailed(f"the curves of run {run.run_id} cannot be read ({error}); try again") from error
    return [_fetched(server, run.run_id, metric, points) for metric in metrics]


def _sampled(database: sqlite3.Connection, run_id: str, metric: str, points: int) -> Curve:
    """Takes points near evenly spread steps, and the last."""
    where = [run_id, metric]
    first, last = database.execute(
        "SELECT min(step), max(step) FROM metrics WHERE run_uuid = ? AND key = ?", where
    ).fetchone()
    points_by_step: dict[int, float] = {}
    step, spacing = first, None if first is None else max(1.0, (last - first) / points)
    while step is not None and spacing is not None:
        row = database.execute(
            "SELECT step, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ? AND step >= ? "
            "ORDER BY step LIMIT 1",
            [*where, step],
        ).fetchone()
        if row is None:
            break
        points_by_step[row[0]] = math.nan if row[2] else row[1]
        # At least one step further, and the last one in any case.
        step = min(row[0] + math.ceil(spacing), last) if row[0] < last else None
    return Curve(tuple(points_by_step), tuple(points_by_step.values()))


def _fetched(server: TrackingServer, run_id: str, metric: str, points: int) -> Curve:
    """Asks MLflow's own pages for what they would draw."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    question = {"run_ids": [run_id], "metric_key": metric, "max_results": points}
    try:
        answer = http_request(get_default_host_creds(server.address), _ROUTE, "GET", params=question, timeout=30)
        rows = answer.json().get("metrics", []) if answer.ok else None
        by_step = {int(row.get("step", 0)): float(row["value"]) for row in rows or []}
    # JSON of another shape, too: the answer is not MLflow's.
    except (MlflowException, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise server.unreachable(error) from error
    if rows is None:
        raise RunFailed(f"MLflow does not give the curve {metric} of run {run_id} (status {answer.status_code})")
    steps = sorted(by_step)
    return Curve(tuple(steps), tuple(by_step[step] for step in steps))


def all_points(server: TrackingServer, run: FoundRun) -> Iterator[Point]:
    """Yields every point, metric by metric, in order."""
    if not server.address.startswith(SQLITE):
        client = server.client
        for metric in sorted(run.metrics):
            history = client.get_metric_history(run.run_id, metric)
            for entry in sorted(history, key=lambda entry: (entry.step, entry.timestamp)):
                yield Point(metric, entry.step, entry.timestamp, entry.value)
        return
    with connection(database_path(server.address)) as database:
        for metric in sorted(run.metrics):
            rows = database.execute(
                "SELECT step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ? "
                "ORDER BY step, timestamp",
                [run.run_id, metric],
            )
            while page := rows.fetchmany(_PAGE):
                for step, time_ms, value, is_nan in page:
                    yield Point(metric, step, time_ms, math.nan if is_nan else value)
