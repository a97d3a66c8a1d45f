"""PURE: when a failed request is tried again, how long to wait first, and when to stop.

Full-jitter exponential back-off spreads clients that failed together ("Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). A budget, one per bucket and process, keeps retries a bounded share of the requests, so that
a store in trouble is not loaded further. The number of requests at once halves on SlowDown and grows back by one per
round of successes (additive increase, multiplicative decrease). A connection that brings too little is given up for
another. Time and chance come in as values.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RetryPolicy:
    """How patient one operation is. An attempt that brought bytes does not count against `attempts`.

    A read may be silent for `patience_s`: another connection is quicker than waiting. When it met nothing but silence,
    and for all other verbs, the store may take `read_timeout_s`. `least_bytes_per_s` is what a connection must bring
    over any `patience_s`.
    """

    attempts: int = 8
    base_s: float = 0.1
    cap_s: float = 10.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    patience_s: float = 2.0
    least_bytes_per_s: float = 20_000.0

    def delay_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after the given number of failures in a row; `chance` is uniform in [0, 1)."""
        return chance * min(self.cap_s, self.base_s * 2.0 ** min(max(failures, 1) - 1, 32))

    def silence_s(self, silences: int, *, is_read: bool) -> float:
        """Seconds that an attempt may bring nothing, after so many that ended in silence from the beginning."""
        return min(self.patience_s, self.read_timeout_s) if is_read and not silences else self.read_timeout_s


@dataclass(frozen=True)
class Budget:
    """Retries that may still be made. A success earns `earn` of one, up to `reserve`; a retry costs one.

    With these values a store that fails 30 % of its requests (0.43 retries per success) is borne for ever; one that
    fails more than a third of them uses the reserve up, and then its failures are final at once.
    """

    left: float = 100.0
    reserve: float = 100.0
    earn: float = 0.5

    def after_success(self) -> Budget:
        return replace(self, left=min(self.reserve, self.left + self.earn))

    def after_retry(self) -> Budget:
        return replace(self, left=self.left - 1.0)

    @property
    def spent(self) -> bool:
        return self.left < 1.0

    @property
    def plentiful(self) -> bool:
        """Enough for retries that are no need but a choice: a slow connection does bring bytes."""
        return self.left >= 1.0 + self.reserve / 2.0


@dataclass(frozen=True)
class Concurrency:
    """How many requests a process may have under way. `allowed` is fractional: 1/allowed is gained per success.

    `round` counts the halvings. Requests that were under way together are refused together, which is one event: a
    refusal counts only when its request began after the last halving.
    """

    allowed: float = 32.0
    most: float = 32.0
    round: int = 0

    def after_success(self) -> Concurrency:
        return replace(self, allowed=min(self.most, self.allowed + 1.0 / self.allowed))

    def after_slow_down(self, begun_in: int) -> Concurrency:
        """What is allowed after a refusal of a request that began in the given round."""
        if begun_in < self.round:
            return self
        return replace(self, allowed=max(1.0, self.allowed / 2.0), round=self.round + 1)


@dataclass(frozen=True)
class Pace:
    """Whether a body comes fast enough, judged over one `patience_s` after the other. `since`: (seconds, bytes)."""

    policy: RetryPolicy
    since: tuple[float, int]
    given_up: int = 0
    """Connections given up for the same range: each halves what the next must bring, for a slow line stays slow."""

    def after(self, now_s: float, brought: int) -> tuple[Pace, bool]:
        """The pace to go on with, and whether the last stretch was too slow; `brought` counts all bytes so far."""
        elapsed_s, bytes_brought = now_s - self.since[0], brought - self.since[1]
        if elapsed_s < self.policy.patience_s:
            return self, False
        least = self.policy.least_bytes_per_s / 2.0**self.given_up
        return replace(self, since=(now_s, brought)), bytes_brought < least * elapsed_s


class Tally:
    """A number that only grows, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add_one(self) -> None:
        with self._lock:
            self.value += 1


RETRIES = Tally()
