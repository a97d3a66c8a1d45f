"""`isnet tune SEARCH [a.b=c …]`: runs one search.

The same command resumes a search that was killed. `isnet tune show SEARCH` reads its journal, while it runs or later.
"""

from __future__ import annotations

import argparse

from jobs.cli.format import quantity
from jobs.cli.main import emit
from jobs.cli.streams import notify
from jobs.search.stored import stored_searches
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.search.report import summary

# Functions import what loads torch: `list` does without.


def tune(args: argparse.Namespace, context: Context) -> int:
    """Runs a search, shows one, or lists them."""
    if args.preset == "list" and not args.overrides:
        return list_searches(args, context)
    if args.preset == "show":
        from jobs.search.progress import show

        return show(args, context)
    return _run(args, context)


def _run(args: argparse.Namespace, context: Context) -> int:
    from jobs.api.searches import tune as tune_search
    from jobs.search.mlflow_record import cost_text

    search = tune_search(args.preset, args.overrides, context=context)
    # The record of the search is complete; only MLflow does not have it yet.
    if search.unsent is not None:
        notify(search.unsent)
    lines = [summary.leaderboard_table(search.state), cost_text(search.spent)]
    if search.registration:
        lines.append(f"best trial registered as {search.registration}")
    emit(args, search.to_json(), "\n".join(lines))
    return 0 if search.is_done else 1


def list_searches(args: argparse.Namespace, context: Context) -> int:
    """Lists the searches of the store, with their best trials."""
    rows, lines = [], []
    for stored in stored_searches(context):
        state = stored.state
        best, goals = summary.leaderboard(state).best, [goal.metric for goal in stored.goals]
        status = stored.status(state)
        done = sum(trial.status not in ("running", "waiting") for trial in state.trials.values())
        rows.append(
            {
                "search": stored.folder,
                "name": stored.name,
                "status": status,
                "trials": len(state.trials),
                "limit": state.trial_limit,
                "best": best and {"trial": best.number, "run_id": best.run_id, "metrics": best.values},
                "words": list(stored.description.get("words", [])),
            }
        )
        values = ", ".join(f"{goal} {summary.format_value(best.values.get(goal))}" for goal in goals) if best else "-"
        trial = f"  trial {best.number}, run {best.run_id[:8]}" if best else ""
        words = " ".join(stored.description.get("words", [])[1:])
        trials = quantity(state.trial_limit, "trial")
        lines.append(f"{stored.folder:<32} {status:<8} {done} of {trials}  best: {values}{trial}  {words}")
    lines = lines or [f"no searches in {context.checkpoints}; start one: {command_line('tune', 'search_demo')}"]
    emit(args, {"searches": rows}, "\n".join(line.rstrip() for line in lines))
    return 0
