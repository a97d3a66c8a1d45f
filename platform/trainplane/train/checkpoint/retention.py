"""Selects the checkpoints of a run that stay.

Pure: no I/O. Four kinds stay: the newest, the best by a held-out metric, the first at or after each multiple of `every`
steps, and pinned ones. Applied after every checkpoint, the rules keep the same set as applied once at the end: one that
is among the best, or at a multiple, is never deleted earlier.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from trainplane.errors import UserError, nearest
from trainplane.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class RetentionRules:
    """Rules for keeping checkpoints, beside pins."""

    last: int  # Number of newest ones, at least 1
    best: int = 0  # Number of best ones by `metric`
    metric: str | None = None  # Name of a validation metric
    mode: Literal["max", "min"] = "max"  # `max` where larger values are better, `min` where smaller ones are
    every: int | None = None  # Steps; the first one at or after each multiple is never deleted. None: off.
    final: int | None = None  # The run's last step. Until it is stored, at least two stay, in case one is damaged.

    @staticmethod
    def of(config: TrainConfig) -> RetentionRules:
        """Rules of a configuration."""
        return RetentionRules(
            last=config.keep_checkpoints,
            best=config.keep_best,
            metric=config.best_metric,
            mode=config.best_mode,
            every=config.keep_every,
            final=config.steps,
        )


def steps_to_keep(
    steps: Collection[int],
    *,
    metrics: Mapping[int, float],
    pins: Collection[int],
    rules: RetentionRules,
    damaged: Collection[int] = (),
) -> set[int]:
    """Returns the steps whose checkpoints stay.

    Args:
        steps: Steps of all checkpoints.
        metrics: Value of `rules.metric` by step; values that are not finite do not count.
        pins: Steps of pinned checkpoints.
        rules: Rules for the others.
        damaged: Steps of unreadable checkpoints. No rule counts them, and only a pin keeps them.
    """
    good = sorted(set(steps) - set(damaged))
    result = set(pins) & set(steps)
    if not good:
        return result
    # Newest, best, and those at multiples.
    last = max(rules.last, 1 if good[-1] == rules.final else 2)
    result |= set(good[-last:])
    result |= set(_best(good, metrics, rules))
    if rules.every is not None:
        result |= first_of_each(good, rules.every)
    return result


def check_metric(rules: RetentionRules, measured: Collection[str]) -> None:
    """Raises `UserError` where `rules.metric` is not measured."""
    if rules.metric is None or rules.metric in measured:
        return
    if not measured:
        raise UserError(f"train.best_metric={rules.metric} needs held-out samples to compare by; set data.val=…")
    raise UserError(
        f"train.best_metric={rules.metric!r} is not measured by validation{nearest(str(rules.metric), list(measured))}"
    )


def _best(steps: list[int], metrics: Mapping[int, float], rules: RetentionRules) -> list[int]:
    """Best steps; of equal ones the later comes first."""
    sign = 1 if rules.mode == "max" else -1
    valued = [(sign * metrics[step], step) for step in steps if math.isfinite(metrics.get(step, math.nan))]
    return [step for _, step in sorted(valued, reverse=True)[: rules.best]]


def first_of_each(steps: Collection[int], every: int) -> set[int]:
    """First step at or after each positive multiple of `every`."""
    # Only steps before the next multiple count.
    first: dict[int, int] = {}
    for step in sorted(steps):
        if step >= every:
            first.setdefault(step // every, step)
    return set(first.values())
