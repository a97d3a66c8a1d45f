"""Addresses of MLflow's pages, and the view in which its table of runs opens.

MLflow (3.17.2) opens on pages for language models unless an address says otherwise, and shows neither metric nor
parameter in its table of runs. A view is a tag of the experiment, which anybody can also choose under *Views*.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from trainplane.tracking.client import TrackingServer

_TRAINING = "workflowType=machine_learning"
# Name of our view in MLflow's menu, and its key in addresses.
VIEW = "results"
_VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
# A view carries the time of its making; a fixed one, so that the same view is the same text.
_MADE_MS = 1_760_000_000_000


def experiments_page(address: str) -> str:
    """Address of the list of experiments."""
    return f"{address.rstrip('/')}/#/experiments?{_TRAINING}"


def runs_page(address: str, experiment_id: str) -> str:
    """Address of an experiment's table of runs, in our view."""
    page = f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs"
    return f"{page}?{_TRAINING}&viewStateShareKey={VIEW}"


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page."""
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def artifact_link(run_id: str, path: str) -> str:
    """Address of a run's artifact, for pictures in descriptions on these very pages."""
    return f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}"


def first_page(server: TrackingServer, address: str) -> str:
    """Address of the newest run's experiment, or of all where none is."""
    client = server.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    newest = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
    return runs_page(address, newest[0].info.experiment_id) if newest else experiments_page(address)


def write_view(client: Any, experiment_id: str, *, metrics: Sequence[str], params: Sequence[str]) -> None:
    """Writes our view of an experiment, unless it stands there already.

    Args:
        client: `MlflowClient`.
        experiment_id: Experiment whose runs are shown.
        metrics: Columns of metrics, the most important first; runs are charted by them.
        params: Columns of parameters.
    """
    text = view(metrics, params)
    # Somebody may have changed and saved it under this name: what is there stays.
    if _VIEW_TAG not in client.get_experiment(experiment_id).tags:
        client.set_experiment_tag(experiment_id, _VIEW_TAG, text)


def view(metrics: Sequence[str], params: Sequence[str]) -> str:
    """Text of a view as MLflow's pages read it."""
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in params),
        "attributes.`Dataset`",
        "attributes.`Models`",
    ]
    state = {"selectedColumns": columns, "columnOrder": columns}
    return json.dumps({"name": VIEW, "createdAt": _MADE_MS, "updatedAt": _MADE_MS, "state": json.dumps(state)})
