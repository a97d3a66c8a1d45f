"""What MLflow keeps of a search: on its parent run the leaderboard, values, ledger and pictures; on each trial how it
stood."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from trainplane.cluster.context import Context
from trainplane.search import budget, report
from trainplane.search.launch import Search, need_of, rates_of
from trainplane.search.state import State
from trainplane.tracking.client import client_for
from trainplane.tracking.run import end_run


def finish_record(context: Context, run_id: str, search: Search, state: State) -> None:
    """Write the record of a search that ended, and end its run."""
    client = client_for(context.tracking)
    found = report.standings(state)
    best = found.best
    assert best is not None
    standing = {number: trial.standing for number, trial in state.trials.items()}
    spent = budget.report(state.spent, standing, rates_of(need_of(search.train, gpus=0.0), search.train))
    client.log_text(run_id, leaderboard_csv(found.ranked, state), "leaderboard.csv")
    client.log_dict(run_id, spent, "spent.json")
    for name, value in best.values.items():
        client.log_metric(run_id, f"best/{name}", value)
    for name, value in {"steps": spent["steps"], "cpu_hours": spent["cpu_seconds"] / 3600}.items():
        client.log_metric(run_id, f"spent/{name}", float(value))
    for trial in state.trials.values():
        if trial.run_id:
            client.set_tag(trial.run_id, "trainplane.standing", trial.standing)
    tags = {"trainplane.best_run": best.run_id, "trainplane.best_trial": str(best.number)}
    end_run(context.tracking, run_id, "FINISHED", tags)


def leaderboard_csv(ranked: Sequence[Any], state: State) -> str:
    """The trials, the best first."""
    names = list(dict.fromkeys(name for trial in ranked for name in trial.settings))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "run_id", "status", "step", *(goal.metric for goal in state.goals), *names])
    for trial in ranked:
        values = [trial.values.get(goal.metric) for goal in state.goals]
        cells = [trial.settings.get(name) for name in names]
        writer.writerow([trial.number, trial.run_id, trial.standing, trial.step, *values, *cells])
    return text.getvalue()
