"""Policy for NaN, exploding gradients and unbalanced players.

Pure: no I/O. `gradient_check` keeps NaN out of the weights at every step; the consequences are decided here, at the
steps that are recorded, from plain numbers that all ranks have. The state is part of checkpoints, so a resumed run
decides as an uninterrupted one.

The verdict's changes are stored as *amendments*: batches to skip, and steps from which rates are lower. A run is a
function of configuration, data and amendments, so a replay from any earlier checkpoint leads to the same state.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from trainplane.config.section import Section, about

Action = Literal["tell", "skip", "lower_rate", "roll_back", "stop"]
Bound = tuple[float | None, float | None]

ALL_PLAYERS = "*"


class GuardConfig(Section):
    """Reactions to faulty steps, in which no optimiser ever moves."""

    non_finite: Literal["skip", "lower_rate", "roll_back", "stop"] = Field(
        "skip", description="a gradient or loss is NaN or infinite; skip: the step changes nothing"
    )
    exploding: Literal["skip", "lower_rate", "roll_back", "stop"] = Field(
        "skip", description="a player's gradient norm is above norm_factor times its running median"
    )
    norm_factor: Annotated[float, Field(gt=1)] | None = Field(
        100.0, description="null: no limit; 100 is enough for young GANs, whose norms rise tenfold in a few steps"
    )
    norm_window: int = Field(
        100,
        ge=4,
        description="steps of the median; no limit before half of them are done",
        json_schema_extra=about(unit="steps"),
    )
    unbalanced: Literal["tell", "lower_rate", "roll_back", "stop"] = Field(
        "tell", description="a balance metric stays out of its bounds; tell: a message only, a young player may recover"
    )
    patience: int = Field(
        20,
        ge=1,
        description="recorded steps in a row out of bounds before that",
        json_schema_extra=about(unit="recorded steps"),
    )
    balance: dict[str, Bound] = Field({}, description="metric: [low, high], instead of the task's own bounds")
    rate_factor: float = Field(0.5, gt=0, lt=1, description="factor of each lowering of a learning rate")
    budget: int = Field(
        10,
        ge=0,
        description="faults in the last budget_steps steps before the run stops anyway",
        json_schema_extra=about(unit="faults"),
    )
    budget_steps: int = Field(
        1000,
        ge=1,
        description="window of the budget: rare faults never stop a long run, frequent ones do",
        json_schema_extra=about(unit="steps"),
    )
    saved_batches: int = Field(
        3,
        ge=0,
        description="faulty batches stored beside the checkpoints, to look at",
        json_schema_extra=about(unit="batches"),
    )


@dataclass(frozen=True)
class Balance:
    """Bounds of a metric of the players' balance."""

    low: float | None  # Lower bound; None: no bound
    high: float | None  # Upper bound; None: no bound
    below: str = "too low"  # Meaning of a value below `low`, for the message
    above: str = "too high"  # Meaning of a value above `high`
    slows_below: str = ALL_PLAYERS  # Optimiser to slow when the value is below `low`
    slows_above: str = ALL_PLAYERS  # Optimiser to slow when the value is above `high`


@dataclass(frozen=True)
class Observation:
    """Measurements of one step."""

    index: int  # The step, counted from 0
    norms: dict[str, float | None]  # Gradient norm by player; None: not finite
    blocked: bool  # True if no optimiser moved
    loss_finite: bool = True  # True if all metrics of the step are finite, on all ranks

    @property
    def is_faulty(self) -> bool:
        """True if blocked, or if a loss is not finite."""
        return self.blocked or not self.loss_finite

    @property
    def is_finite(self) -> bool:
        """True if loss and norms are finite."""
        return self.loss_finite and None not in self.norms.values()


@dataclass(frozen=True)
class GuardState:
    """Memory of the guard, as plain values that checkpoints store."""

    norms: dict[str, list[float]] = field(default_factory=dict)  # Last gradient norms of good steps, by player
    faults: list[int] = field(default_factory=list)  # Indices of recent faulty steps
    turns: list[int] = field(default_factory=list)  # Steps done at recent roll-backs and lowerings that no batch caused
    passed_over: list[int] = field(default_factory=list)  # Indices of batches to skip
    # (index, optimiser) for each lowering; the rate is lower from that step on
    slowed: list[tuple[int, str]] = field(default_factory=list)
    out_since: int = 0  # Steps done when the balance was last within its bounds
    out_for: int = 0  # Recorded steps in a row out of the bounds
    pending: list[Observation] = field(default_factory=list)  # Observations that are not evaluated yet

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> GuardState:
        """Reads the values of a checkpoint."""
        pending = [Observation(**observation) for observation in values["pending"]]
        slowed = [(int(index), str(name)) for index, name in values["slowed"]]
        return GuardState(**{**values, "pending": pending, "slowed": slowed})

    def with_amendments_of(self, other: GuardState, *, step: int) -> GuardState:
        """Adds amendments of `other`, for a replay from `step`.

        A rate that should be lower from an earlier step on, whose checkpoint was deleted, is lower from `step` on.
        """
        # Lowerings that this checkpoint does not have.
        new = list(other.slowed)
        for entry in self.slowed:
            new.remove(entry)
        slowed = sorted([*self.slowed, *((max(since, step), player) for since, player in new)])
        return replace(self, faults=other.faults, turns=other.turns, passed_over=other.passed_over, slowed=slowed)

    @property
    def num_faults(self) -> int:
        """Faults that count against the budget."""
        return len(self.faults) + len(self.turns)


