"""Finds a run by its id, or its beginning."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer, all_pages
from trainplane.tracking.run_id import find_reserved_run, is_reserved

# An id of MLflow is that many hexadecimal digits.
ID_DIGITS = 32
# Runs that the message about an ambiguous beginning lists.
_LISTED = 10


def is_run_id(text: str) -> bool:
    """Tells if a text can be, or begin, an id."""
    return re.fullmatch(rf"[0-9a-f]{{1,{ID_DIGITS}}}", text) is not None


def find_run(server: TrackingServer, asked_id: str) -> Any:
    """MLflow's object of a run.

    Raises `UserError` where no run, or several have that id.

    Args:
        server: The server that has the run.
        asked_id: MLflow's id, the beginning of one, or a reserved id.
    """
    if not server.exists:
        raise _no_run(asked_id)
    client = server.client
    from mlflow.exceptions import MlflowException

    try:
        if is_reserved(asked_id):
            run = find_reserved_run(client, asked_id)
            if run is None:
                raise UserError(
                    f"MLflow does not have run {asked_id} yet; `{command_line('runs', 'sync')}` on the machine where "
                    "it ran sends it"
                )
            return run
        # A beginning of an id, which several runs may have.
        if is_run_id(asked_id) and len(asked_id) < ID_DIGITS:
            return _only(runs_with_prefix(client, asked_id), asked_id)
        return client.get_run(asked_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise _no_run(asked_id) from error
        raise server.unreachable(error) from error


def runs_with_prefix(client: Any, prefix: str) -> list[Any]:
    """Newest runs whose id begins with `prefix`, a few."""
    experiments = [experiment.experiment_id for experiment in all_pages(client.search_experiments)]
    return list(
        client.search_runs(
            experiments,
            filter_string=f"attributes.run_id LIKE '{prefix}%'",
            order_by=["attributes.start_time DESC"],
            max_results=_LISTED + 1,
        )
    )


def _only(runs: Sequence[Any], prefix: str) -> Any:
    if not runs:
        raise _no_run(prefix)
    if len(runs) == 1:
        return runs[0]
    lines = [
        f"  {run.info.run_id}  {run.info.status:<9} "
        f"{datetime.fromtimestamp(run.info.start_time / 1000, UTC):%Y-%m-%d %H:%M}  {run.info.run_name}"
        for run in runs[:_LISTED]
    ]
    more = ["  and more"] if len(runs) > _LISTED else []
    raise UserError("\n".join([f"several runs begin with {prefix!r}; give more of the id:", *lines, *more]))


def _no_run(asked_id: str) -> UserError:
    return UserError(f"no run {asked_id!r} here; `{command_line('runs', 'list')}` shows those there are")
