"""PURE: what to do about NaN, exploding gradients, and a player that wins or loses outright.

    state, verdict = judge(config, state, done=120, values=recorded_metrics, bounds=task.balance())

On the device, every step, `watch` measures each player's gradient norm; where one is not finite or beyond its limit no
optimiser moves, so that NaN never reaches the weights. What follows is decided here, at the steps that are recorded,
from plain numbers. All ranks hold the same numbers and decide alike; the state travels in checkpoints, so a resumed
run decides as an uninterrupted one.

What a verdict changes is written down as *amendments*: batches passed over, and steps from which rates are lower. A
run is a function of its configuration, its data and its amendments; going back to any earlier checkpoint and replaying
with them leads to the same place. Not covered: measuring (watch.py), going back (loop.py), keeping the batch
(evidence.py).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from trainplane.config.section import Section

Action = Literal["tell", "skip", "lower_rate", "roll_back", "stop"]
Bound = tuple[float | None, float | None]

EVERYONE = "*"


class GuardConfig(Section):
    """What is done about steps that would harm the run. In a faulty step no optimiser moves, whatever is set here."""

    non_finite: Literal["skip", "lower_rate", "roll_back", "stop"] = Field(
        "skip", description="a gradient or loss is NaN or infinite; skip: the step changes nothing, which is enough"
    )
    exploding: Literal["skip", "lower_rate", "roll_back", "stop"] = Field(
        "skip", description="a player's gradient norm is beyond norm_factor times its running median"
    )
    norm_factor: Annotated[float, Field(gt=1)] | None = Field(
        100.0, description="none: no limit; 100 lets young GANs through, whose norms rise tenfold in a few steps"
    )
    norm_window: int = Field(100, ge=4, description="steps the median is over; nothing explodes before half of them")
    unbalanced: Literal["tell", "lower_rate", "roll_back", "stop"] = Field(
        "tell", description="a balance metric stays out of its bounds; tell: a young player may well recover"
    )
    patience: int = Field(20, ge=1, description="recorded steps in a row out of bounds before that is done")
    balance: dict[str, Bound] = Field({}, description="metric: [low, high], instead of the task's own bounds")
    rate_factor: float = Field(0.5, gt=0, lt=1, description="what a learning rate is multiplied by when lowered")
    budget: int = Field(10, ge=0, description="faults among the last budget_steps steps before the run stops anyway")
    budget_steps: int = Field(1000, ge=1, description="rare faults never stop a long run, frequent ones do")
    saved_batches: int = Field(3, ge=0, description="faulty batches kept beside the checkpoints, for looking at")


@dataclass(frozen=True)
class Balance:
    """Bounds of a metric that tells how the players stand. None: no bound on that side.

    below, above -- what it means to be out of bounds there; `slows_*` -- the optimiser to slow then
    """

    low: float | None
    high: float | None
    below: str = "too low"
    above: str = "too high"
    slows_below: str = EVERYONE
    slows_above: str = EVERYONE


@dataclass(frozen=True)
class Observation:
    """What was seen of one step: gradient norm by player (None: not finite), and whether it was blocked."""

    index: int
    norms: dict[str, float | None]
    blocked: bool
    loss_finite: bool = True

    @property
    def faulty(self) -> bool:
        return self.blocked or not self.loss_finite

    @property
    def finite(self) -> bool:
        return self.loss_finite and None not in self.norms.values()


@dataclass(frozen=True)
class GuardState:
    """What the guard remembers; plain values that travel in checkpoints.

    norms -- the last sound gradient norms by player; faults -- indices of recent faulty steps
    turns -- steps done when the run recently went back, or was slowed, without a batch to blame
    passed_over -- batches that are not trained on; slowed -- (index, optimiser): slower from that step on
    out_since -- steps done when the balance was last in bounds; out_for -- records in a row out of them
    pending -- steps seen and not judged yet
    """

    norms: dict[str, list[float]] = field(default_factory=dict)
    faults: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    passed_over: list[int] = field(default_factory=list)
    slowed: list[tuple[int, str]] = field(default_factory=list)
    out_since: int = 0
    out_for: int = 0
    pending: list[Observation] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> GuardState:
        pending = [Observation(**observation) for observation in values["pending"]]
        slowed = [(int(index), str(name)) for index, name in values["slowed"]]
        return GuardState(**{**values, "pending": pending, "slowed": slowed})

    def with_amendments_of(self, other: GuardState, *, step: int) -> GuardState:
        """This state, from the checkpoint after `step` steps, for a replay under what was decided since.

        Rates that should be lower from an earlier step on, whose checkpoint is gone, are lower from here on.
        """
        new = list(other.slowed)
        for entry in self.slowed:
            new.remove(entry)
        slowed = sorted([*self.slowed, *((max(since, step), player) for since, player in new)])
        return replace(self, faults=other.faults, turns=other.turns, passed_over=other.passed_over, slowed=slowed)

    @property
    def num_faults(self) -> int:
        """What counts against the budget."""
        return len(self.faults) + len(self.turns)


@dataclass(frozen=True)
class Verdict:
    """What to do now. `sentence` is empty where there is nothing to tell; `back_to`: not beyond this step."""

    action: Action = "tell"
    sentence: str = ""
    back_to: int = 0
    faulty: tuple[Observation, ...] = ()


def limits(config: GuardConfig, state: GuardState) -> dict[str, float]:
    """The largest gradient norm that each player may have in the steps to come."""
    found = {}
    for player, norms in state.norms.items():
        armed = config.norm_factor is not None and len(norms) >= config.norm_window // 2
        found[player] = config.norm_factor * statistics.median(norms) if armed and config.norm_factor else math.inf
        # Players that have not learnt anything yet have no scale to compare with.
        found[player] = found[player] or math.inf
    return found


def judge(
    config: GuardConfig,
    state: GuardState,
    *,
    done: int,
    values: Mapping[str, float],
    bounds: Mapping[str, Balance],
) -> tuple[GuardState, Verdict]:
    """Judge the pending steps and the metrics recorded after `done` steps."""
    # A replay may begin after a batch that is passed over; what was seen of it then is settled.
    faulty = tuple(o for o in state.pending if o.faulty and o.index not in state.passed_over)
    state = _remembering(config, state, done)
    if faulty:
        return _judge_steps(config, state, faulty, done)
    return _judge_balance(config, state, done, values, bounds)


def judge_state(config: GuardConfig, state: GuardState, *, done: int, last_good: int) -> tuple[GuardState, Verdict]:
    """What to do when the training state itself is not finite after `done` steps; `last_good` is the newest checkpoint.

    Such a state is never stored. The way there was a faulty batch (the first one: those after it met a broken state),
    or a rate that is too high.
    """
    seen = {o.index for o in state.pending if o.faulty} | {index for index in state.faults if index >= last_good}
    culprits = sorted(seen - set(state.passed_over))[:1]
    faulty = tuple(o for o in state.pending if o.index in culprits)
    told = f"the training state is not finite after step {done}"
    state = _counting(config, state, done, faults=culprits, turns=[] if culprits else [done])
    amended = _amended(state, passed_over=culprits, slowed=[] if culprits else [(last_good, EVERYONE)])
    if config.non_finite == "stop" or state.num_faults > config.budget:
        return state, Verdict("stop", f"{told}; {_REMEDY}", faulty=faulty)
    how = f"passing over the batch of step {_steps(culprits)}" if culprits else f"at {config.rate_factor:g} × the rates"
    told = f"{told}: went back to step {last_good}, {how}"
    return amended, Verdict("roll_back", told, back_to=last_good, faulty=faulty)


def balance_of(config: GuardConfig, task: Mapping[str, Balance]) -> dict[str, Balance]:
    """The task's bounds with the user's in their place."""
    changed = {
        name: replace(task.get(name, Balance(None, None)), low=low, high=high)
        for name, (low, high) in config.balance.items()
    }
    return {**task, **changed}


def _remembering(config: GuardConfig, state: GuardState, done: int) -> GuardState:
    """The pending steps moved into the windows of norms and the list of faults."""
    norms = {player: list(window) for player, window in state.norms.items()}
    for observation in state.pending:
        if not observation.faulty:
            for player, norm in observation.norms.items():
                norms.setdefault(player, []).append(norm or 0.0)
    faults = [observation.index for observation in state.pending if observation.faulty]
    state = replace(
        state, norms={player: window[-config.norm_window :] for player, window in norms.items()}, pending=[]
    )
    return _counting(config, state, done, faults=faults)


def _counting(
    config: GuardConfig, state: GuardState, done: int, *, faults: Sequence[int] = (), turns: Sequence[int] = ()
) -> GuardState:
    """The state with these, without those that are long ago. A step met again on a replay counts once."""
    since = done - config.budget_steps
    return replace(
        state,
        faults=sorted(index for index in {*state.faults, *faults} if index >= since),
        turns=sorted(step for step in [*state.turns, *turns] if step >= since),
    )


def _judge_steps(
    config: GuardConfig, state: GuardState, faulty: tuple[Observation, ...], done: int
) -> tuple[GuardState, Verdict]:
    indices = [observation.index for observation in faulty]
    finite = all(observation.finite for observation in faulty)
    told = f"{'exploding' if finite else 'non-finite'} gradients in step {_steps(indices)} ({_norms(faulty[0])})"
    if not all(observation.loss_finite for observation in faulty) and not any(o.blocked for o in faulty):
        told = f"a loss that is not finite in step {_steps(indices)}"
    action: Action = config.exploding if finite else config.non_finite
    if state.num_faults > config.budget:
        told = f"{told}, which makes {state.num_faults} in {config.budget_steps} steps (guard.budget={config.budget})"
        return state, Verdict("stop", f"{told}; {_REMEDY}", faulty=faulty)
    if action == "stop":
        return state, Verdict("stop", f"{told}; {_REMEDY}", faulty=faulty)
    if action == "roll_back":
        state = _amended(state, passed_over=indices)
        told = f"{told}: went back to the last good checkpoint, passing over {'these' if indices[1:] else 'this'} batch"
        return state, Verdict(action, told, back_to=indices[0], faulty=faulty)
    if action == "lower_rate":
        state = _amended(state, slowed=[(done, EVERYONE)])
        return state, Verdict(action, f"{told}: skipped, rates × {config.rate_factor:g} from here", faulty=faulty)
    return state, Verdict("skip", f"{told}: skipped, the weights did not move", faulty=faulty)


def _judge_balance(
    config: GuardConfig, state: GuardState, done: int, values: Mapping[str, float], bounds: Mapping[str, Balance]
) -> tuple[GuardState, Verdict]:
    out = [(name, values[name], side) for name, bound in bounds.items() if (side := _side(bound, values.get(name)))]
    if not out:
        return replace(state, out_since=done, out_for=0), Verdict()
    state = replace(state, out_for=state.out_for + 1)
    if state.out_for != config.patience:
        return state, Verdict()
    name, value, side = out[0]
    bound = bounds[name]
    meaning, slows = (bound.below, bound.slows_below) if side < 0 else (bound.above, bound.slows_above)
    limit = bound.low if side < 0 else bound.high
    told = f"{meaning}: {name}={value:.4g} is {'below' if side < 0 else 'above'} {limit:g} since step {state.out_since}"
    if config.unbalanced == "tell":
        return state, Verdict("tell", told)
    state = _counting(config, state, done, turns=[done])
    whose = "all rates" if slows == EVERYONE else f"the rate of {slows}"
    if config.unbalanced == "stop" or state.num_faults > config.budget:
        return state, Verdict(
            "stop", f"{told}; lower {whose} or the weight of its losses, or set guard.unbalanced=tell"
        )
    slower = f"{whose} × {config.rate_factor:g}"
    if config.unbalanced == "lower_rate":
        state = replace(_amended(state, slowed=[(done, slows)]), out_since=done, out_for=0)
        return state, Verdict("lower_rate", f"{told}: {slower} from here")
    state = _amended(state, slowed=[(state.out_since, slows)])
    return state, Verdict(
        "roll_back", f"{told}: went back, {slower} from step {state.out_since}", back_to=state.out_since
    )


def _side(bound: Balance, value: float | None) -> int:
    """-1 below, 1 above, 0 within the bounds or unknown."""
    if value is None or not math.isfinite(value):
        return 0
    if bound.low is not None and value < bound.low:
        return -1
    return 1 if bound.high is not None and value > bound.high else 0


def _amended(
    state: GuardState, *, passed_over: Sequence[int] = (), slowed: Sequence[tuple[int, str]] = ()
) -> GuardState:
    return replace(
        state,
        passed_over=sorted({*state.passed_over, *passed_over}),
        slowed=sorted([*state.slowed, *slowed]),
    )


def _steps(indices: Sequence[int]) -> str:
    """Steps as people count them, from 1."""
    shown = ", ".join(str(index + 1) for index in indices[:5])
    return f"{shown} and {len(indices) - 5} more" if len(indices) > 5 else shown


def _norms(observation: Observation) -> str:
    parts = (f"{name} {'not finite' if norm is None else f'{norm:.3g}'}" for name, norm in observation.norms.items())
    return "norms: " + ", ".join(parts)


_REMEDY = "lower train.lr_g and train.lr_d, or look at the batch beside the checkpoints"
