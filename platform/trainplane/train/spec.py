"""What a rank is given to do, what it tells on the way, how it ended: plain values that travel between processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackingTarget:
    """Where rank 0 records. `birth`: what to make the run with, as JSON, where MLflow has not heard of it."""

    uri: str
    run_id: str
    spool: str
    birth: dict[str, Any] | None = None


@dataclass(frozen=True)
class Job:
    """All that a rank needs to know.

    config -- the resolved configuration; train_data, val_data, checkpoints -- addresses
    tracking -- tracking address, run id and spool folder; none trains without recording
    micro_batch -- found to fit by an earlier attempt, where the configuration says `auto`
    until -- the step to stop at, where that is before the last one: a search trains in pieces
    stop_at_nan -- a metric of validation: training stops where one is not finite
    train_digest, val_digest -- of the datasets that the run was begun with; others at their addresses are refused
    """

    config: dict[str, Any]
    train_data: str
    val_data: str | None
    checkpoints: str
    tracking: TrackingTarget | None = None
    micro_batch: int | None = None
    until: int | None = None
    stop_at_nan: str | None = None
    train_digest: str | None = None
    val_digest: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as reported by rank 0. `told`: what the guard and the task had to say, in order."""

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


class Progress(Protocol):
    """Whoever shows how far a run is. Called by rank 0; must return at once."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """After every step: rate of this attempt, and the metrics that were recorded last."""

    def tell(self, sentence: str) -> None:
        """Something worth a line of its own."""


class Silent:
    """Nobody watches."""

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Show nothing."""

    def tell(self, sentence: str) -> None:
        """Show nothing."""


Report = Callable[[int, dict[str, float]], bool]
"""Told (step, metrics) at each validation; answers whether training should go on."""


def keep_going(step: int, metrics: dict[str, float]) -> bool:
    """The report of a run that nobody stops early."""
    return True
