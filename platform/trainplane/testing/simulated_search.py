"""A search whose trials are a function of settings and step: the real decisions and journal, without training.

    cluster = SimulatedCluster(value, steps_between_reports=1)
    simulate(driver, cluster)                       # to the end, or until the journal has so many records
    cluster.steps_trained                                    # steps that were "trained", those repeated after a kill included

What is behind a trial's last checkpoint is lost when the search is killed, as in life. Trials may be of different
speed, so that results arrive in another order than they began. Used by tests and by `isnet bench search`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from trainplane.search.config import Objective
from trainplane.search.policy.state import Values, WorkItem
from trainplane.search.run.driver import Driver
from trainplane.search.space import Settings

Value = Callable[[Settings, int, int], Values]
"""Settings, trial and step to the values that a validation there finds."""


@dataclass
class SimulatedCluster:
    """What outlives a kill: how far each trial's checkpoints are, and what was paid.

    seconds_per_step -- of a trial, by its number
    diverges_at      -- the step in which training itself meets NaN, between two reports, by the trial's number
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
        """Seconds since the beginning; stands still while the search does not run."""
        return self.now


class Killed(Exception):
    """The search was killed."""


@dataclass(order=True)
class _Running:
    due: float
    item_number: int
    step: int = field(compare=False)
    item: WorkItem = field(compare=False)


def simulate(driver: Driver, cluster: SimulatedCluster, *, kill_at: int | None = None) -> None:
    """Carry the search on. Raises `Killed` as soon as the journal has `kill_at` records."""
    running: list[_Running] = []
    driver.clock = cluster.clock
    while True:
        while (item := driver.next_item()) is not None:
            heapq.heappush(running, _start(driver, cluster, item))
            _maybe_killed(driver, kill_at)
        _maybe_killed(driver, kill_at)
        if driver.is_over:
            return
        one = heapq.heappop(running)
        cluster.now = one.due
        if _report(driver, cluster, one):
            heapq.heappush(running, one)
        _maybe_killed(driver, kill_at)


def _maybe_killed(driver: Driver, kill_at: int | None) -> None:
    if kill_at is not None and len(driver.journal.records) >= kill_at:
        raise Killed


def _key(driver: Driver, item: WorkItem) -> str:
    trial = driver.state.trials[item.trial]
    return f"{trial.number}.{trial.segment}"


def _start(driver: Driver, cluster: SimulatedCluster, item: WorkItem) -> _Running:
    """A process begins: from its checkpoint, from its donor's, or from nothing."""
    donor = driver.state.trials[item.trial].donor
    least = donor["step"] if donor else 0
    step = max(cluster.checkpoint_steps.get(_key(driver, item), 0), least)
    driver.on_started(item.number, step=step, run_id=f"run-{item.trial}")
    return _next(cluster, _Running(cluster.now, item.number, step, item))


def _next(cluster: SimulatedCluster, one: _Running) -> _Running:
    every = cluster.steps_between_reports
    step = min(one.item.last_step, one.step - one.step % every + every)
    one.due = cluster.now + (step - one.step) * cluster.seconds_per_step(one.item.trial)
    return one


def _pay(cluster: SimulatedCluster, item: WorkItem, steps: int) -> None:
    cluster.steps_trained += steps
    cluster.steps_by_trial[item.trial] = cluster.steps_by_trial.get(item.trial, 0) + steps


def _report(driver: Driver, cluster: SimulatedCluster, one: _Running) -> bool:
    """One report's worth of training; whether the trial goes on."""
    item, trial = one.item, driver.state.trials[one.item.trial]
    fatal = cluster.diverges_at(item.trial)
    if fatal is not None and one.step < fatal <= one.step + cluster.steps_between_reports:
        _pay(cluster, item, fatal - one.step)
        driver.on_failed(item.number, cause="DIVERGED", error=f"the guard ended training at step {fatal}")
        return False
    every = cluster.steps_between_reports
    step = min(item.last_step, one.step - one.step % every + every)
    _pay(cluster, item, step - one.step)
    one.step = step
    values = cluster.value(trial.settings, trial.number, step)
    if step % cluster.steps_between_checkpoints == 0 or step == item.last_step:
        cluster.checkpoint_steps[_key(driver, item)] = step
    goals: tuple[Objective, ...] = driver.plan.settings.goals
    if not driver.on_report(item.number, step=step, values=values):
        return False
    if step < item.last_step:
        _next(cluster, one)
        return True
    finite = all(math.isfinite(values.get(goal.metric, math.nan)) for goal in goals)
    place = f"memory/{_key(driver, item)}/step-{step:08d}"
    driver.on_done(
        item.number, status="finished" if finite else "nan", step=step, values=values, checkpoint=place, seconds=0.0
    )
    return False