@dataclass(frozen=True)
class GuardVerdict:
    """Decision of the policy; `message` is empty if nothing happened."""

    action: Action = "tell"
    message: str = ""
    rollback_to: int = 0
    faulty: tuple[Observation, ...] = ()


def norm_limits(config: GuardConfig, state: GuardState) -> dict[str, float]:
    """Largest gradient norm of each player for the next steps."""
    limits = {}
    for player, norms in state.norms.items():
        # No limit until half of the window is filled.
        is_armed = config.norm_factor is not None and len(norms) >= config.norm_window // 2
        limit = config.norm_factor * statistics.median(norms) if is_armed and config.norm_factor else math.inf
        # A median of 0 (a player that does not learn yet) gives no scale.
        limits[player] = limit or math.inf
    return limits


def evaluate(
    config: GuardConfig,
    state: GuardState,
    *,
    done: int,
    values: Mapping[str, float],
    bounds: Mapping[str, Balance],
) -> tuple[GuardState, GuardVerdict]:
    """Decides about pending steps and metrics recorded after `done` steps."""
    # A replay may start after a batch that is skipped by now: its earlier fault is dealt with.
    faulty = tuple(o for o in state.pending if o.is_faulty and o.index not in state.passed_over)
    state = _with_pending(config, state, done)
    if faulty:
        return _evaluate_steps(config, state, faulty, done)
    return _evaluate_balance(config, state, done, values, bounds)


def evaluate_broken_state(
    config: GuardConfig, state: GuardState, *, done: int, last_good: int
) -> tuple[GuardState, GuardVerdict]:
    """Decides about a training state that is not finite."""
    # Such a state is never stored. Its cause is the first faulty batch since the newest checkpoint, at step `last_good`
    # (later batches met a broken state), or a rate that is too high.
    # The first faulty step since the checkpoint is to blame, if there is one.
    suspects = {o.index for o in state.pending if o.is_faulty} | {index for index in state.faults if index >= last_good}
    culprits = sorted(suspects - set(state.passed_over))[:1]
    faulty = tuple(o for o in state.pending if o.index in culprits)
    message = f"the training state is not finite after step {done}"
    state = _count_faults(config, state, done, faults=culprits, turns=[] if culprits else [done])
    # Skip that batch in the replay; without one, lower all rates.
    amended = _amended(state, passed_over=culprits, slowed=[] if culprits else [(last_good, ALL_PLAYERS)])
    if config.non_finite == "stop" or state.num_faults > config.budget:
        return state, GuardVerdict("stop", f"{message}; {_REMEDY}", faulty=faulty)
    how = f"skipping the batch of step {_steps(culprits)}" if culprits else f"at {config.rate_factor:g} × the rates"
    message = f"{message}: went back to step {last_good}, {how}"
    return amended, GuardVerdict("roll_back", message, rollback_to=last_good, faulty=faulty)


def merge_bounds(config: GuardConfig, task: Mapping[str, Balance]) -> dict[str, Balance]:
    """Merges the user's bounds over those of the task."""
    changed = {
        name: replace(task.get(name, Balance(None, None)), low=low, high=high)
        for name, (low, high) in config.balance.items()
    }
    return {**task, **changed}


def _with_pending(config: GuardConfig, state: GuardState, done: int) -> GuardState:
    """Moves pending observations into the norms and faults."""
    # Norms of good steps only: those of faulty ones would raise the limit.
    norms = {player: list(window) for player, window in state.norms.items()}
    for observation in state.pending:
        if not observation.is_faulty:
            for player, norm in observation.norms.items():
                # A player that sat out the step has a norm of 0, which says nothing about its next ones.
                if norm:
                    norms.setdefault(player, []).append(norm)
    # Faults of this round; the window of norms keeps its length.
    faults = [observation.index for observation in state.pending if observation.is_faulty]
    state = replace(
        state, norms={player: window[-config.norm_window :] for player, window in norms.items()}, pending=[]
    )
    return _count_faults(config, state, done, faults=faults)


