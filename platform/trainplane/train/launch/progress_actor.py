"""Ray actor between the ranks and their driver.

Rank 0 sends progress at most twice a second and never waits; the answer says whether to stop.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from trainplane.train.launch.rank_failures import RankFailure
from trainplane.train.launch.stall import RankPulse

# Time after the last progress at which a rank asks whether to stop.
_ASK_EVERY_S = 2.0


class ProgressActor:
    """State of one attempt; the actor outlives the ranks."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, float, dict[str, float]] | None = None
        self._messages: list[str] = []
        self._outcome: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._stop = False
        self._validations: list[tuple[int, dict[str, float]]] = []
        self._placement_group: str | None = None
        self._pulses: dict[int, tuple[RankPulse, int]] = {}
        self._failures: list[RankFailure] = []
        self._usage: dict[int, dict[str, float]] = {}

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of a validation."""
        self._validations.append((step, metrics))

    def validations(self, since: int) -> list[tuple[int, dict[str, float]]]:
        """(step, metrics) of the validations from number `since` on."""
        return self._validations[since:]

    def set_placement_group(self, placement_group: str) -> None:
        """Stores the id of the ranks' placement group."""
        self._placement_group = placement_group

    def placement_group(self) -> str | None:
        """Id of the ranks' placement group, None before they start."""
        return self._placement_group

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: dict[str, float]) -> bool:
        """Stores the progress; returns whether the ranks should stop."""
        self._progress = (step, steps, pictures_per_s, metrics)
        return self._stop

    def emit(self, message: str) -> None:
        """Adds a message for the user."""
        self._messages.append(message)

    def finish(self, outcome: dict[str, Any]) -> None:
        """Stores the outcome of rank 0."""
        self._outcome = outcome

    def fail(self, error: Exception) -> None:
        """Stores the first error of any rank."""
        # Errors of other ranks are mostly consequences of the first.
        self._error = self._error or error

    def beat(self, pulse: RankPulse) -> None:
        """Stores a rank's newest pulse, and counts its pulses."""
        _, number = self._pulses.get(pulse.rank, (pulse, 0))
        self._pulses[pulse.rank] = (pulse, number + 1)

    def pulses(self) -> list[tuple[RankPulse, int]]:
        """Newest pulse of each rank, with its number."""
        return list(self._pulses.values())

    def add_failure(self, failure: RankFailure) -> None:
        """Adds the error that ended a rank."""
        self._failures.append(failure)

    def failures(self) -> list[RankFailure]:
        """Errors of the ranks, the first one first."""
        return self._failures

    def request_stop(self) -> None:
        """Asks all ranks to save a checkpoint and stop."""
        self._stop = True

    def is_stopping(self) -> bool:
        """True once the ranks should stop."""
        return self._stop

    def set_usage(self, node: int, usage: dict[str, float]) -> None:
        """Stores the newest system metrics of a node."""
        self._usage[node] = usage

    def take_usage(self) -> dict[str, float]:
        """Returns each node's metrics once, by `node-N/name`."""
        usages, self._usage = self._usage, {}
        return {f"node-{node}/{name}": value for node, usage in usages.items() for name, value in usage.items()}

    def state(self) -> tuple[Any, list[str], Any, Any, str | None]:
        """Returns progress, messages, outcome, error and placement group."""
        return self._progress, self._messages, self._outcome, self._error, self._placement_group


class ActorProgress:
    """Progress of a rank that goes to the actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._next = 0.0
        self._answer: Any = None
        self._lock = threading.Lock()
        self._stop = False

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Sends the progress, at most twice a second."""
        # The last step is always sent.
        now = time.monotonic()
        with self._lock:
            if now >= self._next or step == steps:
                self._next = now + 0.5
                self._answer = self._actor.update.remote(step, steps, pictures_per_s, dict(metrics))

    def emit(self, message: str) -> None:
        """Sends a message for the user."""
        self._actor.emit.remote(message)

    def report(self, step: int, metrics: dict[str, float]) -> bool:
        """Sends the metrics of a validation; always continues."""
        # A request to stop comes with the answer to `update`.
        self._actor.report.remote(step, metrics)
        return True

    def is_stop_requested(self) -> bool:
        """Reads the last answer if it has arrived; never waits.

        Any thread may ask; one that waits for a store asks while the loop sends no progress.
        """
        import ray

        with self._lock:
            now = time.monotonic()
            if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
                self._stop = self._stop or bool(ray.get(self._answer))
                self._answer = None
            elif self._answer is None and now >= self._next + _ASK_EVERY_S:
                self._next = now
                self._answer = self._actor.is_stopping.remote()
            return self._stop
