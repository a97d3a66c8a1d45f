"""Input, progress and outcome of a run, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from trainplane.data.training_data import MixedAddress
from trainplane.tracking.client import TrackingServer


@dataclass(frozen=True)
class TrackingTarget:
    """Tracking server, run and spool folder of rank 0.

    `run_id` is the id of the MLflow run, or the one reserved for it.
    """

    uri: str
    run_id: str
    spool: str
    run_spec: dict[str, Any] | None = None  # Arguments to create the MLflow run, as JSON, if it does not exist yet

    @cached_property
    def server(self) -> TrackingServer:
        """The tracking server at `uri`."""
        return TrackingServer(self.uri)


@dataclass(frozen=True)
class TrainJob:
    """Everything a rank needs to train a run.

    `train_data`, `val_data` and `checkpoints` are addresses. With `tracking=None` nothing is recorded.
    """

    config: dict[str, Any]  # The resolved configuration
    train_data: str
    val_data: str | None
    checkpoints: str
    tracking: TrackingTarget | None = None
    micro_batch: int | None = None  # Size that fitted in an earlier attempt, where the configuration says `auto`
    until: int | None = None  # Step to stop at, where that is before the last one: a search trains in pieces
    stop_at_nan: str | None = None  # Name of a validation metric; training stops when it is not finite
    train_digest: str | None = None  # Digest that the training dataset must have: the one at the run's start
    mix: list[MixedAddress] = field(default_factory=list)  # Further training datasets, in the order of the mixture
    val_digest: str | None = None  # Likewise of the held-out dataset
    val_sets: dict[str, tuple[str, str]] = field(default_factory=dict)  # Further ones: name -> address and digest


@dataclass(frozen=True)
class Outcome:
    """Result reported by rank 0; `told` holds messages in order."""

    status: str
    step: int
    metrics: dict[str, float]
    checkpoint: str
    state_digest: str
    seconds: dict[str, float]
    pictures_per_s: float
    unsent: int = 0
    damage: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    attempts_s: float = 0.0  # Seconds of all attempts of this command, failed ones included
    rank_s: float = 0.0  # The same times the ranks of each


class Progress(Protocol):
    """Display of a run's progress; must return at once."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Shows this attempt's speed and the last recorded metrics."""

    def emit(self, message: str) -> None:
        """Shows a message on a line of its own."""


class NullProgress:
    """Progress that shows nothing."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Shows nothing."""

    def emit(self, message: str) -> None:
        """Shows nothing."""


Report = Callable[[int, dict[str, float]], bool]
"""Callback of each validation: takes (step, metrics) and returns whether to continue training."""


def keep_going(step: int, metrics: dict[str, float]) -> bool:
    """Never stops a run early."""
    return True
