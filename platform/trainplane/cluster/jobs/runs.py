"""Runs that jobs of a cluster recorded in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainplane.cluster.jobs.submit import JOB_PREFIX
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.lineage import JOB_TAG
from trainplane.tracking.run_id import PARENT_TAG


def runs_of_jobs(server: TrackingServer, job: str | None = None) -> list[Any]:
    """Runs of one job, or of all, the newest first.

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
    """Main run by job, never a trial of a search."""
    return {run.data.tags[JOB_TAG]: run.info.run_id for run in reversed(runs) if PARENT_TAG not in run.data.tags}
