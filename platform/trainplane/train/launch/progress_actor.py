"""How ranks in other processes and the command that started them talk: through one small Ray actor.

Rank 0 tells how far it is, at most twice a second and without waiting; with the answer comes what the command asks for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any


class Post:
    """The actor: keeps the last progress, all sentences, the outcome, the first error, what is asked for, and where."""

    def __init__(self) -> None:
        self._progress: tuple[int, int, float, dict[str, float]] | None = None
        self._sentences: list[str] = []
        self._outcome: dict[str, Any] | None = None
        self._error: Exception | None = None
        self._stop = False
        self._measured: list[tuple[int, dict[str, float]]] = []
        self._place: str | None = None

    def measure(self, step: int, metrics: dict[str, float]) -> None:
        self._measured.append((step, metrics))

    def measured(self, since: int) -> list[tuple[int, dict[str, float]]]:
        """What validations found, beginning with the one of that number."""
        return self._measured[since:]

    def take_place(self, placement_group: str) -> None:
        """The ranks run in this placement group of Ray's."""
        self._place = placement_group

    def place(self) -> str | None:
        return self._place

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: dict[str, float]) -> bool:
        """Whether the ranks shall save and stop."""
        self._progress = (step, steps, pictures_per_s, metrics)
        return self._stop

    def tell(self, sentence: str) -> None:
        self._sentences.append(sentence)

    def finish(self, outcome: dict[str, Any]) -> None:
        self._outcome = outcome

    def fail(self, error: Exception) -> None:
        self._error = self._error or error

    def ask_to_stop(self) -> None:
        self._stop = True

    def state(self) -> tuple[Any, list[str], Any, Any, str | None]:
        return self._progress, self._sentences, self._outcome, self._error, self._place


class Messenger:
    """The progress of a rank, sent to the post."""

    def __init__(self, post: Any) -> None:
        self._post = post
        self._next = 0.0
        self._answer: Any = None
        self._stop = False

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now >= self._next or step == steps:
            self._next = now + 0.5
            self._answer = self._post.update.remote(step, steps, pictures_per_s, dict(metrics))

    def tell(self, sentence: str) -> None:
        self._post.tell.remote(sentence)

    def measured(self, step: int, metrics: dict[str, float]) -> bool:
        """Pass on what a validation found. Who wants the ranks to stop asks for it in `update`'s answer."""
        self._post.measure.remote(step, metrics)
        return True

    def asked_to_stop(self) -> bool:
        """What the last answer said, if it has come; never waits."""
        import ray

        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = self._stop or bool(ray.get(self._answer))
            self._answer = None
        return self._stop
