"""Runs the guard on one rank.

Feeds observations to the policy and executes its verdict: emit a message, lower rates, roll back or stop. A roll-back
is raised as `RollBack`; `loop.run` then starts over from the last good checkpoint, exactly as after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from trainplane.task import Task
from trainplane.train.checkpoint import state as states
from trainplane.train.errors import Diverged
from trainplane.train.guard import policy
from trainplane.train.guard.gradient_check import GradientCheck
from trainplane.train.guard.policy import GuardConfig, GuardState, GuardVerdict, Observation
from trainplane.train.schedule import LrSchedule
from trainplane.train.world import World


class RollBack(Exception):
    """Request to start over from an earlier checkpoint.

    Attributes:
        to: The newest good checkpoint that is not beyond this step is the one to resume from.
        state: Guard state whose amendments the replay must follow.
    """

    def __init__(self, to: int, state: GuardState) -> None:
        super().__init__(f"back to step {to}")
        self.to = to
        self.state = state


@dataclass
class GuardMonitor:
    """Guards the training of one task."""

    config: GuardConfig
    task: Task
    world: World
    rates: LrSchedule
    emit: Callable[[int, str, int], None]  # Shows a message to the user; takes (steps done, message, faults so far)
    dump: Callable[[Observation], str]  # Stores the batch of a faulty step and returns a message
    last_good: Callable[[], int]  # Returns the step of the newest checkpoint; called on rank 0
    state: GuardState
    clip_norm: float | None = None  # Longest gradient of each player; None: no limit

    def __post_init__(self) -> None:
        self._check = GradientCheck(self.task, world=self.world, clip_norm=self.clip_norm)
        self._bounds = policy.merge_bounds(self.config, self.task.balance())
        self._check.set_limits(policy.norm_limits(self.config, self.state))

    def before(self, index: int) -> bool:
        """Prepares step `index`; False where its batch is skipped."""
        self.rates.set(index, slowed=self.state.slowed, slower=self.config.rate_factor)
        self._check.start()
        return index not in self.state.passed_over

    def after(self, index: int, shares: Mapping[str, Tensor]) -> None:
        """Takes this rank's shares of the metrics of step `index`."""
        self._check.finish(index, shares)

    def evaluate(self, done: int, values: Mapping[str, float]) -> None:
        """Applies the policy to all steps since the last call.

        All ranks call it together, with the metrics recorded after `done` steps.
        """
        self._observe()
        # A fault may come from weights that are broken already: then only a roll-back helps.
        if any(observation.is_faulty for observation in self.state.pending):
            self._refuse_broken_state(done)
        self.state, verdict = policy.evaluate(self.config, self.state, done=done, values=values, bounds=self._bounds)
        self._check.set_limits(policy.norm_limits(self.config, self.state))
        self._execute(verdict, done)

    def check_state(self, done: int) -> None:
        """Refuses a state that is not finite, before a checkpoint."""
        self._observe()
        self._refuse_broken_state(done)

    def _refuse_broken_state(self, done: int) -> None:
        broken = (~states.is_finite(self.task)).double()
        self.world.sum_([broken])
        if broken.item() > 0:
            step = self.world.agree(self.last_good() if self.world.is_first else 0, self.task.device)
            self.state, verdict = policy.evaluate_broken_state(self.config, self.state, done=done, last_good=step)
            self._execute(verdict, done)

    def to_json(self) -> dict[str, Any]:
        """State of the policy, for a checkpoint."""
        return self.state.to_json()

    def _observe(self) -> None:
        self.state = replace(self.state, pending=[*self.state.pending, *self._check.observe()])

    def _execute(self, verdict: GuardVerdict, done: int) -> None:
        if not verdict.message:
            return
        # Dump the first faulty batches of the run, up to `guard.saved_batches`; these faults are counted already.
        num_dumps = max(0, self.config.saved_batches - len(self.state.faults) + len(verdict.faulty))
        dumps = [self.dump(fault) for fault in verdict.faulty[:num_dumps]]
        message = "; ".join([verdict.message, *filter(None, dumps)])
        self.emit(done, message, self.state.num_faults)
        if verdict.action == "stop":
            raise Diverged(f"stopped at step {done}: {message}")
        if verdict.action == "roll_back":
            raise RollBack(verdict.rollback_to, self.state)
