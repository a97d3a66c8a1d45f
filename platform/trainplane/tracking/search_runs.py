"""Searches runs of all experiments, the newest first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trainplane.errors import UserError, nearest
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.find_run import is_run_id
from trainplane.tracking.local.lists import FoundRun, read_locally
from trainplane.tracking.run_id import PARENT_TAG

SEARCH_TAG = "trainplane.search"
_ORDER = ["attributes.start_time DESC"]
# MLflow loads all that a run has to count it, so no more than this many are counted.
_COUNTED = 1000
# Runs of a page.
_PAGE = 1000


@dataclass(frozen=True)
class Conditions:
    """Conditions that a run meets together; None is no condition."""

    experiment: str | None = None  # Name of MLflow's experiment
    status: str | None = None  # MLflow's status
    search: str | None = None  # Name of a search, or beginning of its run's id, for its trials


@dataclass(frozen=True)
class FoundRuns:
    """Newest runs that fit, and the number of the others."""

    runs: list[FoundRun]
    experiments: dict[str, str] = field(default_factory=dict)  # Name by id
    num_more: int = 0  # Runs that fit beyond the limit
    is_counted: bool = True  # False: at least `num_more`


class _Lists(Protocol):
    """Lists of a local database, or of MLflow's client."""

    def experiments(self) -> dict[str, str]: ...

    def runs(
        self,
        experiments: Sequence[str],
        *,
        status: str | None = None,
        tag: tuple[str, str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        with_settings: bool = False,
    ) -> Iterable[FoundRun]: ...


def search_runs(
    server: TrackingServer, *, limit: int | None, conditions: Conditions, with_settings: bool = False
) -> FoundRuns:
    """Finds the newest runs, at most `limit` (None: all)."""
    if not server.exists:
        return FoundRuns([])
    runs = read_locally(server.address, lambda lists: _found(lists, limit, conditions, with_settings))
    if runs is not None:
        return runs
    client = server.client
    from mlflow.exceptions import MlflowException

    try:
        return _found(_ClientLists(client), limit, conditions, with_settings)
    except MlflowException as error:
        raise server.unreachable(error) from error


def _found(lists: _Lists, limit: int | None, conditions: Conditions, with_settings: bool) -> FoundRuns:
    experiments = lists.experiments()
    chosen = list(experiments)
    if conditions.experiment is not None:
        chosen = [number for number, name in experiments.items() if name == conditions.experiment]
        if not chosen:
            hint = nearest(conditions.experiment, list(experiments.values()))
            raise UserError(f"there is no experiment {conditions.experiment!r}{hint}")
    tags: list[tuple[str, str] | None] = [None]
    if conditions.search is not None:
        tags = [(PARENT_TAG, run.run_id) for run in _searches(lists, list(experiments), conditions.search)]
    # One list for each search of that name: MLflow knows no OR.
    most = None if limit is None else limit + _COUNTED
    matches = [
        run
        for tag in tags
        for run in lists.runs(chosen, status=conditions.status, tag=tag, limit=most, with_settings=with_settings)
    ]
    matches.sort(key=lambda run: -run.start_ms)
    if limit is None:
        return FoundRuns(matches, experiments)
    num_more = len(matches) - limit
    return FoundRuns(matches[:limit], experiments, max(0, num_more), is_counted=num_more < _COUNTED)


def _searches(lists: _Lists, experiments: list[str], search: str) -> list[FoundRun]:
    """Runs of searches with this name or id."""
    runs = list(lists.runs(experiments, tag=(SEARCH_TAG, search.replace("'", ""))))
    if not runs and is_run_id(search):
        runs = list(lists.runs(experiments, prefix=search))
    if not runs:
        raise UserError(f"no search {search!r} is recorded here; give its name, or the id of its run")
    return runs


class _ClientLists:
    """Lists of MLflow's client, page after page."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def experiments(self) -> dict[str, str]:
        return {str(e.experiment_id): str(e.name) for e in all_pages(self._client.search_experiments)}

    def runs(
        self,
        experiments: Sequence[str],
        *,
        status: str | None = None,
        tag: tuple[str, str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        with_settings: bool = False,
    ) -> Iterator[FoundRun]:
        # MLflow gives settings and tags with every run.
        conditions = [f"attributes.status = '{status}'"] if status else []
        conditions += [f"tags.`{tag[0]}` = '{tag[1]}'"] if tag else []
        conditions += [f"attributes.run_id LIKE '{prefix}%'"] if prefix else []
        token, left = None, limit
        while left is None or left > 0:
            page = self._client.search_runs(
                list(experiments),
                filter_string=" AND ".join(conditions),
                order_by=_ORDER,
                max_results=_PAGE if left is None else min(_PAGE, left),
                page_token=token,
            )
            yield from map(FoundRun.of, page)
            left = None if left is None else left - len(page)
            token = page.token
            if not token:
                return
