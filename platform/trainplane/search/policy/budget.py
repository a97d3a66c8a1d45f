"""Used resources of a search, and its limits.

Pure: no I/O. Only time in which trials run is counted: a search killed on Friday has not used the weekend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import UserError
from trainplane.search.config import Budget


@dataclass(frozen=True)
class CostRates:
    """Resources that one running trial occupies."""

    cpus: float
    gpus: float = 0.0
    price_per_hour: float | None = None

    def of(self, trial_seconds: float) -> dict[str, float]:
        """Cost of so many trial seconds, by field of `Budget`."""
        hours = trial_seconds / 3600
        return {
            "cpu_hours": hours * self.cpus,
            "gpu_hours": hours * self.gpus,
            "money": hours * (self.price_per_hour or 0.0),
        }


# Keys of `waste` in the report.
CAUSES = ("stopped early", "failed", "NaN", "repeated")


@dataclass
class SearchUsage:
    """Time and training steps used so far."""

    wall_s: float = 0.0  # Wall time of the driver while trials ran, in seconds
    trial_s: dict[int, float] = field(default_factory=dict)  # Seconds of each trial
    steps: dict[int, int] = field(default_factory=dict)  # Highest step of each trial; repeated steps are not counted
    repeated: int = 0  # Steps trained again, because the work behind the last checkpoint was lost

    def tick(self, wall_s: float, running: Mapping[int, float]) -> None:
        """Adds a time span, and each trial's seconds in it."""
        self.wall_s += wall_s
        for trial, seconds in running.items():
            self.trial_s[trial] = self.trial_s.get(trial, 0.0) + seconds

    @property
    def total_steps(self) -> int:
        """Steps of all trials."""
        return sum(self.steps.values())

    @property
    def total_s(self) -> float:
        """Seconds of all trials."""
        return sum(self.trial_s.values())


def reached_limit(budget: Budget, usage: SearchUsage, costs: CostRates) -> str | None:
    """Names a reached limit in time or money, if any."""
    used = {**costs.of(usage.total_s), "hours": usage.wall_s / 3600}
    for name in ("cpu_hours", "gpu_hours", "hours", "money"):
        limit = getattr(budget, name)
        if limit is not None and used[name] >= limit:
            return f"search.budget.{name}={limit:g} is used ({used[name]:.3g})"
    return None


def near_limit(budget: Budget, usage: SearchUsage, costs: CostRates, *, share: float) -> str | None:
    """Names a limit of which `share` is used, if any."""
    used = {**costs.of(usage.total_s), "hours": usage.wall_s / 3600, "steps": float(usage.total_steps)}
    for name, amount in used.items():
        limit = getattr(budget, name)
        if limit is not None and amount >= share * limit:
            return f"{share:.0%} of search.budget.{name}={limit:g} is used"
    return None


def check(budget: Budget, costs: CostRates, *, steps: int, trial_seconds: float | None) -> None:
    """Refuses a budget that is too small or cannot count.

    `steps` and `trial_seconds` (None: unknown) are those of one complete trial. Raises `UserError` if the budget is
    less, or has a limit that no trial adds to.
    """
    if budget.steps is not None and budget.steps < steps:
        raise UserError(
            f"search.budget.steps={budget.steps} is less than one trial of {steps} steps; "
            f"set search.budget.steps={steps} at least, or a smaller train.steps"
        )
    if budget.money is not None and costs.price_per_hour is None:
        raise UserError(
            f"search.budget.money={budget.money:g} and no price is set; give train.price_per_hour=… of one worker"
        )
    if budget.gpu_hours is not None and not costs.gpus:
        raise UserError(
            f"search.budget.gpu_hours={budget.gpu_hours:g} and trials use no GPU; give search.budget.cpu_hours instead"
        )
    # Without the time of a trial, only its steps can be compared.
    if trial_seconds is None:
        return
    # Every limit must allow one complete trial.
    required = {**costs.of(trial_seconds), "hours": trial_seconds / 3600}
    for name in ("cpu_hours", "gpu_hours", "hours", "money"):
        limit = getattr(budget, name)
        if limit is not None and limit < required[name]:
            raise UserError(
                f"search.budget.{name}={limit:g} is less than one trial, which takes about {required[name]:.3g} at the "
                f"rate of the last run like it; set search.budget.{name}={required[name]:.2g} at least, "
                "or a smaller train.steps"
            )


def cost_report(usage: SearchUsage, outcomes: Mapping[int, str], costs: CostRates) -> dict[str, Any]:
    """Totals and waste by cause; `outcomes` are trials' statuses."""
    # Steps and seconds of trials that led to no trained model.
    causes = {"stopped": "stopped early", "failed": "failed", "nan": "NaN"}
    waste: dict[str, dict[str, float]] = {cause: {"steps": 0, "seconds": 0.0} for cause in CAUSES}
    for trial, outcome in outcomes.items():
        if outcome in causes:
            entry = waste[causes[outcome]]
            entry["steps"] += usage.steps.get(trial, 0)
            entry["seconds"] = round(entry["seconds"] + usage.trial_s.get(trial, 0.0), 1)
    # Repeated steps are billed at the mean time of a step.
    waste["repeated"]["steps"] = usage.repeated
    trained = usage.total_steps + usage.repeated
    waste["repeated"]["seconds"] = round(usage.repeated * (usage.total_s / trained if trained else 0.0), 1)
    return {
        "steps": usage.total_steps,
        "cpu_seconds": round(usage.total_s * costs.cpus, 1),
        "gpu_seconds": round(usage.total_s * costs.gpus, 1),
        "wall_seconds": round(usage.wall_s, 1),
        "money": None if costs.price_per_hour is None else round(costs.of(usage.total_s)["money"], 4),
        "waste": waste,
    }
