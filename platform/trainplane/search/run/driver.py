"""Runs a search and keeps its journal.

Its caller runs the trials: `ray_tune`, or a simulation in tests and `isnet bench search`. It asks `next_item` for work
and reports what happens to it. `policy/scheduler.py` decides. A decision is in the journal before it has any effect.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from trainplane.errors import UserError
from trainplane.search.policy.scheduler import SearchPlan, advance, mark_nan
from trainplane.search.policy.state import FORMAT_VERSION, SearchState, Values, WorkItem, encode_values, fold
from trainplane.search.run.journal import Journal, JournalRecord, MemoryJournal

# Seconds between two bills, and between two looks at the cluster's size.
TICK_S = 5.0
GROW_S = 30.0


@dataclass
class Driver:
    """Search in this process."""

    plan: SearchPlan
    state: SearchState
    journal: Journal
    on_change: Callable[[SearchState], None] = lambda state: None  # Called after every change
    # Called with every exploit before its donor may continue. Called again after a kill in between.
    pin_donor: Callable[[JournalRecord], None] = lambda exploit: None
    # Counts the trials that fit the cluster now; a search whose order is fixed does not ask.
    count_fitting: Callable[[], int] = lambda: 0
    clock: Callable[[], float] = time.monotonic  # Time in seconds
    running: dict[int, float] = field(default_factory=dict)  # Start time of each running item
    _last_tick: float | None = None
    _last_growth: float | None = None
    _has_pinned: bool = False

    @staticmethod
    def resume(
        plan: SearchPlan, journal: Journal, *, key: str, width: int, prior_results: list[JournalRecord] | None = None
    ) -> Driver:
        """Resumes a search from its journal, or starts it.

        A resumed search keeps its own number of slots, or gets more (`grow_if_due`). `prior_results` are copied into a
        new journal, because the earlier search may be deleted. Raises `UserError` if the journal belongs to
        another search.
        """
        state = fold(journal.records, plan.settings.goals)
        driver = Driver(plan, state, journal)
        records: list[JournalRecord] = []
        if not journal.records:
            records.append({"k": "begin", "version": FORMAT_VERSION, "key": key, "width": width})
            if prior_results:
                records.append({"k": "prior", "trials": prior_results})
        elif state.key != key:
            raise UserError(
                f"the journal belongs to another search (key {state.key[:12]}, need {key[:12]}); "
                "give this one another name"
            )
        # Other limits than before resume a search that had ended.
        if records or not has_same_limits(plan, state):
            budget = plan.settings.budget.model_dump(mode="json", exclude_none=True)
            records.append({"k": "limits", "trials": trial_limit(plan), "budget": budget})
        records.append({"k": "driver", "pid": os.getpid(), "host": socket.gethostname()})
        driver._write(records, durable=True)
        return driver

    @staticmethod
    def read_only(plan: SearchPlan, state: SearchState) -> Driver:
        """Driver of a state to look at; it writes nothing."""
        return Driver(plan, state, MemoryJournal([]))

    @property
    def is_over(self) -> bool:
        """Nothing is left to train."""
        return self.state.end_reason is not None

    def next_item(self) -> WorkItem | None:
        """Starts the next item; None while there is no work."""
        decisions = advance(self.plan, self.state)
        if decisions:
            # `advance` has applied them; they must be durable before they take effect.
            self.journal.append(decisions, durable=True)
            self.on_change(self.state)
        # Pin donors at every exploit, and once after a start: a kill may have come between exploit and pin.
        if not self._has_pinned or any(record["k"] == "exploit" for record in decisions):
            for exploit in self.state.pending_exploits():
                self.pin_donor(exploit)
            self._has_pinned = True
        waiting = next((item for item in self.state.unfinished_items if item.number not in self.running), None)
        if waiting is not None:
            self._write([{"k": "start", "item": waiting.number}])
            # Bill the time so far without the new item.
            self.tick()
            self.running[waiting.number] = self.clock()
        return waiting

    def on_started(self, item: int, *, step: int, run_id: str) -> None:
        """Handles a process that trains from `step` on."""
        if self._is_open(item):
            self._write([{"k": "began", "item": item, "step": step, "run_id": run_id}])

    def on_report(self, item: int, *, step: int, values: Mapping[str, float]) -> bool:
        """Handles a report, perhaps without values; False stops the trial."""
        if not self._is_open(item):
            return False
        record = {"k": "seen", "item": item, "step": step, "values": encode_values(values)}
        self._write([record])
        if self.state.items[item].is_finite:
            return True
        # NaN ends the trial now. Its process may take a while to close its run; it is neither awaited nor billed.
        self._remove_running(item)
        self._write([mark_nan(self.state.items[item], self.state)], durable=True)
        return False

    def on_done(self, item: int, *, status: str, step: int, values: Values, **details: object) -> None:
        """Handles a result.

        `status` is `finished` at the last step, `nan`, or `failed` for good. `details` are further fields of the
        record.
        """
        self._remove_running(item)
        if self._is_open(item):
            record = {"k": "done", "item": item, "status": status, "step": step, "values": encode_values(values)}
            self._write([{**record, "run_id": "", "checkpoint": "", **details}], durable=True)

    def on_failed(self, item: int, *, cause: str, error: str) -> None:
        """Handles a failure: retries the item or fails the trial.

        `cause` is the name of a `failure_policy.Cause`, or `GONE`.
        """
        self._remove_running(item)
        if not self._is_open(item):
            return
        work = self.state.items[item]
        retry = should_retry(cause, failures=work.failures + 1, retries=self.plan.settings.retries)
        self._write([{"k": "failed", "item": item, "cause": cause, "error": error[:500], "again": retry}], durable=True)
        if not retry:
            trial = self.state.trials[work.trial]
            # The guard ends a training of NaN as diverged.
            status = "nan" if cause == "DIVERGED" else "failed"
            self.on_done(
                item, status=status, step=trial.highest_step, values={}, error=error[:500], run_id=trial.run_id
            )

    def tick(self) -> None:
        """Bills the time since the last tick."""
        # The driver and each running trial are billed. Time without a running trial is not billed.
        now = self.clock()
        # The first tick only starts the time span.
        if self._last_tick is not None and self.running and now > self._last_tick:
            trials: dict[str, float] = {}
            for item, since in self.running.items():
                # JSON keys are text.
                trial = str(self.state.items[item].trial)
                trials[trial] = round(trials.get(trial, 0.0) + now - max(since, self._last_tick), 3)
            self._write([{"k": "tick", "wall": round(now - self._last_tick, 3), "trials": trials}])
        self._last_tick = now

    def tick_if_due(self) -> None:
        """Calls `tick` every few seconds."""
        if self._last_tick is None or self.clock() - self._last_tick >= TICK_S:
            self.tick()

    def grow_if_due(self) -> None:
        """Takes in nodes that have come since the last look.

        The number of slots only grows: where nodes go, their trials wait in Ray's queue.
        """
        now = self.clock()
        if self.plan.needs_fixed_order or (self._last_growth is not None and now - self._last_growth < GROW_S):
            return
        self._last_growth = now
        fitting = self.count_fitting()
        if fitting > self.state.width:
            self._write([{"k": "width", "width": fitting}], durable=True)

    def _remove_running(self, item: int) -> None:
        """Bills an item for the last time."""
        self.tick()
        self.running.pop(item, None)

    def _is_open(self, item: int) -> bool:
        return self.state.items[item].result is None

    def _write(self, records: list[JournalRecord], *, durable: bool = False) -> None:
        for record in records:
            self.state.apply(record)
        self.journal.append(records, durable=durable)
        self.on_change(self.state)


def has_same_limits(plan: SearchPlan, state: SearchState) -> bool:
    """Compares the limits of plan and journal."""
    return (state.trial_limit, state.budget) == (trial_limit(plan), plan.settings.budget)


def trial_limit(plan: SearchPlan) -> int:
    """Largest number of trials of a search."""
    settings = plan.settings
    if settings.algorithm == "grid":
        return len(plan.space.grid())
    # A population is its trials; random and TPE take `trials`.
    return settings.pbt.population if settings.algorithm == "pbt" else settings.trials


# Cause of a trial whose process ended without a result. Others are names of `failure_policy.Cause`.
GONE = "GONE"
# Failures of a process or machine may not happen again; those of settings, code or data would.
_TRANSIENT_CAUSES = (GONE, "LOST", "HARDWARE", "NOTICE", "CREDENTIALS", "STORE", "OURS")


def should_retry(cause: str, *, failures: int, retries: int) -> bool:
    """Decides whether a failed item is started again.

    `failures` includes this one. The run handles its own first, such as a lost worker (`train.launch.failure_policy`).
    """
    return cause in _TRANSIENT_CAUSES and failures <= retries
