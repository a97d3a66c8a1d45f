"""What a search tries: its file, its space, and which configuration trial number n has.

Trial n of a search is a pure function of the search's digest and n, so that a search that is started again asks for
the same trials. Not covered: what fits the cluster (`admission`), carrying it out (`launch`).
"""

from __future__ import annotations

import hashlib
import math
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from trainplane.config import canonical_json
from trainplane.errors import UserError
from trainplane.section import Section


class Dimension(Section):
    """One setting's values: exactly one of `choice`, `uniform`, `log_uniform`, `integers`."""

    choice: tuple[Any, ...] | None = Field(None, min_length=1)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    integers: tuple[int, int] | None = Field(None, description="both ends included")

    @model_validator(mode="after")
    def _one_kind(self) -> Dimension:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a dimension has {' and '.join(given) or 'no values'}; give choice, uniform, log_uniform or integers"
            )
        if given[0] != "choice":
            low, high = getattr(self, given[0])
            if not low < high:
                raise ValueError(f"{given[0]}: [{low}, {high}] is empty; the lower end comes first")
            if given[0] == "log_uniform" and low <= 0:
                raise ValueError(f"log_uniform: [{low}, {high}] must be above 0")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """One value."""
        if self.choice is not None:
            return self.choice[int(rng.integers(len(self.choice)))]
        if self.integers is not None:
            return int(rng.integers(self.integers[0], self.integers[1], endpoint=True))
        if self.log_uniform is not None:
            low, high = self.log_uniform
            return math.exp(rng.uniform(math.log(low), math.log(high)))
        assert self.uniform is not None
        return float(rng.uniform(*self.uniform))


class Objective(Section):
    """What makes one trial better than another."""

    metric: str = Field("val/psnr", description="a recorded metric, such as val/psnr")
    mode: Literal["max", "min"] = Field(..., description="max or min; there is no default on purpose")


class SearchSettings(Section):
    """The `search` section of a search file."""

    space: dict[str, Dimension] = Field(..., min_length=1, description="dotted setting -> values")
    objective: Objective
    algorithm: Literal["random", "grid"] = "random"
    trials: int = Field(4, ge=1, description="how many; a grid tries every combination of its choices instead")
    concurrent: int | None = Field(None, ge=1, description="trials at once; default: as many as fit")
    seed: int = Field(0, ge=0)
    register_as: str | None = Field(None, description="registered model that the best trial becomes a version of")

    @model_validator(mode="after")
    def _grid_has_choices(self) -> SearchSettings:
        if self.algorithm == "grid":
            loose = [name for name, dimension in self.space.items() if dimension.choice is None]
            if loose:
                raise ValueError(f"a grid needs choices, and search.space.{loose[0]} is a range; use algorithm: random")
        return self


class SearchFile(Section):
    """A search: a base preset, settings on top of it, and what to explore."""

    name: str = Field(..., pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    base: str = Field(..., description="preset or YAML file of every trial")
    overrides: dict[str, Any] = Field(default_factory=dict, description="sections on top of the base")
    search: SearchSettings


def search_key(search: SearchFile, base: dict[str, Any]) -> str:
    """sha256 that tells one search from another: its file and the resolved base."""
    return hashlib.sha256(canonical_json([search.model_dump(mode="json"), base])).hexdigest()


def trial_settings(settings: SearchSettings) -> list[dict[str, Any]]:
    """The settings of every trial, dotted names to values, in order."""
    if settings.algorithm == "grid":
        combinations: list[dict[str, Any]] = [{}]
        for name, dimension in settings.space.items():
            choices = dimension.choice or ()
            combinations = [{**before, name: value} for before in combinations for value in choices]
        return combinations
    return [random_trial(settings, number) for number in range(settings.trials)]


def random_trial(settings: SearchSettings, number: int) -> dict[str, Any]:
    """Trial `number` of a random search; each setting has its own stream, so adding one does not move the others."""
    values = {}
    for name, dimension in settings.space.items():
        name_key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])
        values[name] = dimension.draw(np.random.Generator(np.random.Philox(key=[settings.seed, name_key ^ number])))
    return values


def put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b` in a nested mapping."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"search.space.{dotted}: {parent!r} is a value, not a section")
        tree = child
    tree[leaf] = value
