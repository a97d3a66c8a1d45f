"""PURE: population-based training: who takes over from whom, and with which settings.

A generation ends when every member has trained as far; then the worst ones take over weights and settings of the best,
the settings varied a little. Judged at the same step, nobody is behind for being slow, and nothing depends on who was
faster. Random numbers depend on (seed, generation, trial) alone. Not covered: copying the weights (`clone`).
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

# Beginnings of settings that may change under trained weights; others shape the network or the order of its data.
MUTABLE_PREFIXES = ("loss.", "train.lr_", "train.betas")


@dataclass(frozen=True)
class Exploit:
    """Member `trial` goes on from `donor`'s weights, with these settings."""

    trial: int
    donor: int
    settings: Settings


def generation_steps(settings: PbtSettings, steps: int) -> int:
    """Steps of a generation."""
    return settings.every or max(1, steps // 10)


def plan_exploits(
    scores: Rung, members: Mapping[int, Settings], *, settings: PbtSettings, space: Space, generation: int
) -> list[Exploit]:
    """Who takes over after this generation. Members without a finite score take over whatever the quantile is."""
    order = ranking(scores)
    if not order:
        return []
    count = max(1, math.floor(settings.quantile * len(members)))
    best = order[: min(count, len(order))]
    lost = [trial for trial in sorted(members) if scores.get(trial) is None]
    last = order[max(len(order) - count, len(best)) :]
    found = []
    for trial in sorted({*lost, *last}):
        rng = generator_for(space.seed, generation << 32 | trial)
        donor = best[int(rng.integers(len(best)))]
        found.append(Exploit(trial, donor, explore(members[donor], space, settings, rng)))
    return found


def explore(donor: Settings, space: Space, settings: PbtSettings, rng: np.random.Generator) -> Settings:
    """The donor's settings, varied; the donor's own where no variation of many meets the constraints."""
    for _ in range(100):
        varied = {name: _varied(value, space.dimensions[name], settings, rng) for name, value in donor.items()}
        if space.holds(varied):
            return varied
    return dict(donor)


def _varied(value: Any, dimension: Dimension, settings: PbtSettings, rng: np.random.Generator) -> Any:
    if rng.random() < settings.resample:
        return draw(dimension, rng)
    if dimension.choice is not None:
        # The choice next to it; at an end it may stay.
        at = dimension.choice.index(value) + (1 if rng.random() < 0.5 else -1)
        return dimension.choice[min(max(at, 0), len(dimension.choice) - 1)]
    low, high = dimension.edges
    varied = min(max(value * settings.factors[int(rng.integers(2))], low), high)
    return round(varied) if dimension.integers is not None else varied
