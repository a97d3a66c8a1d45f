"""Shows how a search stands, by its journal."""

from __future__ import annotations

import argparse
from typing import Any

from jobs.cli.main import emit
from jobs.search.mlflow_record import cost_text
from jobs.search.stored import StoredSearch, find_search, stopped_trials, stored_searches
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.search.policy import budget
from trainplane.search.policy.state import SearchState
from trainplane.search.report import summary
from trainplane.search.run.driver import Driver
from trainplane.search.run.launch import Search, cost_rates, trial_resources


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the progress of a search from its journal."""
    if not args.overrides or "=" in args.overrides[0]:
        raise UserError(
            f"{command_line('tune', 'show')} needs a search: {command_line('tune', 'show', 'SEARCH')}; "
            f"{command_line('tune', 'list')} lists them"
        )
    search, state = find_search(context, args.overrides)
    plan = search.plan(cost_rates(trial_resources(search.train, gpus=0.0), search.train))
    # The driver computes the costs; this one may not write the journal.
    driver = Driver.read_only(plan, state)
    stored = next((each for each in stored_searches(context) if search.folder.endswith(f"/{each.folder}")), None)
    # Older code did not keep how a search was started.
    status = stored.status(state) if stored else "finished" if state.end_reason else "stopped"
    visible = stopped_trials(state) if status == "stopped" else state
    lines = [summary.leaderboard_table(visible), cost_text(costs(driver)), _status_line(status, stored, state)]
    payload = {**report(search, driver, None, None), "status": status, "trials": trial_rows(visible)}
    emit(args, payload, "\n".join(lines))
    return 0


def _status_line(status: str, stored: StoredSearch | None, state: SearchState) -> str:
    words = stored.description.get("words", []) if stored else []
    goes_on = f"; it goes on with {command_line('tune', words[0], *words[1:])}" if status == "stopped" and words else ""
    return f"ended: {state.end_reason}" if state.end_reason else f"{status}{goes_on}"


def report(search: Search, driver: Driver, parent: str | None, registered: dict[str, str] | None) -> dict[str, Any]:
    """Returns the output of `--json`."""
    state, leaderboard = driver.state, summary.leaderboard(driver.state)
    best = leaderboard.best
    return {
        "search_run_id": parent,
        "ended": state.end_reason,
        "trials": trial_rows(state),
        "best": best and {"trial": best.number, "run_id": best.run_id, "config": best.settings, "metrics": best.values},
        "front": [trial.number for trial in leaderboard.front],
        "rungs": {str(step): {str(t): s for t, s in rung.items()} for step, rung in sorted(state.rungs.items())},
        "at_once": state.width,
        "spent": costs(driver),
        "journal": search.folder,
        "registered": registered,
    }


def costs(driver: Driver) -> dict[str, Any]:
    """Returns the resources used, and those wasted."""
    status = {number: trial.status for number, trial in driver.state.trials.items()}
    return budget.cost_report(driver.state.usage, status, driver.plan.costs)


def trial_rows(state: SearchState) -> list[dict[str, Any]]:
    """Returns each trial's part of that output."""
    return [summary.trial_row(state.trials[number]) for number in sorted(state.trials)]
