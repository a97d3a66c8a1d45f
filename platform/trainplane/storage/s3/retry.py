"""Retry policy, retry budget and concurrency limit of S3 requests.

Pure but for `RetryCounter`: time and random numbers come in as values. Full-jitter exponential back-off spreads clients
that failed together ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015). A budget per bucket and process
keeps retries a bounded share of the requests, so that a store in trouble is not loaded further.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

# Time for the first attempts of a store that is away, and failures that are more than one slow answer.
QUICK_S = 30.0
OUTAGE_FAILURES = 3


@dataclass(frozen=True)
class RetryPolicy:
    """Patience of one operation.

    An attempt that received bytes does not count against `attempts`. A read may be silent for `patience_s`: another
    connection is quicker than waiting. When it met nothing but silence, and for all other operations, the store may
    take `read_timeout_s`. A connection must bring `least_bytes_per_s` over any `patience_s`.
    """

    attempts: int = 8
    base_s: float = 0.1
    cap_s: float = 10.0
    outage_cap_s: float = 20.0
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 20.0
    patience_s: float = 2.0
    least_bytes_per_s: float = 20_000.0

    def delay_s(self, failures: int, jitter: float) -> float:
        """Delay after consecutive failures; `jitter` is uniform in [0, 1)."""
        # The exponent is bounded so that the power cannot overflow.
        return jitter * min(self.cap_s, self.base_s * 2.0 ** min(max(failures, 1) - 1, 32))

    def next_pause_s(
        self, *, failures: int, failing_s: float, wait_s: float, is_outage: bool, has_budget: bool, jitter: float
    ) -> float | None:
        """Pause before the next attempt; None: no more attempts.

        Args:
            failures: Consecutive failures of the operation.
            failing_s: Seconds since the first of them.
            wait_s: Seconds to wait for a store that is away; 0 for a short patience.
            is_outage: The last failure is one of a store that is away, and no fault of the request.
            has_budget: Retries remain in the budget.
            jitter: Uniform in [0, 1).
        """
        is_slow = is_outage and failures >= OUTAGE_FAILURES and failing_s >= max(wait_s, QUICK_S)
        if failures < self.attempts and has_budget and not is_slow:
            return self.delay_s(failures, jitter)
        # An outage is waited for outside the budget: its pauses are long.
        if not is_outage or failing_s >= wait_s:
            return None
        longest = min(self.outage_cap_s, max(self.cap_s, self.base_s * 2.0 ** min(failures, 32)))
        return min((0.5 + jitter / 2.0) * longest, wait_s - failing_s)

    def timeout_s(self, timeouts: int, *, is_read: bool) -> float:
        """Read timeout after `timeouts` attempts without a byte."""
        return min(self.patience_s, self.read_timeout_s) if is_read and not timeouts else self.read_timeout_s


@dataclass(frozen=True)
class RetryBudget:
    """Token bucket that bounds the share of retries.

    A success adds `refill` tokens, a retry costs one. With these values a store that fails 30 % of its requests (0.43
    retries per success) is tolerated for ever. One that fails more than a third of them empties the bucket, and then
    its failures are final at once, unless the store is away.
    """

    tokens: float = 100.0
    capacity: float = 100.0
    refill: float = 0.5

    def after_success(self) -> RetryBudget:
        """Budget after one successful request."""
        return replace(self, tokens=min(self.capacity, self.tokens + self.refill))

    def after_retry(self) -> RetryBudget:
        """Budget after one retry."""
        return replace(self, tokens=self.tokens - 1.0)

    @property
    def exhausted(self) -> bool:
        """True where no retry remains."""
        return self.tokens < 1.0

    @property
    def plentiful(self) -> bool:
        """True where retries suffice to replace a slow connection."""
        return self.tokens >= 1.0 + self.capacity / 2.0


@dataclass(frozen=True)
class ConcurrencyLimit:
    """Limit of concurrent requests: additive increase, multiplicative decrease.

    `allowed` is fractional: each success adds 1/allowed, hence one per round of successes. SlowDown halves it. Requests
    that ran together are refused together, which is one event: a refusal counts only when its request started after
    the last halving. `halvings` counts these.
    """

    allowed: float = 32.0
    maximum: float = 32.0
    halvings: int = 0

    def after_success(self) -> ConcurrencyLimit:
        """Limit after one successful request."""
        return replace(self, allowed=min(self.maximum, self.allowed + 1.0 / self.allowed))

    def after_slow_down(self, started_at: int) -> ConcurrencyLimit:
        """Limit after SlowDown; `started_at`: `halvings` when the request started."""
        # Refused together with an earlier request, which halved the limit already.
        if started_at < self.halvings:
            return self
        return replace(self, allowed=max(1.0, self.allowed / 2.0), halvings=self.halvings + 1)


@dataclass(frozen=True)
class ThroughputCheck:
    """Check of a body's throughput over consecutive windows of `patience_s`.

    Attributes:
        policy: source of `patience_s` and `least_bytes_per_s`.
        since: time in seconds and bytes received at the start of the window.
        reconnects: slow connections already replaced for the same range. Each one halves the required rate, because a
            slow network stays slow.
    """

    policy: RetryPolicy
    since: tuple[float, int]
    reconnects: int = 0

    def after(self, now_s: float, received: int) -> tuple[ThroughputCheck, bool]:
        """Next check, and True where a window was too slow."""
        # `received` counts all bytes, so the window's are a difference.
        elapsed_s, window_bytes = now_s - self.since[0], received - self.since[1]
        if elapsed_s < self.policy.patience_s:
            return self, False
        least = self.policy.least_bytes_per_s / 2.0**self.reconnects
        return replace(self, since=(now_s, received)), window_bytes < least * elapsed_s


class RetryCounter:
    """Thread-safe counter of this process's retries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def increment(self) -> None:
        """Adds one."""
        with self._lock:
            self.value += 1


RETRIES = RetryCounter()
