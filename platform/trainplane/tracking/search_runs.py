"""Searches runs of all experiments, the newest first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import UserError, nearest
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.find_run import is_run_id, runs_with_prefix
from trainplane.tracking.run_id import PARENT_TAG

SEARCH_TAG = "trainplane.search"
_PARENT_TAG = "mlflow.parentRunId"
_ORDER = ["attributes.start_time DESC"]
# MLflow loads all that a run has to count it, so no more than this many are counted.
_COUNTED = 1000


@dataclass(frozen=True)
class Conditions:
    """Conditions that a run meets together; None is no condition."""

    experiment: str | None = None  # Name of MLflow's experiment
    status: str | None = None  # MLflow's status
    search: str | None = None  # Name of a search, or beginning of its run's id, for its trials


@dataclass(frozen=True)
class FoundRuns:
    """Newest runs that fit, and the number of the others."""

    runs: list[Any]  # MLflow's objects
    experiments: dict[str, str] = field(default_factory=dict)  # Name by id
    num_more: int = 0  # Runs that fit beyond the limit
    is_counted: bool = True  # False: at least `num_more`


def search_runs(server: TrackingServer, *, limit: int | None, conditions: Conditions) -> FoundRuns:
    """Finds the newest runs, at most `limit` (None: all)."""
    if not server.exists:
        return FoundRuns([])
    client = server.client
    from mlflow.exceptions import MlflowException

    try:
        experiments = {str(e.experiment_id): str(e.name) for e in all_pages(client.search_experiments)}
        chosen = list(experiments)
        if conditions.experiment is not None:
            chosen = [number for number, name in experiments.items() if name == conditions.experiment]
            if not chosen:
                hint = nearest(conditions.experiment, list(experiments.values()))
                raise UserError(f"there is no experiment {conditions.experiment!r}{hint}")
        matches: list[Any] = []
        for text in _filters(client, list(experiments), conditions):
            matches += _newest(client, chosen, text, None if limit is None else limit + _COUNTED)
    except MlflowException as error:
        raise server.unreachable(error) from error
    matches.sort(key=lambda run: -run.info.start_time)
    if limit is None:
        return FoundRuns(matches, experiments)
    num_more = len(matches) - limit
    return FoundRuns(matches[:limit], experiments, max(0, num_more), is_counted=num_more < _COUNTED)


def _newest(client: Any, experiments: list[str], text: str, limit: int | None) -> list[Any]:
    """Runs that a filter selects, newest first, page after page."""
    runs: list[Any] = []
    token = None
    while limit is None or len(runs) < limit:
        page = client.search_runs(
            experiments,
            filter_string=text,
            order_by=_ORDER,
            max_results=min(1000, 1000 if limit is None else limit - len(runs)),
            page_token=token,
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def _filters(client: Any, experiments: list[str], conditions: Conditions) -> Iterator[str]:
    """Filters of MLflow that together select what is asked for."""
    status = [] if conditions.status is None else [f"attributes.status = '{conditions.status}'"]
    if conditions.search is None:
        yield " AND ".join(status)
        return
    # One filter for each search of that name: MLflow knows no OR.
    for parent in _searches(client, experiments, conditions.search):
        yield " AND ".join([f"tags.`{PARENT_TAG}` = '{parent}'", *status])


def _searches(client: Any, experiments: list[str], search: str) -> list[str]:
    """Run ids of searches with this name or id."""
    name = search.replace("'", "")
    runs = all_pages(
        client.search_runs, experiment_ids=experiments, filter_string=f"tags.`{SEARCH_TAG}` = '{name}'"
    ) or (runs_with_prefix(client, search) if is_run_id(search) else [])
    if not runs:
        raise UserError(f"no search {search!r} is recorded here; give its name, or the id of its run")
    return [str(run.info.run_id) for run in runs]
