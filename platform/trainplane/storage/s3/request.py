"""Sends S3 requests and retries them.

`retry.py` says when to retry, `errors.py` why, `messages.py` words failures, `session.py` holds the state that a
process's requests share.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from trainplane.errors import UserError
from trainplane.storage.s3.errors import REQUEST_ERRORS, Reaction, classify, error_name, is_outage, is_timeout
from trainplane.storage.s3.messages import final_error
from trainplane.storage.s3.retry import QUICK_S, RetryPolicy
from trainplane.storage.s3.session import BucketState, bucket_state
from trainplane.store_wait import STORE_WAITS, Wait, store_wait_s

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_RENEWALS = 4  # per operation: credentials that stay expired cannot be repaired here
_TELL_AFTER_S = 3.0  # of failing, to a person who waits
_ANSWERS = (Reaction.NOT_FOUND, Reaction.NO_BUCKET, Reaction.PRECONDITION, Reaction.PAST_END)


@dataclass(eq=False)
class _Tries:
    """Attempts of one operation."""

    failures: int = 0  # consecutive; received bytes end them
    timeouts: int = 0  # of these, without a byte in time
    renewals: int = 0  # of the credentials
    since: float = field(default_factory=time.time)  # of the first failure, seconds since the epoch
    is_waiting: bool = False  # for a store that is away
    is_told: bool = False
    _started_s: float = 0.0
    _is_outage: bool = False

    def add(self, error: Exception, *, has_progress: bool) -> None:
        """Counts a failed attempt."""
        if has_progress:
            self.failures = self.timeouts = 0
            return
        if not self.failures:
            self.since, self._started_s = time.time(), time.monotonic()
        # A store that comes back may give a damaged answer at first: that is another kind of failure.
        self.failures = self.failures + 1 if is_outage(error) is self._is_outage else 1
        self._is_outage = is_outage(error)
        self.timeouts += is_timeout(error)

    @property
    def failing_s(self) -> float:
        """Seconds since the first failure."""
        return time.monotonic() - self._started_s if self.failures else 0.0


@dataclass(frozen=True)
class RetryingClient:
    """Picklable client of one bucket; error messages name `address`."""

    bucket: str
    address: str
    policy: RetryPolicy

    @property
    def state(self) -> BucketState:
        """Shared state of this process's requests to the bucket."""
        return bucket_state(self.bucket, self.policy)

    def call(self, verb: str, request: Callable[[Any], T], *, progress: Callable[[], int] | None = None) -> T:
        """Calls `request` until it succeeds or retries are used up.

        Args:
            verb: the operation in an error message, such as "read KEY".
            request: gets a boto3 client and must extract its result from the answer, because an answer that lacks a
                field was damaged on the way and is retried.
            progress: for reads, the number of bytes received so far. An attempt that received some is no failure.
        """
        tries = _Tries()
        try:
            while True:
                # Each attempt looks the client up again: the last one may have been discarded.
                state = self.state
                received = progress() if progress else 0
                client = state.clients.get(self.policy.timeout_s(tries.timeouts, is_read=progress is not None))
                started_at = 0
                try:
                    # Wait for a slot of the concurrency limit, then send.
                    with state.slot() as started_at:
                        answer = request(client)
                except UserError:
                    raise
                except REQUEST_ERRORS as error:
                    tries.add(error, has_progress=progress is not None and progress() > received)
                    self._react(verb, error, state, client, tries, started_at)
                else:
                    state.record_success()
                    if tries.is_waiting:
                        state.record_recovery()
                    return answer
        finally:
            if tries.is_waiting:
                STORE_WAITS.end(tries)

    def _react(
        self, verb: str, error: Exception, state: BucketState, client: Any, tries: _Tries, started_at: int
    ) -> None:
        """Pauses before another attempt, or raises the final error."""
        kind = classify(error)
        if kind is Reaction.SLOW_DOWN:
            state.slow_down(started_at)
        if kind is Reaction.RENEW_SESSION and tries.renewals < _MAX_RENEWALS:
            state.clients.discard(client)
            # The first renewal costs neither a delay nor budget: tokens expire in every long run.
            if tries.renewals:
                self._wait(verb, error, kind, state, tries)
            tries.renewals += 1
        elif kind in (Reaction.RETRY, Reaction.SLOW_DOWN):
            self._wait(verb, error, kind, state, tries)
        # RECONNECT repeats at once: its retry was taken from the budget when the reader gave up.
        elif kind is not Reaction.RECONNECT:
            raise self._final_error(verb, error, kind, tries) from error

    def _wait(self, verb: str, error: Exception, kind: Reaction, state: BucketState, tries: _Tries) -> None:
        """Sleeps before the next attempt, or raises the final error."""
        has_budget = tries.failures < self.policy.attempts and state.take_retry()
        wait_s = self._wait_s(state)
        pause_s = self.policy.next_pause_s(
            failures=tries.failures,
            failing_s=tries.failing_s,
            wait_s=wait_s,
            is_outage=is_outage(error),
            has_budget=has_budget,
            jitter=random.random(),
        )
        if pause_s is None or STORE_WAITS.cancelled():
            raise self._final_error(verb, error, kind, tries) from error
        log.info("%s: %s failed (%s); again in %.1f s", self.address, verb, error_name(error), pause_s)
        # The first attempts are over: now everybody may know.
        reason = f"{state.clients.endpoint} ({error_name(error)}), to {verb} in {self.address}"
        if not has_budget:
            STORE_WAITS.begin(tries, Wait(tries.since, f"{reason}, up to {wait_s / 60:.0f} min"))
            tries.is_waiting = True
        elif wait_s == 0 and not tries.is_told and tries.failing_s > _TELL_AFTER_S:
            tries.is_told = True
            log.warning("waiting for %s, up to %.0f s", reason, QUICK_S)
        STORE_WAITS.pause(pause_s)

    def _wait_s(self, state: BucketState) -> float:
        """Limit of waiting for this store now."""
        is_unknown = STORE_WAITS.needs_answer and not state.clients.has_answered
        return 0.0 if is_unknown or STORE_WAITS.is_stopping() else store_wait_s()

    def _final_error(self, verb: str, error: Exception, kind: Reaction, tries: _Tries) -> Exception:
        clients = self.state.clients
        # Only a store says these.
        clients.has_answered |= kind in _ANSWERS
        return final_error(
            error,
            kind,
            verb=verb,
            address=self.address,
            bucket=self.bucket,
            endpoint=clients.endpoint,
            failing_s=tries.failing_s,
        )