def _count_faults(
    config: GuardConfig, state: GuardState, done: int, *, faults: Sequence[int] = (), turns: Sequence[int] = ()
) -> GuardState:
    # Adds faults and forgets those outside the budget's window. A step that fails again in a replay counts once.
    since = done - config.budget_steps
    return replace(
        state,
        faults=sorted(index for index in {*state.faults, *faults} if index >= since),
        turns=sorted(step for step in [*state.turns, *turns] if step >= since),
    )


def _evaluate_steps(
    config: GuardConfig, state: GuardState, faulty: tuple[Observation, ...], done: int
) -> tuple[GuardState, GuardVerdict]:
    # Describe the fault: exploding or non-finite gradients, or only a loss.
    indices = [observation.index for observation in faulty]
    finite = all(observation.is_finite for observation in faulty)
    message = f"{'exploding' if finite else 'non-finite'} gradients in step {_steps(indices)} ({_norms(faulty[0])})"
    if not all(observation.loss_finite for observation in faulty) and not any(o.blocked for o in faulty):
        message = f"a loss that is not finite in step {_steps(indices)}"
    # The budget first, then the configured action.
    action: Action = config.exploding if finite else config.non_finite
    if state.num_faults > config.budget:
        count = f"{state.num_faults} in {config.budget_steps} steps (guard.budget={config.budget})"
        action, message = "stop", f"{message}, which makes {count}"
    if action == "stop":
        return state, GuardVerdict("stop", f"{message}; {_REMEDY}", faulty=faulty)
    # Roll back and skip the batches, or continue at lower rates, or just continue.
    if action == "roll_back":
        state = _amended(state, passed_over=indices)
        which = "these batches" if indices[1:] else "this batch"
        message = f"{message}: went back to the last good checkpoint, skipping {which}"
        return state, GuardVerdict(action, message, rollback_to=indices[0], faulty=faulty)
    if action == "lower_rate":
        state = _amended(state, slowed=[(done, ALL_PLAYERS)])
        return state, GuardVerdict(
            action, f"{message}: skipped, rates × {config.rate_factor:g} from here", faulty=faulty
        )
    return state, GuardVerdict("skip", f"{message}: skipped, the weights did not move", faulty=faulty)


def _evaluate_balance(
    config: GuardConfig, state: GuardState, done: int, values: Mapping[str, float], bounds: Mapping[str, Balance]
) -> tuple[GuardState, GuardVerdict]:
    out = [(name, values[name], side) for name, bound in bounds.items() if (side := _side(bound, values.get(name)))]
    if not out:
        return replace(state, out_since=done, out_for=0), GuardVerdict()
    # Once per excursion: exactly when the patience is used up.
    state = replace(state, out_for=state.out_for + 1)
    if state.out_for != config.patience:
        return state, GuardVerdict()
    # The message names the first metric that is out of bounds.
    name, value, side = out[0]
    bound = bounds[name]
    meaning, slows = (bound.below, bound.slows_below) if side < 0 else (bound.above, bound.slows_above)
    limit = bound.low if side < 0 else bound.high
    relation = "below" if side < 0 else "above"
    message = f"{meaning}: {name}={value:.4g} is {relation} {limit:g} since step {state.out_since}"
    if config.unbalanced == "tell":
        return state, GuardVerdict("tell", message)
    # Every other action counts against the budget.
    state = _count_faults(config, state, done, turns=[done])
    # Slow one player, or all.
    whose = "all rates" if slows == ALL_PLAYERS else f"the rate of {slows}"
    if config.unbalanced == "stop" or state.num_faults > config.budget:
        return state, GuardVerdict(
            "stop", f"{message}; lower {whose} or the weight of its losses, or set guard.unbalanced=tell"
        )
    slower = f"{whose} × {config.rate_factor:g}"
    if config.unbalanced == "lower_rate":
        state = replace(_amended(state, slowed=[(done, slows)]), out_since=done, out_for=0)
        return state, GuardVerdict("lower_rate", f"{message}: {slower} from here")
    state = _amended(state, slowed=[(state.out_since, slows)])
    return state, GuardVerdict(
        "roll_back", f"{message}: went back, {slower} from step {state.out_since}", rollback_to=state.out_since
    )


def _side(bound: Balance, value: float | None) -> int:
    """-1 below the bounds, 1 above, 0 within or unknown."""
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
    """Step numbers counted from 1, the first five of them."""
    text = ", ".join(str(index + 1) for index in indices[:5])
    return f"{text} and {len(indices) - 5} more" if len(indices) > 5 else text


def _norms(observation: Observation) -> str:
    parts = (f"{name} {'not finite' if norm is None else f'{norm:.3g}'}" for name, norm in observation.norms.items())
    return "norms: " + ", ".join(parts)


_REMEDY = "lower the learning rates in section train, or look at the batch beside the checkpoints"
