"""Sections of a search file: what is explored, what makes a trial good, how, and what it may cost.

    name: my-search
    base: demo                                    # preset or YAML file of every trial
    search:
      objective: {metric: val/psnr, mode: max}    # or `objectives:`, several of them
      algorithm: tpe
      asha: {first: 100}
      trials: 50
      constraints: [lr_d <= lr_g]
      space: {train.lr_g: {log_uniform: [1e-5, 1e-3]}, train.lr_d: {log_uniform: [1e-6, 1e-3]}}

Not covered: drawing from the space (`space`), what the algorithms do with it (`asha`, `pbt`, `suggest`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainplane.config.section import ModelName, Section, Seed

SEARCH_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class Dimension(Section):
    """One setting's values: exactly one of `choice`, `uniform`, `log_uniform`, `integers`; explored only `when`."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = Field(None, description="both ends included")
    when: str | None = Field(
        None, description="condition on settings above it, such as 'loss.gan == \"hinge\"'; else it keeps its value"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = [name for name in KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a dimension has {' and '.join(given) or 'no values'}; give choice, uniform, log_uniform or integers"
            )
        if self.choice is not None and any(value in self.choice[:n] for n, value in enumerate(self.choice)):
            raise ValueError(f"choice: {list(self.choice)} names a value twice; a grid would train it twice")
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if not low < high:
                raise ValueError(f"{given[0]}: [{low}, {high}] is empty; the lower end comes first")
            if max(-low, high) > (most := _WIDEST[given[0]]):
                raise ValueError(f"{given[0]}: [{low}, {high}] is too wide to draw from; need ends up to {most:g}")
            if given[0] == "log_uniform" and low <= 0:
                raise ValueError(f"log_uniform: [{low}, {high}] must be above 0")
        return self

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values at its edges; every choice."""
        return self.choice or self.integers or self.uniform or self.log_uniform or ()

    def contains(self, value: Any) -> bool:
        """Whether `value` is one of its values."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.edges
        return isinstance(value, (int, float)) and low <= value <= high


KINDS = ("choice", "uniform", "log_uniform", "integers")
# Ends of a range: beyond these numpy cannot draw, or the numbers that Optuna reckons with are no whole ones any more.
_WIDEST = {"uniform": 1e300, "log_uniform": 1e300, "integers": 2**53}


class Objective(Section):
    """What makes one trial better than another."""

    metric: str = Field("val/psnr", description="a recorded metric, such as val/psnr or model/parameters")
    mode: Literal["max", "min"] = Field(..., description="max or min; there is no default on purpose")


class AshaSettings(Section):
    """Successive halving without waiting: a trial goes on where it is among the best of all that came as far."""

    first: int | None = Field(None, ge=1, description="steps until a trial is judged first; default train.steps / eta²")
    eta: int = Field(3, ge=2, description="one in so many goes on, for so many times the steps")


class PbtSettings(Section):
    """A population that trains side by side: every so often the worst take over from the best."""

    population: int = Field(4, ge=2, description="trials")
    every: int | None = Field(None, ge=1, description="steps between take-overs; default a tenth of train.steps")
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of the population that is replaced each time")
    factors: tuple[float, float] = Field((0.8, 1.25), description="numbers taken over are multiplied by one of these")
    resample: float = Field(0.25, ge=0, le=1, description="probability that a setting is drawn anew instead")


class Budget(Section):
    """What the search may use; what is reached first ends it. Time while it does not run is not counted."""

    steps: int | None = Field(None, ge=1, description="training steps of all trials together")
    cpu_hours: float | None = Field(None, gt=0, description="reserved CPUs × hours")
    gpu_hours: float | None = Field(None, gt=0, description="reserved GPUs × hours")
    hours: float | None = Field(None, gt=0, description="wall time, while it runs")
    money: float | None = Field(None, gt=0, description="by train.price_per_hour of one worker")


class SearchSettings(Section):
    """The `search` section of a search file."""

    space: dict[str, Dimension] = Field(..., min_length=1, description="dotted setting -> values")
    constraints: tuple[str, ...] = Field((), description="conditions that every trial meets, such as 'lr_d <= lr_g'")
    objective: Objective | None = Field(None, description="the one objective")
    objectives: tuple[Objective, ...] = Field((), description="or several: the result is a Pareto front")
    algorithm: Literal["random", "grid", "tpe", "pbt"] = "random"
    asha: AshaSettings | None = Field(None, description="stop what lags behind early; none: every trial to its end")
    pbt: PbtSettings = PbtSettings()
    trials: int = Field(4, ge=1, description="how many; a grid tries every combination of its choices instead")
    budget: Budget = Budget()
    startup: int = Field(8, ge=1, description="random trials before TPE learns from them")
    concurrent: int | None = Field(None, ge=1, description="trials at once; default: as many as fit")
    order: Literal["fixed", "arrival"] = Field(
        "fixed",
        description="in which decisions follow on results: the same whatever is slow or killed, or as results come",
    )
    retries: int = Field(2, ge=0, description="times that a trial whose process was lost is started again")
    warm_start: str | None = Field(
        None, pattern=SEARCH_NAME, description="name of an earlier search whose results TPE begins with"
    )
    seed: Seed = 0
    register_as: ModelName | None = Field(None, description="registered model that the best trial becomes a version of")

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives, one or several; the first one decides where only one can."""
        return self.objectives or ((self.objective,) if self.objective else ())

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> SearchSettings:
        if (self.objective is None) == (not self.objectives):
            got = "both search.objective and search.objectives are" if self.objective else "no objective is"
            raise ValueError(f"{got} given; write search.objective: {{metric: val/psnr, mode: max}}, or a list of them")
        names = [goal.metric for goal in self.goals]
        if len(set(names)) < len(names):
            raise ValueError(f"search.objectives names {max(names, key=names.count)} twice; name each metric once")
        return self

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> SearchSettings:
        if self.algorithm == "grid":
            loose = [name for name, dimension in self.space.items() if dimension.choice is None]
            if loose:
                raise ValueError(f"a grid needs choices, and search.space.{loose[0]} is a range; use algorithm: random")
        if len(self.goals) > 1 and (self.asha is not None or self.algorithm == "pbt"):
            what = "search.asha" if self.asha is not None else "algorithm: pbt"
            raise ValueError(f"{what} judges by one objective and there are {len(self.goals)}; use tpe, random or grid")
        if self.algorithm == "pbt" and self.asha is not None:
            raise ValueError("algorithm: pbt replaces what lags behind by itself; leave search.asha out")
        if self.warm_start is not None and self.algorithm != "tpe":
            raise ValueError(f"search.warm_start is for algorithm: tpe, not {self.algorithm}, which does not learn")
        return self


# Part of a search file, but not of which search it is: it goes on under other limits.
LIMIT_FIELDS = ("trials", "budget", "concurrent", "retries", "register_as")


class SearchFile(Section):
    """A search: a base preset, settings on top of it, and what to explore."""

    name: str = Field(..., pattern=SEARCH_NAME)
    base: str = Field(..., description="preset or YAML file of every trial")
    overrides: dict[str, Any] = Field(default_factory=dict, description="sections on top of the base")
    search: SearchSettings
