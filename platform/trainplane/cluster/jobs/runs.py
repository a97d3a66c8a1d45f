"""Runs that jobs of a cluster recorded in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainplane.cluster.jobs.submit import JOB_PREFIX
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.lineage import JOB_TAG
from trainplane.tracking.run_id import PARENT_TAG
from trainplane.tracking.runs import end_run


def runs_of_jobs(server: TrackingServer, job: str | None = None) -> list[Any]:
    """MLflow's objects of the runs of one job, or of all, the newest first.

    Raises `UserError` where MLflow does not answer.
    """
    if not server.exists:
        return []
    from mlflow.exceptions import MlflowException

    condition = f"LIKE '{JOB_PREFIX}%'" if job is None else f"= '{job}'"
    try:
        server.knock()
        client = server.client
        experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
        return all_pages(
            client.search_runs,
            experiment_ids=experiments,
            filter_string=f"tags.`{JOB_TAG}` {condition}",
            order_by=["attributes.start_time DESC"],
        )
    except (MlflowException, OSError) as error:
        raise server.unreachable(error) from error


def main_runs(runs: Sequence[Any]) -> dict[str, str]:
    """Run id by job: its search, training or evaluation, not the trials of a search."""
    return {run.data.tags[JOB_TAG]: run.info.run_id for run in reversed(runs) if PARENT_TAG not in run.data.tags}


def close_as_stopped(server: TrackingServer, job: str, *, since_ms: int) -> list[str]:
    """Makes the runs that a stop ended KILLED; returns their ids.

    Args:
        server: Server of the runs.
        job: The job, which is over.
        since_ms: Time of the stop. A run that had ended before keeps its status.
    """
    stopped = []
    for run in runs_of_jobs(server, job):
        has_ended_before = run.info.status != "RUNNING" and (run.info.end_time or 0) < since_ms
        if run.info.status not in ("FINISHED", "KILLED") and not has_ended_before:
            end_run(server, run.info.run_id, "KILLED")
            stopped.append(str(run.info.run_id))
    return stopped
