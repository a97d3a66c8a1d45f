"""Which settings trial number n has: pure functions of the search's seed, its space and n.

Each setting has a random stream of its own, so that adding one does not move the others. Draws that break a constraint
are drawn anew, from further streams. Not covered: settings that follow from results (`suggest`, `pbt`).
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
MAX_DRAWS = 4096


@dataclass(frozen=True)
class Space:
    """The settings that a search explores. `given`: the base's settings, flat; conditions may name those, too."""

    dimensions: Mapping[str, Dimension]
    base: Mapping[str, Any]
    when: Mapping[str, Condition]
    constraints: tuple[Condition, ...]
    seed: int

    @staticmethod
    def of(settings: SearchSettings, given: Mapping[str, Any]) -> Space:
        """Raises `UserError` where a condition cannot be read, or no settings meet them all."""
        names = sorted({*given, *settings.space})
        constraints = tuple(Condition.parse(text, names=names) for text in settings.constraints)
        when: dict[str, Condition] = {}
        for index, (name, dimension) in enumerate(settings.space.items()):
            if dimension.when is None:
                continue
            when[name] = Condition.parse(dimension.when, names=names)
            below = [other for other in list(settings.space)[index:] if other in when[name].names]
            if below:
                raise UserError(
                    f"search.space.{name}.when names {below[0]}, which is explored below it; write that one first"
                )
        space = Space(settings.space, given, when, constraints, settings.seed)
        space._check_not_empty()
        return space

    def holds(self, drawn: Mapping[str, Any]) -> bool:
        """Whether every constraint holds of these settings on top of the base's."""
        values = {**self.base, **drawn}
        return all(constraint.holds(values) for constraint in self.constraints)

    def is_active(self, name: str, above: Mapping[str, Any]) -> bool:
        """Whether `name` is explored, given the settings above it."""
        return name not in self.when or self.when[name].holds({**self.base, **above})

    def prune(self, drawn: Mapping[str, Any]) -> Settings:
        """Without the settings whose condition does not hold."""
        kept: Settings = {}
        for name in self.dimensions:
            if name in drawn and self.is_active(name, kept):
                kept[name] = drawn[name]
        return kept

    def random(self, number: int) -> Settings:
        """Trial `number` of a random search."""
        for attempt in range(MAX_DRAWS):
            drawn = self._draw(number, attempt)
            if self.holds(drawn):
                return drawn
        raise UserError(self._refusal(MAX_DRAWS))

    def _draw(self, number: int, attempt: int) -> Settings:
        drawn: Settings = {}
        for name, dimension in self.dimensions.items():
            stream = name_hash(name) ^ number ^ (attempt << 40)
            value = draw(dimension, generator_for(self.seed, stream))
            if self.is_active(name, drawn):
                drawn[name] = value
        return drawn

    def grid(self) -> list[Settings]:
        """Every combination of choices once that meets the conditions."""
        found, seen = [], set()
        for combination in self._combinations():
            drawn = self.prune(combination)
            key = canonical_json(list(drawn.items()))
            if key not in seen and self.holds(drawn):
                seen.add(key)
                found.append(drawn)
        return found

    def _combinations(self) -> Iterator[Settings]:
        choices = [dimension.choice or () for dimension in self.dimensions.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.dimensions, values, strict=True))

    def _check_not_empty(self) -> None:
        if not self.constraints:
            return
        sizes = [len(dimension.choice or ()) for dimension in self.dimensions.values()]
        if 0 < math.prod(sizes) <= MAX_DRAWS:
            if not self.grid():
                raise UserError(self._refusal(math.prod(sizes), exactly=True))
            return
        if not any(self.holds(self._draw(0, attempt)) for attempt in range(MAX_DRAWS)):
            raise UserError(self._refusal(MAX_DRAWS))

    def _refusal(self, tries: int, *, exactly: bool = False) -> str:
        texts = " and ".join(repr(constraint.text) for constraint in self.constraints)
        what = f"all {tries} combinations break" if exactly else f"each of {tries} draws breaks"
        return (
            f"search.constraints: {what} {texts}: they contradict each other or leave next to nothing of the space; "
            "relax them, or widen search.space"
        )


def generator_for(seed: int, number: int) -> np.random.Generator:
    """Random numbers that follow from two numbers of 64 bits."""
    # Not a plain list: numpy makes floats of integers this large, and neighbours would be one.
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], dtype=np.uint64)))


def name_hash(name: str) -> int:
    """A number of 64 bits for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def draw(dimension: Dimension, rng: np.random.Generator) -> Any:
    """One value."""
    if dimension.choice is not None:
        return dimension.choice[int(rng.integers(len(dimension.choice)))]
    if dimension.integers is not None:
        return int(rng.integers(dimension.integers[0], dimension.integers[1], endpoint=True))
    if dimension.log_uniform is not None:
        low, high = dimension.log_uniform
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    assert dimension.uniform is not None
    return float(rng.uniform(*dimension.uniform))


def search_key(search: SearchFile, base: Mapping[str, Any], digests: Sequence[str | None] = ()) -> str:
    """sha256 that tells one search from another: its file without its limits, the resolved base, its data's digests."""
    file = search.model_dump(mode="json", exclude={"search": set(LIMIT_FIELDS)})
    return hashlib.sha256(canonical_json([file, base, list(digests)])).hexdigest()


def set_dotted(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `a.b` in a nested mapping."""
    *parents, leaf = dotted.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"search.space.{dotted}: {parent!r} is a value, not a section")
        tree = child
    tree[leaf] = value
