"""Closes runs that a person has stopped as KILLED."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.run_id import PARENT_TAG
from trainplane.tracking.runs import end_run


def close_as_stopped(server: TrackingServer, runs: Sequence[Any], *, since_ms: int = 0) -> list[str]:
    """Makes runs that a stop ended KILLED; returns their ids.

    Args:
        server: Server of the runs.
        runs: MLflow's objects of runs whose processes have ended.
        since_ms: Time of the stop; a run that had ended before keeps its status. 0: none of them had failed before.
    """
    stopped = []
    for run in runs:
        has_ended_before = run.info.status != "RUNNING" and (run.info.end_time or 0) < since_ms
        if run.info.status not in ("FINISHED", "KILLED") and not has_ended_before:
            end_run(server, run.info.run_id, "KILLED")
            stopped.append(str(run.info.run_id))
    return stopped


def trials_of(server: TrackingServer, search_run_id: str) -> list[Any]:
    """MLflow's objects of a search's trials."""
    from mlflow.exceptions import MlflowException

    try:
        server.knock()
        client = server.client
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        condition = f"tags.`{PARENT_TAG}` = '{search_run_id}'"
        return all_pages(client.search_runs, experiment_ids=experiments, filter_string=condition)
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error
