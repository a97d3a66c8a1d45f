"""PURE: what a search has used, what for, and whether there is something left.

Only time in which trials run is counted: a search that was killed on Friday and goes on on Monday has not used the
weekend. Waste is told by cause. `CostRates` say what a second of a trial holds; `SearchUsage` is part of the folded state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import UserError
from trainplane.search.config import Budget


@dataclass(frozen=True)
class CostRates:
    """What one running trial occupies, and its price by the hour where there is one."""

    cpus: float
    gpus: float = 0.0
    price_per_hour: float | None = None


CAUSES = ("stopped early", "failed", "NaN", "repeated")


@dataclass
class SearchUsage:
    """Seconds of trials by trial, wall seconds of the driver while trials ran, and training steps.

    steps    -- of all trials as far as they came, each once
    repeated -- steps run once more, because what was behind the last checkpoint was lost
    """

    wall_s: float = 0.0
    trial_s: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    repeated: int = 0

    def tick(self, wall_s: float, running: Mapping[int, float]) -> None:
        """So much time went by; `running`: how much of it each trial ran."""
        self.wall_s += wall_s
        for trial, seconds in running.items():
            self.trial_s[trial] = self.trial_s.get(trial, 0.0) + seconds

    @property
    def total_steps(self) -> int:
        return sum(self.steps.values())

    @property
    def total_s(self) -> float:
        return sum(self.trial_s.values())


def reached_limit(budget: Budget, spent: SearchUsage, rates: CostRates) -> str | None:
    """Which limit in time or money is reached, as a sentence; None while there is something left."""
    hours = spent.total_s / 3600
    used = {
        "cpu_hours": hours * rates.cpus,
        "gpu_hours": hours * rates.gpus,
        "hours": spent.wall_s / 3600,
        "money": hours * (rates.price_per_hour or 0.0),
    }
    for name, value in used.items():
        limit = getattr(budget, name)
        if limit is not None and value >= limit:
            return f"search.budget.{name}={limit:g} is used ({value:.3g})"
    return None


def check(budget: Budget, rates: CostRates, *, steps: int, trial_seconds: float | None) -> None:
    """`UserError` for a budget that is too small for one trial, or that nothing would ever reach.

    steps          -- of one trial to its end
    trial_seconds -- that it takes, where an earlier run like it tells
    """
    if budget.steps is not None and budget.steps < steps:
        raise UserError(
            f"search.budget.steps={budget.steps} is less than one trial of {steps} steps; "
            f"set search.budget.steps={steps} at least, or a smaller train.steps"
        )
    if budget.money is not None and rates.price_per_hour is None:
        raise UserError(
            f"search.budget.money={budget.money:g} and no price is set; give train.price_per_hour=… of one worker"
        )
    if budget.gpu_hours is not None and not rates.gpus:
        raise UserError(
            f"search.budget.gpu_hours={budget.gpu_hours:g} and trials use no GPU; give search.budget.cpu_hours instead"
        )
    if trial_seconds is None:
        return
    needs = {
        "cpu_hours": trial_seconds / 3600 * rates.cpus,
        "gpu_hours": trial_seconds / 3600 * rates.gpus,
        "hours": trial_seconds / 3600,
        "money": trial_seconds / 3600 * (rates.price_per_hour or 0.0),
    }
    for name, need in needs.items():
        limit = getattr(budget, name)
        if limit is not None and limit < need:
            raise UserError(
                f"search.budget.{name}={limit:g} is less than one trial, which takes about {need:.3g} at the rate of "
                f"the last run like it; set search.budget.{name}={need:.2g} at least, or a smaller train.steps"
            )


def cost_report(spent: SearchUsage, outcomes: Mapping[int, str], rates: CostRates) -> dict[str, Any]:
    """The ledger: totals, and steps and seconds that led nowhere by cause. `outcomes`: how each trial stands."""
    causes = {"stopped": "stopped early", "failed": "failed", "nan": "NaN"}
    waste: dict[str, dict[str, float]] = {cause: {"steps": 0, "seconds": 0.0} for cause in CAUSES}
    for trial, outcome in outcomes.items():
        if outcome in causes:
            entry = waste[causes[outcome]]
            entry["steps"] += spent.steps.get(trial, 0)
            entry["seconds"] = round(entry["seconds"] + spent.trial_s.get(trial, 0.0), 1)
    waste["repeated"]["steps"] = spent.repeated
    rate = spent.total_s / (spent.total_steps + spent.repeated) if spent.total_steps + spent.repeated else 0.0
    waste["repeated"]["seconds"] = round(spent.repeated * rate, 1)
    hours = spent.total_s / 3600
    return {
        "steps": spent.total_steps,
        "cpu_seconds": round(spent.total_s * rates.cpus, 1),
        "gpu_seconds": round(spent.total_s * rates.gpus, 1),
        "wall_seconds": round(spent.wall_s, 1),
        "money": None if rates.price_per_hour is None else round(hours * rates.price_per_hour, 4),
        "waste": waste,
    }
