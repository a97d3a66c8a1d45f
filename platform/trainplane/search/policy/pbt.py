"""Population-based training: which members exploit which, with which settings.

Pure: no I/O. A generation ends when every member has trained as far. Then the worst members copy weights and settings
of the best, slightly varied. All are compared at the same step, so a slow machine puts no member behind. Random numbers
depend on (seed, generation, trial) alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainplane.search.config import Dimension, PbtSettings
from trainplane.search.policy.asha import Rung, ranking
from trainplane.search.space import Settings, Space, draw, generator_for

# Prefixes of settings that may change under trained weights; others shape the network or the order of its data.
MUTABLE_PREFIXES = ("loss.", "train.lr_", "train.betas")
# Variations of a donor's settings that are tried against the constraints.
MAX_VARIATIONS = 100


@dataclass(frozen=True)
class Exploit:
    """Copy of a donor's weights to a member, settings varied."""

    trial: int
    donor: int
    settings: Settings


def generation_steps(settings: PbtSettings, steps: int) -> int:
    """Steps of a generation."""
    return settings.every or max(1, steps // 10)


def plan_exploits(
    scores: Rung, members: Mapping[int, Settings], *, settings: PbtSettings, space: Space, generation: int
) -> list[Exploit]:
    """Exploits at the end of a generation."""
    # Members without a finite score always exploit, in addition to the quantile.
    order = ranking(scores)
    if not order:
        return []
    count = max(1, math.floor(settings.quantile * len(members)))
    # The best ones are donors. Where there are few members, a donor is never a taker as well.
    best = order[: min(count, len(order))]
    worst = order[max(len(order) - count, len(best)) :]
    unscored = [trial for trial in sorted(members) if scores.get(trial) is None]
    exploits = []
    for trial in sorted({*unscored, *worst}):
        rng = generator_for(space.seed, generation << 32 | trial)
        donor = best[int(rng.integers(len(best)))]
        exploits.append(Exploit(trial, donor, explore(members[donor], space, settings, rng)))
    return exploits


def explore(donor: Settings, space: Space, settings: PbtSettings, rng: np.random.Generator) -> Settings:
    """Varies the settings of a donor within the constraints."""
    # Returns the donor's own settings where none of many variations meets the constraints.
    for _ in range(MAX_VARIATIONS):
        varied = {name: _varied(value, space.dimensions[name], settings, rng) for name, value in donor.items()}
        if space.holds(varied):
            return varied
    return dict(donor)


def _varied(value: Any, dimension: Dimension, settings: PbtSettings, rng: np.random.Generator) -> Any:
    if rng.random() < settings.resample:
        return draw(dimension, rng)
    if dimension.choice is not None:
        # A neighbouring choice; at an end the value may stay.
        index = dimension.choice.index(value) + (1 if rng.random() < 0.5 else -1)
        return dimension.choice[min(max(index, 0), len(dimension.choice) - 1)]
    low, high = dimension.edges
    varied = min(max(value * settings.factors[int(rng.integers(2))], low), high)
    return round(varied) if dimension.integers is not None else varied
