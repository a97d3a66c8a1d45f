"""Simulates a search: real decisions and journal, without training.

    cluster = SimulatedCluster(value, steps_between_reports=1)
    simulate(driver, cluster)   # to the end, or until the journal has so many records
    cluster.steps_trained       # "trained" steps, including those repeated after a kill

The result of a trial is a function of settings and step. A kill loses the work behind a trial's last checkpoint, as in
a real search. Trials may differ in speed, so that results arrive in another order than trials started. Used by tests
and by `isnet bench search`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from trainplane.search.policy.state import Values, WorkItem
from trainplane.search.run.driver import Driver
from trainplane.search.space import Settings

Value = Callable[[Settings, int, int], Values]
"""Metrics of a validation, from settings, trial and step."""


@dataclass
class SimulatedCluster:
    """Trials, checkpoints and time, which survive a kill.

    Attributes:
        value: Metrics of a validation.
        seconds_per_step: Seconds of a step, by the number of its trial.
        diverges_at: Step at which the training of a trial meets NaN, between two reports; None: never.
        checkpoint_steps: Step of the last checkpoint, by trial and segment.
        steps_trained: Steps of all trials, repeated ones included.
        steps_by_trial: The same for each trial.
        now: Time in seconds.
    """

    value: Value
    steps_between_reports: int = 1
    steps_between_checkpoints: int = 1
    seconds_per_step: Callable[[int], float] = lambda trial: 1.0
    diverges_at: Callable[[int], int | None] = lambda trial: None
    checkpoint_steps: dict[str, int] = field(default_factory=dict)
    steps_trained: int = 0
    steps_by_trial: dict[int, int] = field(default_factory=dict)
    now: float = 0.0

    def clock(self) -> float:
        """Seconds that the search has run so far."""
        return self.now

    def train(self, item: WorkItem, steps: int) -> None:
        """Counts trained steps."""
        self.steps_trained += steps
        self.steps_by_trial[item.trial] = self.steps_by_trial.get(item.trial, 0) + steps


class Killed(Exception):
    """Raised when the search is killed."""


@dataclass(order=True)
class _Process:
    """Running item and the time of its next report."""

    due: float
    item_number: int
    step: int = field(compare=False)
    item: WorkItem = field(compare=False)


def simulate(driver: Driver, cluster: SimulatedCluster, *, kill_at: int | None = None) -> None:
    """Runs a search to its end.

    Raises:
        Killed: The journal has `kill_at` records.
    """
    processes: list[_Process] = []
    driver.clock = cluster.clock
    while True:
        # Fill all slots, then let the process with the earliest report make it.
        while (item := driver.next_item()) is not None:
            heapq.heappush(processes, _start(driver, cluster, item))
            _check_kill(driver, kill_at)
        _check_kill(driver, kill_at)
        if driver.is_over:
            return
        process = heapq.heappop(processes)
        cluster.now = process.due
        if _report(driver, cluster, process):
            heapq.heappush(processes, process)
        _check_kill(driver, kill_at)


def _check_kill(driver: Driver, kill_at: int | None) -> None:
    if kill_at is not None and len(driver.journal.records) >= kill_at:
        raise Killed


def _key(driver: Driver, item: WorkItem) -> str:
    trial = driver.state.trials[item.trial]
    return f"{trial.number}.{trial.segment}"


def _start(driver: Driver, cluster: SimulatedCluster, item: WorkItem) -> _Process:
    """Starts a process, from the checkpoint of trial or donor."""
    # A trial behind an exploit starts at least at the donor's step.
    donor = driver.state.trials[item.trial].donor
    first = donor["step"] if donor else 0
    step = max(cluster.checkpoint_steps.get(_key(driver, item), 0), first)
    driver.on_started(item.number, step=step, run_id=f"run-{item.trial}")
    process = _Process(cluster.now, item.number, step, item)
    _schedule(cluster, process)
    return process


def _next_step(cluster: SimulatedCluster, process: _Process) -> int:
    """Step of the next report, a multiple of the interval."""
    every = cluster.steps_between_reports
    return min(process.item.last_step, process.step - process.step % every + every)


def _schedule(cluster: SimulatedCluster, process: _Process) -> None:
    """Sets the time of the next report."""
    steps = _next_step(cluster, process) - process.step
    process.due = cluster.now + steps * cluster.seconds_per_step(process.item.trial)


def _report(driver: Driver, cluster: SimulatedCluster, process: _Process) -> bool:
    """Trains to the next report; returns False at the end."""
    item, trial = process.item, driver.state.trials[process.item.trial]
    # The guard ends a training that diverges between two reports.
    fatal = cluster.diverges_at(item.trial)
    if fatal is not None and process.step < fatal <= process.step + cluster.steps_between_reports:
        cluster.train(item, fatal - process.step)
        driver.on_failed(item.number, cause="DIVERGED", error=f"the guard ended training at step {fatal}")
        return False
    step = _next_step(cluster, process)
    # Train and measure.
    cluster.train(item, step - process.step)
    process.step = step
    values = cluster.value(trial.settings, trial.number, step)
    # Save a checkpoint at its interval and at the end of the item.
    if step % cluster.steps_between_checkpoints == 0 or step == item.last_step:
        cluster.checkpoint_steps[_key(driver, item)] = step
    if not driver.on_report(item.number, step=step, values=values):
        return False
    if step < item.last_step:
        _schedule(cluster, process)
        return True
    # The result of the item.
    is_finite = all(math.isfinite(values.get(goal.metric, math.nan)) for goal in driver.plan.settings.goals)
    status = "finished" if is_finite else "nan"
    checkpoint = f"memory/{_key(driver, item)}/step-{step:08d}"
    driver.on_done(item.number, status=status, step=step, values=values, checkpoint=checkpoint, seconds=0.0)
    return False
