"""PURE: when a failed request is tried again, how long to wait first, and when to stop.

Full-jitter exponential back-off spreads clients that failed together ("Exponential Backoff And Jitter", AWS
Architecture Blog, 2015). A budget shared by a process keeps retries a bounded share of its requests, so that an
overloaded store is not loaded further; the number of requests at once halves on SlowDown and grows back by
one per round of successes (additive increase, multiplicative decrease). Time and chance come in as values.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RetryPolicy:
    """How patient one operation is. An attempt that brought bytes does not count against `attempts`."""

    attempts: int = 8
    base_s: float = 0.1
    cap_s: float = 10.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0

    def delay_s(self, failures: int, chance: float) -> float:
        """Seconds to wait after the given number of failures in a row; `chance` is uniform in [0, 1)."""
        return chance * min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32))


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
        return Budget(min(self.reserve, self.left + self.earn), self.reserve, self.earn)

    def after_retry(self) -> Budget:
        return Budget(self.left - 1.0, self.reserve, self.earn)

    @property
    def spent(self) -> bool:
        return self.left < 1.0


@dataclass(frozen=True)
class Concurrency:
    """How many requests a process may have under way. `allowed` is fractional: 1/allowed is gained per success."""

    allowed: float = 32.0
    most: float = 32.0

    def after_success(self) -> Concurrency:
        return Concurrency(min(self.most, self.allowed + 1.0 / self.allowed), self.most)

    def after_slow_down(self) -> Concurrency:
        return Concurrency(max(1.0, self.allowed / 2.0), self.most)
