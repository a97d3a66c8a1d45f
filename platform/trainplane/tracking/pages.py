"""Addresses of MLflow's pages, and views of its tables.

MLflow (3.17.2) opens on pages for language models unless an address says otherwise, and shows neither metric nor
parameter in its table of runs. A view is a tag of the experiment, which people can also choose under *Views*.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.mlflow_names import MAX_VIEW, valid_key, valid_text

_TRAINING = "workflowType=machine_learning"
# Name of our view in MLflow's menu, and its key in addresses.
VIEW = "results"
_VIEW_TAGS = "mlflow.sharedViewState."
_NAME_COLUMN = "attributes.`Run Name`"
# A view carries the time of its making; a fixed one, so that the same view is the same text.
_MADE_MS = 1_760_000_000_000


def experiments_page(address: str) -> str:
    """Address of the list of experiments."""
    return f"{address.rstrip('/')}/#/experiments?{_TRAINING}"


def runs_page(address: str, experiment_id: str, *, key: str | None = VIEW) -> str:
    """Address of an experiment's runs, in the view `key`.

    Without an `address` it leads there from another page.
    """
    view_key = f"&viewStateShareKey={key}" if key is not None else ""
    page = f"#/experiments/{experiment_id}/runs?{_TRAINING}{view_key}"
    return f"{address.rstrip('/')}/{page}" if address else page


def run_page(address: str, experiment_id: str, run_id: str) -> str:
    """Address of a run's page."""
    return f"{address.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?{_TRAINING}"


def artifact_link(run_id: str, path: str) -> str:
    """Address of a run's artifact, for pictures in descriptions."""
    return f"get-artifact?{urlencode({'path': path, 'run_uuid': run_id})}"


def first_page(server: TrackingServer, address: str) -> str:
    """Address of the newest run's experiment, if there is one.

    An experiment of trainings comes first: those of evaluations, of older code and of other programs have no view of
    ours, and an address that names it would open on an error.
    """
    client = server.client
    experiments = list(client.search_experiments())
    in_view = [experiment for experiment in experiments if _VIEW_TAGS + VIEW in experiment.tags]
    for chosen, key in ((in_view, VIEW), (experiments, None)):
        ids = [experiment.experiment_id for experiment in chosen]
        newest = client.search_runs(ids, order_by=["attributes.start_time DESC"], max_results=1) if ids else []
        if newest:
            return runs_page(address, newest[0].info.experiment_id, key=key)
    return experiments_page(address)


def write_view(
    client: Any,
    experiment_id: str,
    *,
    metrics: Sequence[str],
    params: Sequence[str],
    key: str = VIEW,
    name: str = VIEW,
    parent: str | None = None,
) -> None:
    """Writes a view of an experiment, unless it exists.

    Args:
        client: `MlflowClient`.
        experiment_id: Experiment whose runs are shown.
        metrics: Columns of metrics, the most important first.
        params: Columns of parameters.
        key: Key of the view in addresses, letters and digits.
        name: Name in MLflow's menu.
        parent: Search whose trials alone are shown, by its run id.
    """
    # People may have changed and saved it: what is there stays.
    if _VIEW_TAGS + key not in client.get_experiment(experiment_id).tags:
        text = valid_text(view(metrics, params, name=name, parent=parent), MAX_VIEW)
        client.set_experiment_tag(experiment_id, valid_key(_VIEW_TAGS + key), text)


def view(metrics: Sequence[str], params: Sequence[str], *, name: str = VIEW, parent: str | None = None) -> str:
    """Text of a view as MLflow's pages read it."""
    columns = [
        *(f"metrics.`{name}`" for name in metrics),
        *(f"params.`{name}`" for name in params),
        "attributes.`Dataset`",
        "attributes.`Models`",
    ]
    # Widths in pixels; only columns in the order have them.
    widths = {_NAME_COLUMN: 340, "params.`typed`": 260}
    state: dict[str, Any] = {
        "selectedColumns": columns,
        "columnOrder": [_NAME_COLUMN, *columns],
        "columnWidths": {column: width for column, width in widths.items() if column in (_NAME_COLUMN, *columns)},
    }
    if parent is not None:
        state["searchFilter"] = f"tags.`mlflow.parentRunId` = '{parent}'"
    return json.dumps({"name": name, "createdAt": _MADE_MS, "updatedAt": _MADE_MS, "state": json.dumps(state)})
