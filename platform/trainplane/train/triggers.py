"""Events due after a step, the same on every rank.

Each rank knows what is due by steps; only one knows what is due by its clock, or that it has to stop. All exchange
these flags on the CPU without waiting: a flag sent at one step is read at the next, so a stop comes one step late.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainplane.store_wait import STORE_WAITS
from trainplane.train.config import Cadence, TrainConfig
from trainplane.train.pulse import PULSE, WAITING
from trainplane.train.world import World


@dataclass(frozen=True)
class Due:
    """Events due after a step."""

    record: bool = False
    validate: bool = False
    checkpoint: bool = False
    halt: bool = False
    out_of_time: bool = False
    waited: bool = False  # a rank has waited for a store


class FlagExchange:
    """Flags raised on any rank, shared with all ranks."""

    def __init__(self, world: World, *, timeout_s: float = 1800.0) -> None:
        self._alone = world.size == 1
        # A separate group on the CPU, because the ranks' main group may be the device's.
        self._group = None if self._alone else dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._sent: torch.Tensor | None = None
        self._work: Any = None

    def exchange(self, raised: tuple[bool, ...]) -> tuple[bool, ...]:
        """Sends this rank's flags, returns those of all ranks.

        The result is that of the exchange before; with one rank, of this one.
        """
        if self._alone:
            return raised
        # Receive the sums of the last exchange, which has had a whole step to finish.
        self.wait()
        flags = (False,) * len(raised) if self._sent is None else tuple(bool(flag) for flag in self._sent.tolist())
        # Start the next one.
        self._sent = torch.tensor(raised, dtype=torch.int64)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return flags

    def wait(self) -> None:
        """Waits for the exchange in progress; `exchange` returns it."""
        if self._work is not None:
            with PULSE.at(WAITING):
                self._work.wait()
            self._work = None


class Triggers:
    """Decides which events are due after each step."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        world: World,
        steps_per_epoch: int,
        flags: FlagExchange,
        interrupted: Callable[[], bool],
        last: int | None = None,
        is_out_of_time: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._last = last or config.steps
        self._world = world
        self._steps_per_epoch = steps_per_epoch
        self._flags = flags
        self._interrupted = interrupted
        self._is_out_of_time = is_out_of_time
        self._clock = clock
        self._cadences = [Cadence.of(x) for x in (config.log_every, config.validate_every, config.checkpoint_every)]
        self._next = [clock() + cadence.amount for cadence in self._cadences]

    def after(self, done: int) -> Due:
        """Events due after `done` steps; called once on every rank."""
        out_of_time = self._world.is_first and self._is_out_of_time()
        flags = (*self._elapsed(), self._interrupted(), out_of_time, STORE_WAITS.num_ended > 0)
        *by_clock, halt, out_of_time, waited = self._flags.exchange(flags)
        last = done == self._last
        record, validate, checkpoint = (
            last or by_clock[i] or self._by_steps(cadence, done) for i, cadence in enumerate(self._cadences)
        )
        # The means over an epoch are recorded at its end.
        return Due(record or done % self._steps_per_epoch == 0, validate, checkpoint, halt, out_of_time, waited)

    def _by_steps(self, cadence: Cadence, done: int) -> bool:
        steps = cadence.steps(self._steps_per_epoch)
        return steps is not None and done % steps == 0

    def _elapsed(self) -> list[bool]:
        """Cadences in seconds that are due by rank 0's clock."""
        now, elapsed = self._clock(), []
        for i, cadence in enumerate(self._cadences):
            due = self._world.is_first and cadence.unit == "seconds" and now >= self._next[i]
            if due:
                self._next[i] = now + cadence.amount
            elapsed.append(due)
        return elapsed
