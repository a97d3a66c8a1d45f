"""`isnet tune SEARCH [a.b=c …]`: one search, many runs of the same loop under one parent run.

`isnet tune show SEARCH` reads its journal, while it runs or later. A search that was killed is typed again and goes on.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, suppress
from typing import Any

from jobs.cli.main import emit
from jobs.search.live_table import LiveTable
from jobs.search.mlflow_record import cost_text, search_record
from jobs.search.spec import LoadedSearch, build_search, check_resources, estimate_trial_seconds, load_search
from trainplane.cluster.context import Context, resolve
from trainplane.errors import RunFailed, UserError
from trainplane.search.policy import budget
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report import summary
from trainplane.search.run.driver import Driver
from trainplane.search.run.launch import (
    Search,
    cost_rates,
    load_prior_results,
    read_state,
    register_search_dir,
    run_search,
    trial_resources,
)
from trainplane.storage import open_store
from trainplane.tracking.results import send_result
from trainplane.tracking.runs import Status, end_run, find_or_create_run, held, reap
from trainplane.train.checkpoint.pins import pin, unpin
from trainplane.train.run_key import exclusive


def tune(args: argparse.Namespace) -> int:
    """The command."""
    if args.preset == "show":
        return show(args)
    context = resolve(args.context)
    context.activate()
    loaded = load_search(args.preset, args.overrides)
    search = build_search(loaded, context)
    check_resources(search, trial_seconds=estimate_trial_seconds(loaded, search, context))
    prior = (
        load_prior_results(context, search.settings.warm_start, search.settings) if search.settings.warm_start else []
    )
    reap(context.tracking_server, context.home)
    # Held before MLflow hears of it, as for a run.
    with (
        exclusive(context.home, f"search-{search.key[:16]}", doing=f"running search {search.name}"),
        ExitStack() as leases,
    ):
        register_search_dir(search, context)
        parent = _parent(loaded, search, context)
        leases.enter_context(held(context.tracking_server, parent, home=context.home))
        print(_announcement(search), file=sys.stderr)
        watch = LiveTable(search.name)
        try:
            driver = run_search(search, context, parent_run_id=parent, on_change=watch, prior_results=prior)
            watch.close(driver)
            found = summary.leaderboard(driver.state)
            if found.best is None:
                raise RunFailed(_nobody(driver.state))
            pin_best(driver.state, found, by=f"search {parent}")
            _reap(context)
            unsent = send_result(
                context.tracking_server,
                context.home / "spool",
                search_record(context, parent, search, driver.state),
            )
        except BaseException as error:
            status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            # Its trials died with the cluster; nobody else closes them.
            _reap(context)
            # What stopped the search is what is said, not that MLflow is away as well.
            with suppress(UserError):
                end_run(context.tracking_server, parent, status, {"trainplane.error": str(error)[:500]})
            raise
    if unsent is not None:
        print(f"isnet: {unsent}", file=sys.stderr)
    registered, told = _register(loaded, context, found.best)
    emit(args, {**payload(search, driver, parent, registered), "unsent": unsent}, _text(driver, told))
    return 0 if registered is not None or loaded.file.search.register_as is None else 1


def _reap(context: Context) -> None:
    """Close what its processes left open; where MLflow is away, whoever looks next does."""
    with suppress(UserError):
        reap(context.tracking_server, context.home)


def show(args: argparse.Namespace) -> int:
    """`isnet tune show SEARCH [a.b=c …]`: how it stands, by its journal."""
    if not args.overrides or "=" in args.overrides[0]:
        raise UserError("isnet tune show needs a search: isnet tune show SEARCH, with the settings it was started with")
    context = resolve(args.context)
    context.activate()
    preset, *overrides = args.overrides
    search = build_search(load_search(preset, overrides), context, may_pack=False)
    state = read_state(search, context)
    if state is None:
        raise UserError(
            f"search {search.name!r} has no journal in {context.checkpoints}/{search.folder}; start it with "
            f"`isnet tune {' '.join([preset, *overrides])}`, or name the settings it was started with"
        )
    plan = search.plan(cost_rates(trial_resources(search.train, gpus=0.0), search.train))
    driver = Driver.read_only(plan, state)
    text = f"{summary.leaderboard_table(state)}\n{cost_text(ledger(driver))}\n" + (
        f"ended: {state.end_reason}" if state.end_reason else "not ended"
    )
    emit(args, payload(search, driver, None, None), text)
    return 0


def _announcement(search: Search) -> str:
    goals = ", ".join(f"{goal.mode} {goal.metric}" for goal in search.settings.goals)
    stops = ", stopped early by ASHA" if search.settings.asha is not None else ""
    return f"search {search.name}: {search.settings.algorithm}{stops}, {goals}; {search.train.steps} steps a trial"


def _parent(loaded: LoadedSearch, search: Search, context: Context) -> str:
    base = loaded.configure(0, {}, 0)
    goals = ", ".join(f"{goal.mode} {goal.metric}" for goal in search.settings.goals)
    handle = find_or_create_run(
        context.tracking_server,
        base.tracking.experiment,
        run_key=search.key,
        run_name=search.name,
        tags={
            "trainplane.search": search.name,
            "trainplane.objective": goals,
            "trainplane.journal": f"{context.checkpoints}/{search.folder}",
        },
        artifact_root=context.artifacts,
    )
    return handle.run_id


def _nobody(state: SearchState) -> str:
    goals = " and ".join(goal.metric for goal in state.goals)
    errors = sorted({trial.error for trial in state.trials.values() if trial.error})
    why = f"; the first failure: {errors[0]}" if errors else ""
    return f"no trial has a finite {goals} ({len(state.trials)} tried: {state.end_reason}){why}"


def pin_best(state: SearchState, found: summary.Leaderboard, *, by: str) -> None:
    """Retention leaves the checkpoints of the best trials alone, whatever their runs do next; others are let go."""
    best = {trial.checkpoint for trial in (*found.front, found.best) if trial is not None and trial.checkpoint}
    for trial in state.trials.values():
        if trial.checkpoint:
            folder, _, key = trial.checkpoint.rpartition("/")
            (pin if trial.checkpoint in best else unpin)(open_store(folder), key, by=by)


def payload(search: Search, driver: Driver, parent: str | None, registered: dict[str, str] | None) -> dict[str, Any]:
    """What `--json` prints."""
    state, found = driver.state, summary.leaderboard(driver.state)
    best = found.best
    return {
        "search_run_id": parent,
        "ended": state.end_reason,
        "trials": [summary.trial_row(state.trials[number]) for number in sorted(state.trials)],
        "best": best and {"trial": best.number, "run_id": best.run_id, "config": best.settings, "metrics": best.values},
        "front": [trial.number for trial in found.front],
        "rungs": {str(step): {str(t): s for t, s in rung.items()} for step, rung in sorted(state.rungs.items())},
        "at_once": state.width,
        "spent": ledger(driver),
        "journal": search.folder,
        "registered": registered,
    }


def ledger(driver: Driver) -> dict[str, Any]:
    """What was spent, and what for nothing."""
    standing = {number: trial.status for number, trial in driver.state.trials.items()}
    return budget.cost_report(driver.state.usage, standing, driver.plan.costs)


def _text(driver: Driver, registered: str | None) -> str:
    said = f"\nbest trial registered as {registered}" if registered else ""
    return f"{summary.leaderboard_table(driver.state)}\n{cost_text(ledger(driver))}{said}"


def _register(loaded: LoadedSearch, context: Context, best: TrialState) -> tuple[dict[str, str] | None, str | None]:
    """The new version of the best trial, where one is asked for, and what is said of it."""
    name = loaded.file.search.register_as
    if name is None:
        return None, None
    from jobs.registry.register import register_if_heard

    version, told = register_if_heard(context, best.checkpoint, name=name, run_id=best.run_id)
    return None if version is None else {"name": name, "version": version}, told
