"""The guard at work in one rank: shows the watch's observations to the pure rules and carries out what they say.

What was done is told: a line on the terminal, a tag, a metric and a text in the run. Going back is raised as
`RollBack`, for `loop.run` to start over from the last good checkpoint, exactly as after a kill.
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
from trainplane.train.guard.gradient_check import Watch
from trainplane.train.guard.policy import GuardConfig, GuardState, Observation, Verdict
from trainplane.train.schedule import Rates
from trainplane.train.world import World


class RollBack(Exception):
    """Start over from the newest good checkpoint that is not beyond step `to`, under the amendments of `state`."""

    def __init__(self, to: int, state: GuardState) -> None:
        super().__init__(f"back to step {to}")
        self.to = to
        self.state = state


@dataclass
class Sentry:
    """Guards one task.

    rates -- of its optimisers: by schedule, and lower where the guard said so
    tell -- (done, sentence, faults so far): heard by the user; keep -- stores the batch of a faulty step
    last_good -- the step of the newest checkpoint, as the first rank knows it
    """

    config: GuardConfig
    task: Task
    world: World
    rates: Rates
    tell: Callable[[int, str, int], None]
    keep: Callable[[Observation], str]
    last_good: Callable[[], int]
    state: GuardState

    def __post_init__(self) -> None:
        self._watch = Watch(self.task, world=self.world)
        self._bounds = policy.balance_of(self.config, self.task.balance())
        self._watch.limit(policy.limits(self.config, self.state))

    def before(self, index: int) -> bool:
        """Called before step `index`; False: its batch is passed over."""
        self.rates.set(index, slowed=self.state.slowed, slower=self.config.rate_factor)
        self._watch.begin()
        return index not in self.state.passed_over

    def after(self, index: int, shares: Mapping[str, Tensor]) -> None:
        """Called after step `index` with this rank's shares of its metrics."""
        self._watch.end(index, shares)

    def judge(self, done: int, values: Mapping[str, float]) -> None:
        """Judge all steps since the last call, and the recorded metrics; all ranks call it together."""
        self._observe()
        if any(observation.faulty for observation in self.state.pending):
            self._refuse_broken_state(done)
        self.state, verdict = policy.judge(self.config, self.state, done=done, values=values, bounds=self._bounds)
        self._watch.limit(policy.limits(self.config, self.state))
        self._carry_out(verdict, done)

    def approve_state(self, done: int) -> None:
        """Called by all ranks before a checkpoint: a state that is not finite is never stored."""
        self._observe()
        self._refuse_broken_state(done)

    def _refuse_broken_state(self, done: int) -> None:
        broken = (~states.is_finite(self.task)).double()
        self.world.sum_([broken])
        if broken.item() > 0:
            step = self.world.agree(self.last_good() if self.world.is_first else 0, self.task.device)
            self.state, verdict = policy.judge_state(self.config, self.state, done=done, last_good=step)
            self._carry_out(verdict, done)

    def to_json(self) -> dict[str, Any]:
        return self.state.to_json()

    def _observe(self) -> None:
        self.state = replace(self.state, pending=[*self.state.pending, *self._watch.observe()])

    def _carry_out(self, verdict: Verdict, done: int) -> None:
        if not verdict.sentence:
            return
        room = max(0, self.config.saved_batches - len(self.state.faults) + len(verdict.faulty))
        kept = [self.keep(fault) for fault in verdict.faulty[:room]]
        sentence = "; ".join([verdict.sentence, *filter(None, kept)])
        self.tell(done, sentence, self.state.num_faults)
        if verdict.action == "stop":
            raise Diverged(f"stopped at step {done}: {sentence}")
        if verdict.action == "roll_back":
            raise RollBack(verdict.back_to, self.state)
