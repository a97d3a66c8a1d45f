"""Runs a search, records it, and registers its best trial."""

from __future__ import annotations

import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, fields
from typing import Any

from jobs.search.live_table import LiveTable
from jobs.search.mlflow_record import search_record
from jobs.search.progress import report
from jobs.search.spec import LoadedSearch, build_search, check_resources
from jobs.search.trial_time import needed_trial_seconds
from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.notify.notifier import Notifier
from trainplane.notify.search_events import budget_near, search_broken, search_finished
from trainplane.search.policy.budget import near_limit
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report import summary
from trainplane.search.run.driver import Driver
from trainplane.search.run.launch import (
    Search,
    load_prior_results,
    read_state,
    register_search_dir,
    run_search,
)
from trainplane.storage import StorageError, open_store
from trainplane.tracking import lineage
from trainplane.tracking.heartbeat import fail_stale_runs, hold_lease
from trainplane.tracking.results import send_result
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import end_run, find_or_create_run
from trainplane.tracking.stopped import close_as_stopped, trials_of
from trainplane.tracking.tracker import Status
from trainplane.train.checkpoint.pins import pin, unpin
from trainplane.train.ending import WARN_SHARE
from trainplane.train.run_key import exclusive


@dataclass(frozen=True, kw_only=True)
class FinishedSearch:
    """A search that has ended.

    Attributes:
        search_run_id: Its run in MLflow, the parent of its trials.
        ended: Why it ended.
        trials: Row of each trial: number, status, settings, metrics, and more.
        best: Its best trial.
        front: Numbers of the trials that none other beats in all goals.
        rungs: Metric by trial, by step at which trials were compared.
        at_once: Trials that ran at once.
        spent: Resources that were used, and those wasted.
        journal: Folder of its journal in the store of checkpoints.
        register_as: Name that its best trial was to be registered under, if any.
        registered: Name and version of its best trial, where it was registered.
        registration: Sentence about the registration.
        unsent: Sentence if the result waits on this disk.
        state: What its journal says.
    """

    search_run_id: str
    ended: str | None
    trials: list[dict[str, Any]]
    best: dict[str, Any]
    front: list[int]
    rungs: dict[str, dict[str, float]]
    at_once: int
    spent: dict[str, Any]
    journal: str
    register_as: str | None
    registered: dict[str, str] | None
    registration: str | None
    unsent: str | None
    state: SearchState = field(repr=False)

    @property
    def is_done(self) -> bool:
        """True if its best trial was registered, where asked."""
        return self.registered is not None or self.register_as is None

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet tune --json` prints."""
        hidden = ("register_as", "registration", "state")
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in hidden}


def run(loaded: LoadedSearch, context: Context) -> FinishedSearch:
    """Runs a search, and registers its best trial if asked."""
    search = build_search(loaded, context)
    check_resources(search, trial_seconds=needed_trial_seconds(search, context))
    # A warm start: results of an earlier search guide the sampler from the beginning.
    prior = (
        load_prior_results(context, search.settings.warm_start, search.settings) if search.settings.warm_start else []
    )
    fail_stale_runs(context.tracking_server, context.home)
    # The lock is taken before anything is recorded, as for a run.
    with (
        exclusive(context.home, f"search-{search.key[:16]}", doing=f"running search {search.name}"),
        ExitStack() as leases,
    ):
        # A store that cannot be written is found here, before any trial starts.
        register_search_dir(search, context)
        parent = _parent(loaded, search, context)
        leases.enter_context(hold_lease(context.tracking_server, parent, home=context.home))
        print(_announcement(search), file=sys.stderr)
        live_table = LiveTable(search.name)
        notifier, limits_told = Notifier(context), set[str]()

        def changed(driver: Driver) -> None:
            live_table(driver)
            usage, rates = driver.state.usage, driver.plan.costs
            limit = near_limit(driver.state.budget, usage, rates, share=WARN_SHARE)
            if limit is not None and limit not in limits_told:
                limits_told.add(limit)
                notifier.tell(budget_near(search.name, parent, limit))

        try:
            driver = run_search(
                search,
                context,
                parent_run_id=parent,
                on_change=changed,
                prior_results=prior,
                emit=lambda message: print(message, file=sys.stderr),
            )
            live_table.close(driver)
            leaderboard = summary.leaderboard(driver.state)
            if leaderboard.best is None:
                raise RunFailed(_no_result(driver.state))
            # Later commands use the best trials, so retention must keep their checkpoints.
            _pin_best(driver.state, leaderboard, by=f"search {parent}")
            _reap(context)
            # The record waits in the spool if MLflow is unreachable.
            unsent = send_result(
                context.tracking_server,
                context.home / "spool",
                search_record(context, parent, search, driver.state),
            )
        except BaseException as error:
            status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            # The error that stopped the search matters more than an unreachable MLflow.
            with suppress(UserError, RunFailed):
                end_run(context.tracking_server, parent, status, {"trainplane.error": str(error)[:500]})
            reason = "" if status == "KILLED" else error_line(error)
            notifier.tell(search_broken(search.name, parent, reason=reason))
            # The trials died with the private cluster and left their runs open. What becomes of them follows from the
            # status of their search.
            if status == "KILLED":
                _close_trials(context, search, parent)
            _reap(context)
            if status == "KILLED":
                raise KeyboardInterrupt(_interrupted(search, context)) from error
            raise
    best = {"number": leaderboard.best.number, **leaderboard.best.values, **leaderboard.best.settings}
    ended = str(driver.state.end_reason)
    notifier.tell(search_finished(search.name, parent, ended=ended, trials=len(driver.state.trials), best=best))
    registered, message = _register(loaded, context, leaderboard.best)
    return FinishedSearch(
        **report(search, driver, parent, registered),
        register_as=loaded.file.search.register_as,
        registration=message,
        unsent=unsent,
        state=driver.state,
    )


def _interrupted(search: Search, context: Context) -> str:
    """Says what is done, and how the search goes on."""
    state = None
    with suppress(UserError, RunFailed, StorageError, OSError):
        state = read_state(search, context)
    ended = sum(trial.status not in ("running", "waiting") for trial in state.trials.values()) if state else 0
    done = f" ({ended} of {state.trial_limit} trials have ended)" if state else ""
    return f"{done}; run the same command again to go on from its journal"


def _close_trials(context: Context, search: Search, parent: str) -> None:
    """Closes the trials of a stopped search, if MLflow answers."""
    server = context.tracking_server
    with suppress(UserError, RunFailed):
        state = read_state(search, context)
        # A trial whose cluster is taken away may take that for a failure of its own; the journal knows the real ones.
        failed = {trial.run_id for trial in state.trials.values() if trial.status in ("failed", "nan")} if state else ()
        runs = [run for run in trials_of(server, parent) if run.info.run_id not in failed]
        close_as_stopped(server, runs)


def _reap(context: Context) -> None:
    """Closes dead processes' runs, if MLflow answers."""
    with suppress(UserError, RunFailed):
        fail_stale_runs(context.tracking_server, context.home)


def _announcement(search: Search) -> str:
    goals = ", ".join(f"{goal.mode} {goal.metric}" for goal in search.settings.goals)
    stops = ", stopped early by ASHA" if search.settings.asha is not None else ""
    return f"search {search.name}: {search.settings.algorithm}{stops}, {goals}; {search.train.steps} steps a trial"


def _parent(loaded: LoadedSearch, search: Search, context: Context) -> str:
    base = loaded.configure(0, {}, 0)
    goals = ", ".join(f"{goal.mode} {goal.metric}" for goal in search.settings.goals)
    handle = find_or_create_run(
        context.tracking_server,
        RunSpec(
            base.tracking.experiment,
            run_key=search.key,
            run_name=search.name,
            tags={
                "trainplane.search": search.name,
                "trainplane.objective": goals,
                "trainplane.journal": f"{context.checkpoints}/{search.folder}",
                **lineage.job_tags(),
            },
            artifact_root=context.artifacts,
        ),
    )
    return handle.run_id


def _no_result(state: SearchState) -> str:
    goals = " and ".join(goal.metric for goal in state.goals)
    # One cause is enough to find the fault.
    errors = sorted({trial.error for trial in state.trials.values() if trial.error})
    why = f"; the first failure: {errors[0]}" if errors else ""
    return f"no trial has a finite {goals} ({len(state.trials)} tried: {state.end_reason}){why}"


def _pin_best(state: SearchState, leaderboard: summary.Leaderboard, *, by: str) -> None:
    """Protects the best trials' checkpoints from retention, and no others."""
    best = {
        trial.checkpoint for trial in (*leaderboard.front, leaderboard.best) if trial is not None and trial.checkpoint
    }
    for trial in state.trials.values():
        # Trials that were the best before lose their pin.
        if trial.checkpoint:
            folder, _, key = trial.checkpoint.rpartition("/")
            (pin if trial.checkpoint in best else unpin)(open_store(folder), key, by=by)


def _register(loaded: LoadedSearch, context: Context, best: TrialState) -> tuple[dict[str, str] | None, str | None]:
    """Registers the best trial if asked; returns version and message."""
    name = loaded.file.search.register_as
    if name is None:
        return None, None
    from jobs.registry.register import try_register

    version, message = try_register(context, best.checkpoint, name=name, run_id=best.run_id)
    # Without a version, the message says how to register it later.
    return None if version is None else {"name": name, "version": version}, message
