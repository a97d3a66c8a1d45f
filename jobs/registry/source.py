"""Finds the run and the checkpoint of a new version."""

from __future__ import annotations

import json
import re

from jobs.search.stored import stored_searches
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.tracking.find_run import find_run, is_run_id
from trainplane.tracking.run_id import is_reserved
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.start.checkpoint import checkpoints_of_run


def run_and_checkpoint(typed: str, context: Context) -> tuple[str, str]:
    """Returns run and checkpoints of what RUN names."""
    run_id = typed.removeprefix("runs:/")
    # A word alone is neither an id nor an address.
    if not re.search("[/.~]|^step-", typed) and not is_run_id(typed) and not is_reserved(typed):
        searches = [search.name for search in stored_searches(context)]
        remedy = f"`{command_line('runs', 'list')}` shows the ids"
        if typed in searches:
            remedy = f"of a search, {command_line('models', 'register', '--from-search', typed, '--name', 'NAME')}"
        raise UserError(
            f"{typed!r} is no run's id and no checkpoint's address; need an id, its beginning, or "
            f"…/step-NNNNNNNN; {remedy}"
        )
    if run_id != typed or is_run_id(typed) or is_reserved(typed):
        run_id = str(find_run(context.tracking_server, run_id).info.run_id)
        return run_id, checkpoints_of_run(run_id, context)
    return _run_of_checkpoint(typed, context), typed


def _run_of_checkpoint(checkpoint: str, context: Context) -> str:
    """Returns the MLflow run that wrote a checkpoint."""
    store, _ = checkpoints.open_address(checkpoint)
    client = context.tracking_server.client
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    # Every run records the address of its checkpoints.
    query = f"tags.`trainplane.checkpoints` = '{store.address}'"
    runs = client.search_runs(experiments, filter_string=query) if experiments else []
    if not runs:
        raise UserError(f"{checkpoint}: no run recorded here wrote it; give runs:/ID of the run that did")
    return str(runs[0].info.run_id)


def validation_set(run_id: str, context: Context) -> str | None:
    """Returns the held-out dataset of a run, as typed."""
    text = RunRecord(context.tracking_server, run_id).read_text("config.json")
    return None if text is None else json.loads(text).get("data", {}).get("val")
