"""What is due after a step, the same on every rank.

What is due by steps every rank knows by itself. What is due by the clock, and that someone has to stop, only one rank
knows: all exchange it, on the CPU and without waiting: a message sent at one step is read at the next. So a device is
never waited for, and several ranks stop one step after the notice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from trainplane.train.config import Cadence, TrainConfig
from trainplane.train.world import World


@dataclass(frozen=True)
class Due:
    """What to do after a step."""

    record: bool = False
    validate: bool = False
    checkpoint: bool = False
    halt: bool = False


class Mailbox:
    """Flags that any rank may raise and all ranks then see, one exchange late where there are several."""

    def __init__(self, world: World) -> None:
        self._alone = world.size == 1
        # A group of its own, on the CPU: the ranks' main group may be the device's.
        self._group = None if self._alone else dist.new_group(backend="gloo")
        self._sent: torch.Tensor | None = None
        self._work: Any = None

    def exchange(self, raised: tuple[bool, ...]) -> tuple[bool, ...]:
        """Raise these; returns those that any rank raised at the exchange before (alone: at this one)."""
        if self._alone:
            return raised
        self.settle()
        seen = (False,) * len(raised) if self._sent is None else tuple(bool(flag) for flag in self._sent.tolist())
        self._sent = torch.tensor(raised, dtype=torch.int64)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return seen

    def settle(self) -> None:
        """Wait for what is under way; the next exchange returns it."""
        if self._work is not None:
            self._work.wait()
            self._work = None


class Agenda:
    """Decides what is due. `interrupted` asks whether this rank was told to stop."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        world: World,
        steps_per_epoch: int,
        mailbox: Mailbox,
        interrupted: Callable[[], bool],
        last: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._last = last or config.steps
        self._world = world
        self._steps_per_epoch = steps_per_epoch
        self._mailbox = mailbox
        self._interrupted = interrupted
        self._clock = clock
        self._cadences = [Cadence.of(x) for x in (config.log_every, config.validate_every, config.checkpoint_every)]
        self._next = [clock() + cadence.amount for cadence in self._cadences]

    def after(self, done: int) -> Due:
        """What is due after `done` steps; called once a step by every rank."""
        by_clock = self._mailbox.exchange((*self._elapsed(), self._interrupted()))
        last = done == self._last
        record, validate, checkpoint = (
            last or by_clock[i] or self._by_steps(cadence, done) for i, cadence in enumerate(self._cadences)
        )
        # Means over an epoch are recorded at its end.
        return Due(record or done % self._steps_per_epoch == 0, validate, checkpoint, halt=by_clock[-1])

    def _by_steps(self, cadence: Cadence, done: int) -> bool:
        steps = cadence.steps(self._steps_per_epoch)
        return steps is not None and done % steps == 0

    def _elapsed(self) -> list[bool]:
        """Which cadences in seconds are due by the clock of the first rank."""
        now, found = self._clock(), []
        for i, cadence in enumerate(self._cadences):
            due = self._world.is_first and cadence.unit == "seconds" and now >= self._next[i]
            if due:
                self._next[i] = now + cadence.amount
            found.append(due)
        return found
