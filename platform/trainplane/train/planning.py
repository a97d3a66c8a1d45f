"""PURE: what a run will take, from its settings and a few measured numbers: steps, bytes, time, money.

Not covered: whether it may start at all (whoever asks), what a step needs in memory (the task's own arithmetic).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.train.cadence import Cadence
from trainplane.train.retention import Rules, keep
from trainplane.train.settings import TrainConfig


@dataclass(frozen=True)
class Given:
    """What is known before the start.

    done            -- steps that the run has behind it
    ranks           -- it will have
    samples, data_bytes, val_bytes -- of the training set, its shards, and the held-out pictures that are measured
    is_cached       -- hosts keep what they read: later epochs come from there
    state_bytes     -- of one checkpoint
    pictures_per_s  -- measured, of all ranks together; None: not known
    """

    done: int
    ranks: int
    samples: int
    data_bytes: int
    val_bytes: int
    is_cached: bool
    state_bytes: int
    pictures_per_s: float | None


@dataclass(frozen=True)
class Estimate:
    """What is left of the run takes. Bytes, seconds, and `cost` in the currency of the price; None: not known.

    checkpoints_kept -- on the store at the end, those of the best included, pinned ones not
    """

    steps: int
    epochs: float
    pictures: int
    bytes_read: int
    checkpoints: int | None
    checkpoint_bytes: int
    bytes_written: int | None
    checkpoints_kept: int | None
    pictures_per_s: float | None
    seconds: float | None
    cost: float | None


def estimate(config: TrainConfig, given: Given) -> Estimate:
    """The arithmetic of a run."""
    steps = max(0, config.steps - given.done)
    pictures = steps * config.global_batch
    epochs = pictures / given.samples
    read = given.data_bytes * (min(epochs, 1.0) if given.is_cached else epochs)
    seconds = pictures / given.pictures_per_s if given.pictures_per_s else None
    saved = checkpoint_steps(config, done=given.done, samples=given.samples, seconds=seconds)
    return Estimate(
        steps=steps,
        epochs=epochs,
        pictures=pictures,
        bytes_read=round(read) + (given.val_bytes if steps else 0),
        checkpoints=None if saved is None else len(saved),
        checkpoint_bytes=given.state_bytes,
        bytes_written=None if saved is None else len(saved) * given.state_bytes,
        checkpoints_kept=None if saved is None else _kept(config, saved),
        pictures_per_s=given.pictures_per_s,
        seconds=seconds,
        cost=cost(config, ranks=given.ranks, seconds=seconds),
    )


def checkpoint_steps(config: TrainConfig, *, done: int, samples: int, seconds: float | None) -> list[int] | None:
    """The steps after which a checkpoint is due; None where the clock decides and the duration is not known."""
    if done >= config.steps:
        return []
    cadence = Cadence.of(config.checkpoint_every)
    every = cadence.steps(max(1, samples // config.global_batch))
    if every is None:
        if seconds is None:
            return None
        every = max(1, round(cadence.amount * (config.steps - done) / seconds))
        return sorted({*range(done + every, config.steps, every), config.steps})
    return sorted({*range(done - done % every + every, config.steps, every), config.steps})


def _kept(config: TrainConfig, saved: list[int]) -> int:
    rules = Rules.of(config)
    without_metrics = keep(saved, metrics={}, pins=(), rules=rules)
    return min(len(saved), len(without_metrics) + rules.best)


def cost(config: TrainConfig, *, ranks: int, seconds: float | None) -> float | None:
    """The price of so many ranks for so long; None where price or duration are not known."""
    if config.price_per_hour is None or seconds is None:
        return None
    return config.price_per_hour * ranks * seconds / 3600
