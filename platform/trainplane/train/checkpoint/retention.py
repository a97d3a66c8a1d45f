"""PURE: which checkpoints of a run stay.

    keep([100, 200, 300], metrics={100: 21.5, 200: 22.0}, pins=(), rules=Rules(last=1, best=1))  ->  {200, 300}

The newest ones stay, the best ones by a held-out metric, the first one at or after each multiple of so many steps, and
whatever is pinned. Asked after every checkpoint, the answer is that of being asked once at the end: what is best, or
due to stay for ever, is never taken away by an earlier answer. Not covered: where pins are (`pins`), carrying it out
(`writer`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from trainplane.errors import UserError, nearest
from trainplane.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What to keep beside pinned checkpoints.

    last  -- newest ones, at least 1
    best  -- best ones by `metric`, where larger (`max`) or smaller (`min`) is better
    every -- steps: the first one at or after each multiple stays for ever; None: no such
    final -- the run's last step: until it is there, two stay at least, so that a damaged one has another behind it
    """

    last: int
    best: int = 0
    metric: str | None = None
    mode: Literal["max", "min"] = "max"
    every: int | None = None
    final: int | None = None

    @staticmethod
    def of(config: TrainConfig) -> Rules:
        return Rules(
            last=config.keep_checkpoints,
            best=config.keep_best,
            metric=config.best_metric,
            mode=config.best_mode,
            every=config.keep_every,
            final=config.steps,
        )


def keep(
    steps: Collection[int],
    *,
    metrics: Mapping[int, float],
    pins: Collection[int],
    rules: Rules,
    damaged: Collection[int] = (),
) -> set[int]:
    """The steps, of those present, whose checkpoints stay.

    metrics -- the value of `rules.metric` by step, for the steps that have one; a value that is not finite is none
    damaged -- steps whose checkpoints could not be read: none of the rules counts them, and only a pin keeps them
    """
    good = sorted(set(steps) - set(damaged))
    kept = set(pins) & set(steps)
    if not good:
        return kept
    last = max(rules.last, 1 if good[-1] == rules.final else 2)
    kept |= set(good[-last:])
    kept |= set(_best(good, metrics, rules))
    if rules.every is not None:
        kept |= first_of_each(good, rules.every)
    return kept


def check_metric(rules: Rules, measured: Collection[str]) -> None:
    """`UserError` where the best are to be kept by something that validation does not measure."""
    if not rules.best or rules.metric in measured:
        return
    if not measured:
        raise UserError(f"train.keep_best={rules.best} needs held-out pictures to judge by; set data.val=…")
    raise UserError(
        f"train.best_metric={rules.metric!r} is not measured by validation{nearest(str(rules.metric), list(measured))}"
    )


def _best(steps: list[int], metrics: Mapping[int, float], rules: Rules) -> list[int]:
    """The best steps, the later one first where values are equal."""
    sign = 1 if rules.mode == "max" else -1
    valued = [(sign * metrics[step], step) for step in steps if math.isfinite(metrics.get(step, math.nan))]
    return [step for _, step in sorted(valued, reverse=True)[: rules.best]]


def first_of_each(steps: Collection[int], every: int) -> set[int]:
    """The first step at or after each positive multiple of `every`, before the next multiple."""
    first: dict[int, int] = {}
    for step in sorted(steps):
        if step >= every:
            first.setdefault(step // every, step)
    return set(first.values())
