"""Settings of a search file.

name: my-search
base: demo                                    # preset or YAML file of every trial
search:
  objective: {metric: val/psnr, mode: max}    # or `objectives:`, several of them
  algorithm: tpe
  asha: {first: 100}
  trials: 50
  constraints: [lr_d <= lr_g]
  space: {train.lr_g: {log_uniform: [1e-5, 1e-3]}, train.lr_d: {log_uniform: [1e-6, 1e-3]}}
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from trainplane.config.section import ModelName, Section, Seed, about

SEARCH_NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"


class Dimension(Section):
    """Values of one explored setting; exactly one kind is set."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1, description="one of these values")
    uniform: tuple[float, float] | None = Field(None, description="any number from the first to the second")
    log_uniform: tuple[float, float] | None = Field(None, description="likewise, all magnitudes equally often")
    integers: tuple[int, int] | None = Field(None, description="both ends included")
    when: str | None = Field(
        None, description="condition on settings above it, such as 'loss.gan == \"hinge\"'; else it keeps its value"
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        kinds = [name for name in KINDS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(
                f"a dimension has {' and '.join(kinds) or 'no values'}; give choice, uniform, log_uniform or integers"
            )
        kind = kinds[0]
        # A choice may be a list, which cannot be hashed.
        if self.choice is not None and any(value in self.choice[:n] for n, value in enumerate(self.choice)):
            raise ValueError(f"choice: {list(self.choice)} names a value twice; a grid would train it twice")
        if kind != "choice":
            # A range: not empty, not too wide to draw from, and positive for a logarithm.
            low, high = getattr(self, kind)
            if not low < high:
                raise ValueError(f"{kind}: [{low}, {high}] is empty; the lower end comes first")
            if max(-low, high) > (most := _WIDEST[kind]):
                raise ValueError(f"{kind}: [{low}, {high}] is too wide to draw from; need ends up to {most:g}")
            if kind == "log_uniform" and low <= 0:
                raise ValueError(f"log_uniform: [{low}, {high}] must be above 0")
        return self

    @property
    def edges(self) -> tuple[Any, ...]:
        """Ends of the range, or every choice."""
        return self.choice or self.integers or self.uniform or self.log_uniform or ()

    def contains(self, value: Any) -> bool:
        """Tests a value."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.edges
        return isinstance(value, (int, float)) and low <= value <= high


KINDS = ("choice", "uniform", "log_uniform", "integers")
# Largest ends of a range. Beyond these numpy cannot draw, or Optuna's floats cannot hold every integer.
_WIDEST = {"uniform": 1e300, "log_uniform": 1e300, "integers": 2**53}


class Objective(Section):
    """Metric to maximise or minimise."""

    metric: str = Field("val/psnr", description="a recorded metric, such as val/psnr or model/parameters")
    mode: Literal["max", "min"] = Field(..., description="max or min; there is no default on purpose")


class AshaSettings(Section):
    """Asynchronous successive halving: the best of a rung are promoted."""

    first: int | None = Field(
        None,
        ge=1,
        description="steps until trials are first compared; default train.steps / eta²",
        json_schema_extra=about(unit="steps"),
    )
    eta: int = Field(3, ge=2, description="one in so many is promoted, to so many times the steps")


class PbtSettings(Section):
    """Population-based training: members train side by side."""

    population: int = Field(4, ge=2, description="trials", json_schema_extra=about(unit="trials"))
    # Steps between two exploits, in which the worst copy weights and settings of the best
    every: int | None = Field(
        None,
        ge=1,
        description="steps of a generation; default a tenth of train.steps",
        json_schema_extra=about(unit="steps"),
    )
    quantile: float = Field(0.25, gt=0, le=0.5, description="share of the population that is replaced each time")
    factors: tuple[float, float] = Field((0.8, 1.25), description="copied numbers are multiplied by one of these")
    resample: float = Field(0.25, ge=0, le=1, description="probability that a setting is drawn again instead")


class Budget(Section):
    """Limits of a search; the first one reached ends it.

    Time while the search does not run is not counted.
    """

    steps: int | None = Field(
        None, ge=1, description="training steps of all trials together", json_schema_extra=about(unit="steps")
    )
    cpu_hours: float | None = Field(
        None, gt=0, description="reserved CPUs × hours", json_schema_extra=about(unit="CPU hours")
    )
    gpu_hours: float | None = Field(
        None, gt=0, description="reserved GPUs × hours", json_schema_extra=about(unit="GPU hours")
    )
    hours: float | None = Field(
        None, gt=0, description="wall time, while it runs", json_schema_extra=about(unit="hours", also=["time"])
    )
    money: float | None = Field(
        None,
        gt=0,
        description="by train.price_per_hour of one worker",
        json_schema_extra=about(unit="money", also=["cost", "price"]),
    )


class SearchSettings(Section):
    """The `search` section of a search file."""

    space: dict[str, Dimension] = Field(..., min_length=1, description="dotted setting -> values")
    constraints: tuple[str, ...] = Field((), description="conditions that every trial meets, such as 'lr_d <= lr_g'")
    objective: Objective | None = Field(None, description="the one objective")
    objectives: tuple[Objective, ...] = Field((), description="or several: the result is a Pareto front")
    algorithm: Literal["random", "grid", "tpe", "pbt"] = Field(
        "random",
        description="how the settings of a trial are chosen; tpe learns from results, pbt changes running trials",
        json_schema_extra=about(also=["sampler", "method"]),
    )
    asha: AshaSettings | None = Field(None, description="stops weak trials early; null: every trial to its end")
    pbt: PbtSettings = PbtSettings()
    trials: int = Field(
        4,
        ge=1,
        description="how many; a grid tries every combination of its choices instead",
        json_schema_extra=about(unit="trials", also=["num_samples", "samples", "n_trials", "num_trials"]),
    )
    budget: Budget = Budget()
    startup: int = Field(
        8, ge=1, description="random trials before TPE learns from them", json_schema_extra=about(unit="trials")
    )
    concurrent: int | None = Field(
        None,
        ge=1,
        description="trials at once; default: as many as fit",
        json_schema_extra=about(unit="trials", also=["max_concurrent", "parallel", "parallelism"]),
    )
    order: Literal["fixed", "arrival"] = Field(
        "arrival",
        description="in which results count: as they arrive, or fixed, so that a search ends alike on any machine and "
        "trials wait for slower ones",
    )
    retries: int = Field(
        2,
        ge=0,
        description="times that a trial is started again after its process was lost",
        json_schema_extra=about(unit="times"),
    )
    warm_start: str | None = Field(
        None, pattern=SEARCH_NAME, description="name of an earlier search whose results TPE starts with"
    )
    seed: Seed = Field(0, description="of the choice of settings")
    register_as: ModelName | None = Field(None, description="registered model; the best trial becomes a version of it")

    @property
    def goals(self) -> tuple[Objective, ...]:
        """All objectives; the first one decides where only one can."""
        return self.objectives or ((self.objective,) if self.objective else ())

    @model_validator(mode="after")
    def _has_objectives(self) -> SearchSettings:
        if (self.objective is None) == (not self.objectives):
            got = "both search.objective and search.objectives are" if self.objective else "no objective is"
            raise ValueError(f"{got} given; write search.objective: {{metric: val/psnr, mode: max}}, or a list of them")
        # A metric cannot be maximised and minimised at once.
        names = [goal.metric for goal in self.goals]
        if len(set(names)) < len(names):
            raise ValueError(f"search.objectives names {max(names, key=names.count)} twice; name each metric once")
        return self

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> SearchSettings:
        # Each algorithm's own requirements.
        if self.algorithm == "grid":
            loose = [name for name, dimension in self.space.items() if dimension.choice is None]
            if loose:
                raise ValueError(f"a grid needs choices, and search.space.{loose[0]} is a range; use algorithm: random")
        # Both rank trials by one number.
        if len(self.goals) > 1 and (self.asha is not None or self.algorithm == "pbt"):
            user = "search.asha" if self.asha is not None else "algorithm: pbt"
            raise ValueError(f"{user} needs one objective and there are {len(self.goals)}; use tpe, random or grid")
        if self.algorithm == "pbt" and self.asha is not None:
            raise ValueError("algorithm: pbt replaces weak trials itself; leave search.asha out")
        if self.warm_start is not None and self.algorithm != "tpe":
            raise ValueError(f"search.warm_start is for algorithm: tpe, not {self.algorithm}, which does not learn")
        return self


# Fields that are no part of a search's identity: it resumes under other limits.
LIMIT_FIELDS = ("trials", "budget", "concurrent", "retries", "register_as")


class SearchFile(Section):
    """Search file: a base, overrides and a `search` section."""

    name: str = Field(
        ..., pattern=SEARCH_NAME, description="name of the search: lower case, digits, - and _; the same name resumes"
    )
    base: str = Field(..., description="preset or YAML file of every trial")
    overrides: dict[str, Any] = Field(default_factory=dict, description="sections on top of the base")
    search: SearchSettings
