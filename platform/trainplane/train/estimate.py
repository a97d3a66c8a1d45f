"""Estimate of a run: steps, bytes, time and money."""

from __future__ import annotations

from dataclasses import dataclass

from trainplane.train.checkpoint.retention import RetentionRules, steps_to_keep
from trainplane.train.config import Cadence, TrainConfig

# Up to this number of checkpoints, those that stay are counted one by one.
_COUNTED = 1_000_000


@dataclass(frozen=True)
class EstimateInputs:
    """Numbers that an estimate starts from."""

    done: int  # Steps that the run has done already
    ranks: int  # Ranks that the run will have
    samples: int  # Samples of the training dataset
    data_bytes: int  # Bytes of its shards
    val_bytes: int  # Bytes of the held-out samples that are measured
    hosts: int  # Hosts that the ranks are spread over, each with a cache of its own
    cache_bytes: int  # Room of each of those caches; 0 without one
    state_bytes: int  # Bytes of one checkpoint
    pictures_per_s: float | None  # Measured samples per second of all ranks together; None if not measured


@dataclass(frozen=True)
class Estimate:
    """Estimate of the remaining steps of a run.

    None stands for unknown. Sizes are bytes, times seconds, `cost` has the currency of the price, `pictures` are
    samples. `checkpoints_kept` counts those at the end without pinned ones; with more than a million it is an upper
    bound.
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


def estimate(config: TrainConfig, inputs: EstimateInputs) -> Estimate:
    """Computes the estimate of the remaining steps."""
    # Work: steps, samples, epochs.
    steps = max(0, config.steps - inputs.done)
    samples = steps * config.global_batch
    # An epoch has whole batches alone, as in `data.order`: what does not fill the last one is left out of it.
    epochs = steps / max(1, inputs.samples // config.global_batch)
    # Reading and time.
    passes = samples / inputs.samples
    room = min(1.0, inputs.cache_bytes / max(1, inputs.data_bytes))
    bytes_read = inputs.data_bytes * passes_read(passes, hosts=inputs.hosts, room=room)
    seconds = samples / inputs.pictures_per_s if inputs.pictures_per_s else None
    # Checkpoints, unless their number depends on an unknown time.
    due = _due(config, done=inputs.done, samples=inputs.samples, seconds=seconds)
    count = None if due is None else _count(due, is_done=not steps)
    return Estimate(
        steps=steps,
        epochs=epochs,
        pictures=samples,
        bytes_read=round(bytes_read) + (inputs.val_bytes if steps else 0),
        checkpoints=count,
        checkpoint_bytes=inputs.state_bytes,
        bytes_written=None if count is None else count * inputs.state_bytes,
        checkpoints_kept=None if due is None or count is None else _count_kept(config, due, count),
        pictures_per_s=inputs.pictures_per_s,
        seconds=seconds,
        cost=cost(config, ranks=inputs.ranks, seconds=seconds),
    )


def passes_read(passes: float, *, hosts: int, room: float) -> float:
    """Passes over the dataset that caches leave to the store.

    Each epoch gives a host other samples, at random: it reads 1 / `hosts` of the dataset, and what it has read before
    it finds again.

    Args:
        passes: Passes over the dataset in all.
        hosts: Hosts with a cache each, empty at the start.
        room: Share of the dataset that fits into a cache.
    """
    share = read = 0.0  # share of an epoch that caches serve, passes so far
    while passes > 0:
        epoch = min(1.0, passes)
        read += epoch * (1 - share)
        passes -= epoch
        # What is in the cache stays, as it is all of one dataset.
        next_share = min(room, share + (1 - share) / hosts)
        if next_share <= share:
            return read + passes * (1 - share)
        share = next_share
    return read


def checkpoint_steps(config: TrainConfig, *, done: int, samples: int, seconds: float | None) -> list[int] | None:
    """Steps after which a checkpoint is due."""
    # None where the cadence is in seconds and the duration is unknown.
    due = _due(config, done=done, samples=samples, seconds=seconds)
    return None if due is None else [*due, *([config.steps] if done < config.steps else [])]


def _due(config: TrainConfig, *, done: int, samples: int, seconds: float | None) -> range | None:
    # Returns the steps of `checkpoint_steps` without the last one. A range, because a typing error in the steps could
    # make a list larger than memory.
    if done >= config.steps:
        return range(0)
    cadence = Cadence.of(config.checkpoint_every)
    every = cadence.steps(max(1, samples // config.global_batch))
    if every is None:
        if seconds is None:
            return None
        # By the clock: so many steps take `amount` seconds, counted from the first step of this attempt.
        every = max(1, round(cadence.amount * (config.steps - done) / seconds))
        return range(done + every, config.steps, every)
    # By steps: at multiples, the first one after `done`.
    return range(done - done % every + every, config.steps, every)


def _count(due: range, *, is_done: bool) -> int:
    # Not len(), which fails from 2^63 on. The last step's checkpoint is added.
    return 0 if is_done else max(0, -((due.start - due.stop) // due.step)) + 1


def _count_kept(config: TrainConfig, due: range, count: int) -> int:
    rules = RetentionRules.of(config)
    if count <= _COUNTED:
        steps = [*due, *([config.steps] if count else [])]
        num_kept = len(steps_to_keep(steps, metrics={}, pins=(), rules=rules))
    else:
        num_kept = rules.last + (min(count, config.steps // rules.every) if rules.every else 0)
    return min(count, num_kept + rules.best)


def cost(config: TrainConfig, *, ranks: int, seconds: float | None) -> float | None:
    """Price of `ranks` workers for `seconds`; None if unknown."""
    if config.price_per_hour is None or seconds is None:
        return None
    return config.price_per_hour * ranks * seconds / 3600
