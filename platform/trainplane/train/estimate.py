"""PURE: what a run will take, from its settings and a few measured numbers: steps, bytes, time, money.

Not covered: whether it may start at all (whoever asks), what a step needs in memory (the task's own arithmetic).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.train.checkpoint.retention import Rules, keep
from trainplane.train.config import Cadence, TrainConfig

# Of so many checkpoints at most, those that stay are found by walking through them.
_WALKED = 1_000_000


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

    checkpoints_kept -- on the store at the end, those of the best included, pinned ones not; of more than a million
                        checkpoints it may be too many by as many as stay for being the newest
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
    due = _due(config, done=given.done, samples=given.samples, seconds=seconds)
    saved = None if due is None else _count(due, is_done=not steps)
    return Estimate(
        steps=steps,
        epochs=epochs,
        pictures=pictures,
        bytes_read=round(read) + (given.val_bytes if steps else 0),
        checkpoints=saved,
        checkpoint_bytes=given.state_bytes,
        bytes_written=None if saved is None else saved * given.state_bytes,
        checkpoints_kept=None if due is None or saved is None else _kept(config, due, saved),
        pictures_per_s=given.pictures_per_s,
        seconds=seconds,
        cost=cost(config, ranks=given.ranks, seconds=seconds),
    )


def checkpoint_steps(config: TrainConfig, *, done: int, samples: int, seconds: float | None) -> list[int] | None:
    """The steps after which a checkpoint is due; None where the clock decides and the duration is not known."""
    due = _due(config, done=done, samples=samples, seconds=seconds)
    return None if due is None else [*due, *([config.steps] if done < config.steps else [])]


def _due(config: TrainConfig, *, done: int, samples: int, seconds: float | None) -> range | None:
    """As `checkpoint_steps`, without the last step; a range, since a slip of the finger makes it longer than memory."""
    if done >= config.steps:
        return range(0)
    cadence = Cadence.of(config.checkpoint_every)
    every = cadence.steps(max(1, samples // config.global_batch))
    if every is None:
        if seconds is None:
            return None
        every = max(1, round(cadence.amount * (config.steps - done) / seconds))
        return range(done + every, config.steps, every)
    return range(done - done % every + every, config.steps, every)


def _count(due: range, *, is_done: bool) -> int:
    # Not len(), which ends at 2^63.
    return 0 if is_done else max(0, -((due.start - due.stop) // due.step)) + 1


def _kept(config: TrainConfig, due: range, saved: int) -> int:
    rules = Rules.of(config)
    if saved <= _WALKED:
        steps = [*due, *([config.steps] if saved else [])]
        stay = len(keep(steps, metrics={}, pins=(), rules=rules))
    else:
        stay = rules.last + (min(saved, config.steps // rules.every) if rules.every else 0)
    return min(saved, stay + rules.best)


def cost(config: TrainConfig, *, ranks: int, seconds: float | None) -> float | None:
    """The price of so many ranks for so long; None where price or duration are not known."""
    if config.price_per_hour is None or seconds is None:
        return None
    return config.price_per_hour * ranks * seconds / 3600
