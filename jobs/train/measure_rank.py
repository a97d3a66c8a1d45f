"""Times one rank's steps and validation, for `plan --measure`.

    python -m jobs.train.measure_rank < work.json      # one rank of several; rank 0 prints what it measured

The rank does what the training loop does at every step: it waits for its share of a batch, trains, sums. Nothing is
recorded and nothing is stored.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from jobs.config import ISNetConfig
from jobs.data.samples import synthetic_batch
from jobs.isnet_task import ISNetTask
from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.data.training_data import MixedAddress, reopen_training_data
from trainplane.data.types import Batch
from trainplane.tracking.tracker import Recorder
from trainplane.train import setup
from trainplane.train.batch_size import BatchSplit, split_batch
from trainplane.train.config import Cadence
from trainplane.train.validation import ValidationSet
from trainplane.train.world import World, sum_over_ranks

# Steps before the clock starts: they allocate memory and choose kernels.
WARM_STEPS = 2
# The timed steps take about so long, and are at least and at most so many.
TIMED_S = 6.0
MIN_STEPS, MAX_STEPS = 3, 200
# Held-out samples timed on each rank; a validation of more is taken for proportional.
VALIDATED = 8
GROUP_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class MeasuredSteps:
    """Times of one group of ranks."""

    steps: int  # timed steps
    step_s: float
    validation_s: float  # of the whole held-out part that a run measures; 0 without one
    with_data: bool  # False: on synthetic pictures, because the dataset is not there yet


def measure_steps(
    config: ISNetConfig,
    world: World,
    *,
    train_data: str | None,
    val_data: str | None,
    mix: Sequence[MixedAddress] = (),
) -> MeasuredSteps:
    """Times steps and a validation; called on all ranks.

    Args:
        config: Configuration of the run.
        world: This rank.
        train_data: Address of the training dataset; None: synthetic pictures.
        val_data: Address of the held-out dataset; None: no validation.
        mix: Further training datasets.
    """
    # VGG's weights cost the same time at any value, and would be downloaded.
    loss = config.loss.model_copy(update={"perceptual_weights": "random"})
    # Planning leaves nothing behind, in a host's cache either.
    config = config.model_copy(update={"loss": loss, "data": config.data.model_copy(update={"cache_dir": None})})
    train = config.train
    if train.threads:
        torch.set_num_threads(train.threads)
    task = ISNetTask(config, setup.device_of(config))
    split = split_batch(global_batch=train.global_batch, ranks=world.size, micro_batch=train.fixed_micro)
    record_every = Cadence.of(train.log_every).steps(1) or MIN_STEPS
    with ExitStack() as stack:
        batches = _batches(config, world, split, train_data, mix, stack)

        def run(steps: int) -> float:
            world.barrier()
            started = time.monotonic()
            for step in range(1, steps + 1):
                batch = next(batches)
                micro = [
                    {name: value[at : at + split.micro_batch].to(task.device) for name, value in batch.items()}
                    for at in range(0, split.share, split.micro_batch)
                ]
                shares = task.step(micro, global_batch=split.global_batch, reduce=world)
                # As at a record: the loop sums the metrics and waits for the device.
                if step % record_every == 0 or step == steps:
                    sum_over_ranks(shares, world)
            return (time.monotonic() - started) / steps

        run(1)
        # All ranks must run equally many steps.
        guess_s = run(WARM_STEPS - 1)
        steps = min(max(math.ceil(TIMED_S / guess_s), MIN_STEPS), MAX_STEPS)
        steps = world.agree(steps, task.device)
        step_s = run(steps)
        validation_s = _validation_s(config, world, task, val_data) if val_data is not None else 0.0
    return MeasuredSteps(steps, step_s, validation_s, train_data is not None)


def _batches(
    config: ISNetConfig,
    world: World,
    split: BatchSplit,
    address: str | None,
    mix: Sequence[MixedAddress],
    stack: ExitStack,
) -> Iterator[Batch]:
    """Batches of the dataset, or always the same synthetic one."""
    if address is not None:
        data = reopen_training_data((address, None, mix), global_batch=config.train.global_batch)
        loader = stack.enter_context(setup.loader_of(data, config, ISNetTask, world))
        return (batch for _, batch in loader.batches(start=0, stop=WARM_STEPS + MAX_STEPS))
    batch = synthetic_batch(split.share, config.data.size, ISNetTask.transform_of(config).extra)
    return iter(lambda: batch, None)


def _validation_s(config: ISNetConfig, world: World, task: ISNetTask, address: str) -> float:
    """Seconds of one validation, from some of its samples."""
    whole = min(config.data.val_samples, Dataset.open(address).num_samples)
    timed = min(whole, VALIDATED * world.size)
    data = config.data.model_copy(update={"val_samples": timed})
    held_out = ValidationSet(address, config.model_copy(update={"data": data}), world)
    world.barrier()
    started = time.monotonic()
    held_out.measure(task, Recorder(), done=0)
    return (time.monotonic() - started) * whole / timed


def main() -> None:
    """Measures as a rank of the group in standard input."""
    work: dict[str, Any] = json.load(sys.stdin)
    config = build(ISNetConfig, work["config"])
    if work["ranks"] > 1:
        backend = "nccl" if setup.device_of(config).type == "cuda" else "gloo"
        address, rank = work["rendezvous"], work["rank"]
        dist.init_process_group(
            backend, init_method=address, rank=rank, world_size=work["ranks"], timeout=GROUP_TIMEOUT
        )
    data = {"train_data": work["train_data"], "val_data": work["val_data"], "mix": work["mix"]}
    measured = measure_steps(config, World.current(), **data)
    print(json.dumps(asdict(measured)))
    if work["ranks"] > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
