"""Runs a search on Ray Tune.

Tune runs the processes, `driver` assigns their work. An item of the search is a trial of Tune's, in a process that the
next item may reuse. Tune's searcher asks the driver for items; its scheduler and a callback report what happens. Tune
itself stores nothing that counts: its snapshots are deleted, and after a kill a new Tune run resumes from the journal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from trainplane.errors import RunFailed, UserError
from trainplane.search.policy.state import WorkItem, decode_values
from trainplane.search.run.driver import GONE, Driver

TrialFunction = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]
"""Runs in a process of Tune's, with an item as a dict and a function that emits messages (`TuneBridge.handle`)."""


def run_on_tune(
    driver: Driver,
    train: TrialFunction,
    assign: Callable[[WorkItem], dict[str, Any]],
    *,
    resources: dict[str, float],
    scratch: str,
    stops_itself: bool = True,
) -> None:
    """Runs a search until it is over.

    Raises `RunFailed` if Tune ends before the search.

    Args:
        driver: The search.
        train: Trains an item.
        assign: Turns an item into the dict that `train` gets.
        resources: Resources of a trial's own process, for Tune.
        scratch: Folder for Tune's snapshots.
        stops_itself: True: `train` ends by itself after a value that is not finite; else Tune ends its process.
    """
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        # Each report waits until Tune has handled it. As text, because Tune would flatten a nested message.
        train(config["item"], lambda message: tune.report({"message": json.dumps(message)}))

    bridge = TuneBridge(driver, assign)
    keep_aws_keys_local()
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(bridge),
            scheduler=_scheduler(bridge, stops_itself=stops_itself),
            # The searcher decides how many trials there are.
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"item-{trial.trial_id}",
            trial_name_creator=lambda trial: f"item-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(name="search", storage_path=scratch, verbose=0, callbacks=[_clock(bridge)]),
    )
    try:
        tuner.fit()
    # Tune raises what its own parts raise; an error of ours is in `bridge.fault` and is raised below.
    except Exception as error:
        if bridge.fault is None:
            raise RunFailed(f"Ray Tune ended: {error}; run the same command again to resume") from error
    if bridge.fault is not None:
        raise bridge.fault
    # Tune may end by itself, for example after a signal.
    if not driver.is_over:
        raise RunFailed("Ray Tune ended before the search did; run the same command again to resume")


class TuneBridge:
    """Maps Tune's trials to the driver's items.

    `fault` is the first error of our own code; it ends the search.
    """

    def __init__(self, driver: Driver, assign: Callable[[WorkItem], dict[str, Any]]) -> None:
        self.driver = driver
        self.fault: BaseException | None = None
        self._assign = assign
        self._items: dict[str, int] = {}
        self._reported_end: set[str] = set()

    def next_config(self, name: str) -> dict[str, Any] | None:
        """Configuration of trial `name`; None while there is no work."""
        item = self.driver.next_item()
        if item is None:
            return None
        self._items[name] = item.number
        return self._assign(item)

    def handle(self, name: str, message: dict[str, Any]) -> bool:
        """Handles a message of a trial; False stops the trial."""
        item, kind = self._items[name], message["k"]
        if kind in ("done", "failed"):
            self._reported_end.add(name)
        details = {key: value for key, value in message.items() if key != "k"}
        if kind == "began":
            self.driver.on_started(item, **details)
        elif kind == "seen":
            return self.driver.on_report(item, **details)
        elif kind == "done":
            self.driver.on_done(item, **{**details, "values": decode_values(details["values"])})
        elif kind == "missing":
            # The objective is wrong for every trial, so the whole search stops.
            raise UserError(details["message"])
        else:
            self.driver.on_failed(item, **details)
        return True

    def has_reported_end(self, name: str) -> bool:
        """The trial has emitted its last message."""
        return name in self._reported_end

    def on_complete(self, name: str, *, error: bool) -> None:
        """Handles the end of a trial in Tune."""
        # A trial that did not report its end has failed.
        item = self._items.pop(name, None)
        if item is not None and item in self.driver.running:
            reason = "its process was lost" if error else "its process ended without a result"
            self.driver.on_failed(item, cause=GONE, error=reason)

    def guard(self, action: Callable[[], Any], default: Any) -> Any:
        """Runs an action; an error ends the search, with `default`."""
        # Without it the search would continue without its records.
        if self.fault is not None:
            return default
        try:
            return action()
        # Ctrl-C too: Tune would log the error and continue, so it is kept and raised when Tune has ended.
        except BaseException as error:
            self.fault = error
            return default


def _searcher(bridge: TuneBridge) -> Any:
    """Search algorithm of Tune that asks the driver for items."""
    from ray.tune.search import Searcher

    class JournalSearcher(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            config = bridge.guard(lambda: bridge.next_config(trial_id), None)
            # None: no work yet, ask again later. FINISHED: no work any more.
            if config is None:
                return Searcher.FINISHED if bridge.driver.is_over or bridge.fault is not None else None
            return {"item": config}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            bridge.guard(lambda: bridge.on_complete(trial_id, error=error), None)

        def save(self, checkpoint_path: str) -> None:
            """Does nothing; the journal has it all."""

        def restore(self, checkpoint_path: str) -> None:
            """Does nothing; the journal has it all."""

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            """Does nothing; the journal has it all."""

        def __reduce__(self) -> Any:
            # Tune pickles its plug-ins into a snapshot that is never read.
            return Searcher, ()

    return JournalSearcher()


def _scheduler(bridge: TuneBridge, *, stops_itself: bool) -> Any:
    """Scheduler of Tune that reports every result to the driver."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class JournalScheduler(FIFOScheduler):  # type: ignore[misc]
        # Buffered results would come too late to stop a trial.
        _supports_buffered_results = False

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if bridge.has_reported_end(trial.trial_id):
                # Tune repeats the last result.
                return str(TrialScheduler.CONTINUE)
            message = json.loads(result["message"])
            should_continue = bridge.guard(lambda: bridge.handle(trial.trial_id, message), False)
            return str(TrialScheduler.CONTINUE if should_continue or stops_itself else TrialScheduler.STOP)

        def __reduce__(self) -> Any:
            return FIFOScheduler, ()

    return JournalScheduler()


def _clock(bridge: TuneBridge) -> Any:
    """Callback of Tune that bills time and ends after errors."""
    from ray.tune import Callback

    driver = bridge.driver

    class Clock(Callback):  # type: ignore[misc]
        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            bridge.guard(driver.tick_if_due, None)
            bridge.guard(driver.grow_if_due, None)
            if bridge.fault is not None:
                raise bridge.fault
            if not driver.running and not driver.is_over:
                # No work yet: Tune would ask again at once.
                time.sleep(0.05)

        def __reduce__(self) -> Any:
            return Callback, ()

    return Clock()


def keep_aws_keys_local() -> None:
    """Keeps AWS keys of this process out of Tune's trials.

    Ray Tune sends them as settings, which Ray logs. Processes of a private cluster inherit them, other clusters have
    theirs.
    """
    from ray.tune.execution import class_cache

    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)
