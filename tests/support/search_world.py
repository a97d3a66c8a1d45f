"""Small searches in memory, for the tests of the search room."""

from __future__ import annotations

import math

from trainplane.config.load import build
from trainplane.search.config import SearchSettings
from trainplane.search.policy.budget import CostRates
from trainplane.search.policy.scheduler import SearchPlan
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import MemoryJournal
from trainplane.search.space import Space
from trainplane.testing.simulated_search import SimulatedCluster

STEPS = 27


def settings(**given):
    base = {"space": {"x": {"uniform": [0, 1]}}, "objective": {"metric": "v", "mode": "max"}, "trials": 16}
    # The order in which results count is part of what most tests compare.
    base["order"] = "fixed"
    if "objectives" in given:
        base.pop("objective")
    return build(SearchSettings, base | given)


def plan(steps=STEPS, **given):
    made = settings(**given)
    return SearchPlan(made, Space.of(made, {}), steps, CostRates(1.0))


def driver(made, records=(), width=2, **given):
    return Driver.resume(made, MemoryJournal(list(records)), key="key", width=width, **given)


def rising(settings, trial, step):
    """Nearer to its end the further it is trained; the best end is at x = 0.3."""
    return {"v": 1 - (settings["x"] - 0.3) ** 2 - (settings.get("a", 0.5) - 0.5) ** 2 - 1 / (step + 1)}


def every_fourth_is_nan(settings, trial, step):
    """The case of many peers: four trials of sixteen report nothing but NaN."""
    return {"v": math.nan if trial % 4 == 3 else -(trial + 1.0 / (step + 1))}


def cluster(value=rising, **given):
    return SimulatedCluster(value, **given)


def outcome(driver):
    """What must not depend on kills or on who was fast."""
    state = driver.state
    return (
        # As text, since NaN is not equal to itself.
        {n: repr((t.settings, t.status, t.step, t.values, t.segment)) for n, t in state.trials.items()},
        state.rungs,
        state.commit_order if driver.plan.needs_fixed_order else sorted(state.commit_order),
        state.usage.total_steps,
    )
