"""Explored settings of a search, and random draws from them.

Pure: no I/O. The settings of trial n follow from the search's seed, its space and n. Each setting has a random stream
of its own, so a new one does not move the others. A draw that breaks a constraint is repeated with further streams.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.search.config import LIMIT_FIELDS, Dimension, SearchFile, SearchSettings
from trainplane.search.constraints import Condition

Settings = dict[str, Any]
# Draws until the constraints count as contradictory.
MAX_DRAWS = 4096


@dataclass(frozen=True)
class Space:
    """Explored settings with their conditions."""

    dimensions: Mapping[str, Dimension]
    base: Mapping[str, Any]  # Flat settings of the base; conditions may name these, too
    when: Mapping[str, Condition]  # Condition under which a setting is explored
    constraints: tuple[Condition, ...]  # Conditions that every trial meets
    seed: int

    @staticmethod
    def of(settings: SearchSettings, base: Mapping[str, Any]) -> Space:
        """Builds the space of a search.

        Raises `UserError` if a condition cannot be read, or no settings meet all of them.
        """
        names = sorted({*base, *settings.space})
        constraints = tuple(Condition.parse(text, names=names) for text in settings.constraints)
        when: dict[str, Condition] = {}
        for index, (name, dimension) in enumerate(settings.space.items()):
            if dimension.when is None:
                continue
            when[name] = Condition.parse(dimension.when, names=names)
            # Settings are drawn in the order of the file, so a condition can only name earlier ones.
            later = [setting for setting in list(settings.space)[index:] if setting in when[name].names]
            if later:
                raise UserError(
                    f"search.space.{name}.when names {later[0]}, which is explored below it; write that one first"
                )
        space = Space(settings.space, base, when, constraints, settings.seed)
        space._check_not_empty()
        return space

    def holds(self, drawn: Mapping[str, Any]) -> bool:
        """Tests all constraints on drawn settings and the base."""
        values = {**self.base, **drawn}
        return all(constraint.holds(values) for constraint in self.constraints)

    def is_active(self, name: str, above: Mapping[str, Any]) -> bool:
        """Tests the condition of a setting on earlier ones."""
        return name not in self.when or self.when[name].holds({**self.base, **above})

    def prune(self, drawn: Mapping[str, Any]) -> Settings:
        """Removes settings whose condition does not hold."""
        # A condition may depend on a setting that is itself inactive.
        active: Settings = {}
        for name in self.dimensions:
            if name in drawn and self.is_active(name, active):
                active[name] = drawn[name]
        return active

    def random(self, number: int) -> Settings:
        """Random settings of trial `number`."""
        # Rejection sampling: the first draw that meets the constraints.
        for attempt in range(MAX_DRAWS):
            drawn = self._draw(number, attempt)
            if self.holds(drawn):
                return drawn
        raise UserError(self._refusal(MAX_DRAWS))

    def _draw(self, number: int, attempt: int) -> Settings:
        drawn: Settings = {}
        for name, dimension in self.dimensions.items():
            # One stream for each (setting, trial, attempt). Inactive settings are drawn, too, and left out.
            stream = name_hash(name) ^ number ^ (attempt << 40)
            value = draw(dimension, generator_for(self.seed, stream))
            if self.is_active(name, drawn):
                drawn[name] = value
        return drawn

    def grid(self) -> list[Settings]:
        """All distinct combinations of choices that meet the constraints."""
        grid, keys = [], set()
        for combination in self._combinations():
            drawn = self.prune(combination)
            # Combinations that differ in inactive settings only are one.
            key = canonical_json(list(drawn.items()))
            if key not in keys and self.holds(drawn):
                keys.add(key)
                grid.append(drawn)
        return grid

    def _combinations(self) -> Iterator[Settings]:
        choices = [dimension.choice or () for dimension in self.dimensions.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.dimensions, values, strict=True))

    def _check_not_empty(self) -> None:
        """Refuses constraints that no settings meet."""
        if not self.constraints:
            return
        # A small space of choices is searched completely, others by many draws.
        sizes = [len(dimension.choice or ()) for dimension in self.dimensions.values()]
        if 0 < math.prod(sizes) <= MAX_DRAWS:
            if not self.grid():
                raise UserError(self._refusal(math.prod(sizes), exactly=True))
            return
        if not any(self.holds(self._draw(0, attempt)) for attempt in range(MAX_DRAWS)):
            raise UserError(self._refusal(MAX_DRAWS))

    def _refusal(self, tries: int, *, exactly: bool = False) -> str:
        texts = " and ".join(repr(constraint.text) for constraint in self.constraints)
        failures = f"all {tries} combinations break" if exactly else f"each of {tries} draws breaks"
        return (
            f"search.constraints: {failures} {texts}: they contradict each other or leave almost nothing of the space; "
            "relax them, or widen search.space"
        )


def generator_for(seed: int, number: int) -> np.random.Generator:
    """Random generator that follows from two 64-bit numbers."""
    # An array of uint64: numpy turns a plain list of integers this large into floats, and neighbours become equal.
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))


def name_hash(name: str) -> int:
    """64-bit number of a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def draw(dimension: Dimension, rng: np.random.Generator) -> Any:
    """Draws one value."""
    if dimension.choice is not None:
        return dimension.choice[int(rng.integers(len(dimension.choice)))]
    if dimension.integers is not None:
        return int(rng.integers(dimension.integers[0], dimension.integers[1], endpoint=True))
    if dimension.log_uniform is not None:
        low, high = dimension.log_uniform
        # Uniform in the logarithm.
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    assert dimension.uniform is not None
    return float(rng.uniform(*dimension.uniform))


def search_key(search: SearchFile, base: Mapping[str, Any], digests: Sequence[str | None] = ()) -> str:
    """Identity of a search, a sha256 in hex.

    Of the file without its limits, the resolved base of every trial, and the digests of the data: limits may change.
    """
    file = search.model_dump(mode="json", exclude={"search": set(LIMIT_FIELDS)})
    # Searches were begun while a fixed order was the default: without the setting they are the same search today.
    if "order" not in search.search.model_fields_set:
        file["search"]["order"] = "fixed"
    return hashlib.sha256(canonical_json([file, base, list(digests)])).hexdigest()


def set_dotted(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Sets `a.b` in a nested mapping."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"search.space.{dotted}: {parent!r} is a value, not a section")
        tree = child
    tree[leaf] = value
