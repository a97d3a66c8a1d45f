"""A search on Ray Tune: Tune runs processes where there is room, `driver` says what they train.

An item of the search is a trial of Tune's, in a process that the next one may reuse. Tune's searcher asks the driver
for items, its scheduler and callbacks tell the driver what comes of them; Tune itself remembers nothing that counts,
its own snapshots go with the command, and after a kill a fresh Tune run goes on from the journal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from trainplane.errors import RunFailed, UserError
from trainplane.search.policy.state import WorkItem, decode_values
from trainplane.search.run.driver import GONE, Driver

Body = Callable[[dict[str, Any], Callable[[dict[str, Any]], None]], None]
"""Runs in a process of Tune's: given what `describe` said of an item, and whom to tell messages (see `TuneBridge`)."""


def run_on_tune(
    driver: Driver,
    body: Body,
    describe: Callable[[WorkItem], dict[str, Any]],
    *,
    resources: dict[str, float],
    scratch: str,
    stops_itself: bool = True,
) -> None:
    """Carry the search on until it is over. Raises what stopped it before.

    stops_itself -- `body` ends by itself after a value that is not finite; else Tune ends its process
    """
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        # Of several messages the last one ends the trial for Tune; each is answered before the next one goes out.
        # As text: Tune would take a nested message apart.
        body(config["item"], lambda message: tune.report({"message": json.dumps(message)}))

    bridge = TuneBridge(driver, describe)
    keep_aws_keys_local()
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=_searcher(bridge),
            scheduler=_scheduler(bridge, stops_itself=stops_itself),
            num_samples=-1,
            reuse_actors=True,
            trial_dirname_creator=lambda trial: f"item-{trial.trial_id}",
            trial_name_creator=lambda trial: f"item-{trial.trial_id}",
        ),
        run_config=tune.RunConfig(name="search", storage_path=scratch, verbose=0, callbacks=[_clock(bridge)]),
    )
    try:
        tuner.fit()
    except Exception as error:
        if bridge.fault is None:
            raise RunFailed(f"Ray Tune ended: {error}; run the same command again to go on") from error
    if bridge.fault is not None:
        raise bridge.fault
    if not driver.is_over:
        raise RunFailed("Ray Tune ended before the search did; run the same command again to go on")


class TuneBridge:
    """Between Tune's names of trials and the driver's items. The first fault of ours ends the search."""

    def __init__(self, driver: Driver, describe: Callable[[WorkItem], dict[str, Any]]) -> None:
        self.driver = driver
        self.fault: BaseException | None = None
        self._describe = describe
        self._items: dict[str, int] = {}
        self._told_end: set[str] = set()

    def next_config(self, name: str) -> dict[str, Any] | None:
        """What trial `name` shall run; None while there is nothing."""
        item = self.driver.next_item()
        if item is None:
            return None
        self._items[name] = item.number
        return self._describe(item)

    def handle(self, name: str, message: dict[str, Any]) -> bool:
        """Take a message in; False where the trial shall stop."""
        item, kind = self._items[name], message["k"]
        if kind in ("done", "failed"):
            self._told_end.add(name)
        about = {key: value for key, value in message.items() if key != "k"}
        if kind == "began":
            self.driver.on_started(item, **about)
        elif kind == "seen":
            return self.driver.on_report(item, **about)
        elif kind == "done":
            self.driver.on_done(item, **{**about, "values": decode_values(about["values"])})
        elif kind == "missing":
            raise UserError(about["sentence"])
        else:
            self.driver.on_failed(item, **about)
        return True

    def has_reported_end(self, name: str) -> bool:
        """Whether the trial has told its end."""
        return name in self._told_end

    def on_complete(self, name: str, *, error: bool) -> None:
        """Tune is through with it. One that had not told how it ended was lost."""
        item = self._items.pop(name, None)
        if item is not None and item in self.driver.running:
            said = "its process was lost" if error else "its process ended without a word"
            self.driver.on_failed(item, cause=GONE, error=said)

    def guard(self, act: Callable[[], Any], otherwise: Any) -> Any:
        """Do it; a fault of ours is kept, and the search ends instead of going on without a record."""
        if self.fault is not None:
            return otherwise
        try:
            return act()
        except BaseException as error:
            self.fault = error
            return otherwise


def _searcher(bridge: TuneBridge) -> Any:
    """Tune's search algorithm: whatever the driver hands out next."""
    from ray.tune.search import Searcher

    class JournalSearcher(Searcher):  # type: ignore[misc]
        def suggest(self, trial_id: str) -> Any:
            config = bridge.guard(lambda: bridge.next_config(trial_id), None)
            if config is None:
                return Searcher.FINISHED if bridge.driver.is_over or bridge.fault is not None else None
            return {"item": config}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            bridge.guard(lambda: bridge.on_complete(trial_id, error=error), None)

        def save(self, checkpoint_path: str) -> None:
            """The journal has it all."""

        def restore(self, checkpoint_path: str) -> None:
            """From the journal alone."""

        def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
            """The journal has it all."""

        def __reduce__(self) -> Any:
            # Tune writes a snapshot of its own that nobody reads.
            return Searcher, ()

    return JournalSearcher()


def _scheduler(bridge: TuneBridge, *, stops_itself: bool) -> Any:
    """Tune's scheduler: stops what the driver has no use for, and tells it every result."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class JournalScheduler(FIFOScheduler):  # type: ignore[misc]
        # Several results at once would come too late to be acted on.
        _supports_buffered_results = False

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            if bridge.has_reported_end(trial.trial_id):
                # Tune says the last result twice.
                return str(TrialScheduler.CONTINUE)
            message = json.loads(result["message"])
            goes_on = bridge.guard(lambda: bridge.handle(trial.trial_id, message), False)
            return str(TrialScheduler.CONTINUE if goes_on or stops_itself else TrialScheduler.STOP)

        def __reduce__(self) -> Any:
            return FIFOScheduler, ()

    return JournalScheduler()


def _clock(bridge: TuneBridge) -> Any:
    """A callback of Tune's that bills time while trials run, and ends Tune after a fault of ours."""
    from ray.tune import Callback

    driver = bridge.driver

    class Clock(Callback):  # type: ignore[misc]
        def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
            bridge.guard(driver.tick_if_due, None)
            if bridge.fault is not None:
                raise bridge.fault
            if not driver.running and not driver.is_over:
                # Nothing to do yet: Tune would ask again at once.
                time.sleep(0.05)

        def __reduce__(self) -> Any:
            return Callback, ()

    return Clock()


def keep_aws_keys_local() -> None:
    """Ray Tune sends this process's AWS keys to its trials as settings, which Ray writes into its log. They are not
    needed: a private cluster's processes inherit our environment, those of another have keys of their own."""
    from ray.tune.execution import class_cache

    keys = {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(keys)
