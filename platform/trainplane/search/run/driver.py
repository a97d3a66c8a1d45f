"""Carries a search on: writes down what it is told, asks `engine` what follows, hands out what is to be trained.

Whoever runs trials (`tuning`, on Ray Tune; a simulation in tests and in `isnet bench search`) asks `next` for an item,
and tells what becomes of it. Decisions are in the journal before anybody acts on them. Not covered: trials themselves.
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

TICK_S = 5.0


@dataclass
class Driver:
    """The search in this process.

    watch -- called after every change
    pin   -- called with every take-over before its donor may go on, again where a kill came between
    """

    plan: SearchPlan
    state: SearchState
    journal: Journal
    on_change: Callable[[SearchState], None] = lambda state: None
    pin_donor: Callable[[JournalRecord], None] = lambda takeover: None
    clock: Callable[[], float] = time.monotonic
    running: dict[int, float] = field(default_factory=dict)
    _ticked: float | None = None
    _is_pinned: bool = False

    @staticmethod
    def resume(
        plan: SearchPlan, journal: Journal, *, key: str, width: int, prior_results: list[JournalRecord] | None = None
    ) -> Driver:
        """From the journal's records; a new search begins with `width` slots, which it keeps for ever."""
        state = fold(journal.records, plan.settings.goals)
        driver = Driver(plan, state, journal)
        first: list[JournalRecord] = []
        if not journal.records:
            first.append({"k": "begin", "version": FORMAT_VERSION, "key": key, "width": width})
            if prior_results:
                first.append({"k": "prior", "trials": prior_results})
        elif state.key != key:
            raise UserError(
                f"the journal belongs to another search (key {state.key[:12]}, need {key[:12]}); "
                "give this one another name"
            )
        if first or not has_same_limits(plan, state):
            budget = plan.settings.budget.model_dump(mode="json", exclude_none=True)
            first.append({"k": "limits", "trials": trial_limit(plan), "budget": budget})
        first.append({"k": "driver", "pid": os.getpid(), "host": socket.gethostname()})
        driver._write(first, durable=True)
        return driver

    @staticmethod
    def read_only(plan: SearchPlan, state: SearchState) -> Driver:
        """To look at only: what it is told goes nowhere."""
        return Driver(plan, state, MemoryJournal([]))

    @property
    def is_over(self) -> bool:
        return self.state.end_reason is not None

    def next_item(self) -> WorkItem | None:
        """The next item to train, from now on running; None while there is nothing to do."""
        decided = advance(self.plan, self.state)
        if decided:
            self.journal.append(decided, durable=True)
            self.on_change(self.state)
        if not self._is_pinned or any(record["k"] == "exploit" for record in decided):
            for takeover in self.state.pending_exploits():
                self.pin_donor(takeover)
            self._is_pinned = True
        waiting = next((item for item in self.state.unfinished_items if item.number not in self.running), None)
        if waiting is not None:
            self._write([{"k": "start", "item": waiting.number}])
            self.tick()
            self.running[waiting.number] = self.clock()
        return waiting

    def on_started(self, item: int, *, step: int, run_id: str) -> None:
        """Its process trains from this step."""
        if self._is_open(item):
            self._write([{"k": "began", "item": item, "step": step, "run_id": run_id}])

    def on_report(self, item: int, *, step: int, values: Mapping[str, float]) -> bool:
        """A validation (or, without values, a sign of life); False where the trial shall stop."""
        if not self._is_open(item):
            return False
        record = {"k": "seen", "item": item, "step": step, "values": encode_values(values)}
        self._write([record])
        if self.state.items[item].is_finite:
            return True
        # Its process may still have to close its run: it is no longer waited for, and no longer billed.
        self._stopped(item)
        self._write([mark_nan(self.state.items[item], self.state)], durable=True)
        return False

    def on_done(self, item: int, *, status: str, step: int, values: Values, **about: object) -> None:
        """It ended: finished at its last step, or `nan`, or `failed` for good."""
        self._stopped(item)
        if self._is_open(item):
            facts = {"run_id": "", "checkpoint": "", **about}
            record = {
                "k": "done",
                "item": item,
                "status": status,
                "step": step,
                "values": encode_values(values),
                **facts,
            }
            self._write([record], durable=True)

    def on_failed(self, item: int, *, cause: str, error: str) -> None:
        """It failed; started again where the cause and the number of failures allow it, else failed for good."""
        self._stopped(item)
        if not self._is_open(item):
            return
        open_item = self.state.items[item]
        retry = should_retry(cause, failures=open_item.failures + 1, retries=self.plan.settings.retries)
        self._write([{"k": "failed", "item": item, "cause": cause, "error": error[:500], "again": retry}], durable=True)
        if not retry:
            trial = self.state.trials[open_item.trial]
            status = "nan" if cause == "DIVERGED" else "failed"
            self.on_done(
                item, status=status, step=trial.highest_step, values={}, error=error[:500], run_id=trial.run_id
            )

    def tick(self) -> None:
        """Bill the time since the last tick: of the driver while trials run, and of each that does."""
        now = self.clock()
        if self._ticked is not None and self.running and now > self._ticked:
            trials: dict[str, float] = {}
            for item, since in self.running.items():
                name = str(self.state.items[item].trial)
                trials[name] = round(trials.get(name, 0.0) + now - max(since, self._ticked), 3)
            self._write([{"k": "tick", "wall": round(now - self._ticked, 3), "trials": trials}])
        self._ticked = now

    def tick_if_due(self) -> None:
        """As `tick`, every few seconds."""
        if self._ticked is None or self.clock() - self._ticked >= TICK_S:
            self.tick()

    def _stopped(self, item: int) -> None:
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
    """Whether the search has the limits now that its journal knows."""
    return (state.trial_limit, state.budget) == (trial_limit(plan), plan.settings.budget)


def trial_limit(plan: SearchPlan) -> int:
    """How many trials there will be at most."""
    settings = plan.settings
    if settings.algorithm == "grid":
        return len(plan.space.grid())
    return settings.pbt.population if settings.algorithm == "pbt" else settings.trials


# Names of `trainplane.train.launch.failure_policy.Cause`, and that the trial's own process went away without a word.
GONE = "GONE"


_OF_THE_MACHINE = (GONE, "LOST", "NOTICE", "CREDENTIALS", "OURS")


def should_retry(cause: str, *, failures: int, retries: int) -> bool:
    """Whether to start the trial again after so many failures, this one included."""
    return cause in _OF_THE_MACHINE and failures <= retries
