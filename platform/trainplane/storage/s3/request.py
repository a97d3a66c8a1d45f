"""Sends S3 requests and retries them.

`retry.py` says when to retry, `errors.py` why, `messages.py` words failures, `session.py` holds the state that a
process's requests share.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trainplane.errors import UserError
from trainplane.storage.s3.errors import REQUEST_ERRORS, Reaction, classify, error_name, is_timeout
from trainplane.storage.s3.messages import final_error
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.s3.session import BucketState, bucket_state

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_RENEWALS = 4  # per operation: credentials that stay expired cannot be repaired here


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
        failures = timeouts = renewals = 0
        while True:
            # Each attempt looks the client up again: the last one may have been discarded.
            state = self.state
            received = progress() if progress else 0
            client = state.clients.get(self.policy.timeout_s(timeouts, is_read=progress is not None))
            started_at = 0
            try:
                # Wait for a slot of the concurrency limit, then send.
                with state.slot() as started_at:
                    answer = request(client)
            except UserError:
                raise
            except REQUEST_ERRORS as error:
                kind = classify(error)
                has_progress = progress is not None and progress() > received
                # Received bytes reset the back-off.
                failures = 0 if has_progress else failures + 1
                timeouts = 0 if has_progress else timeouts + is_timeout(error)
                if kind is Reaction.SLOW_DOWN:
                    state.slow_down(started_at)
                if kind is Reaction.RENEW_SESSION and renewals < _MAX_RENEWALS:
                    state.clients.discard(client)
                    # The first renewal costs neither a delay nor budget: tokens expire in every long run.
                    if renewals:
                        self._wait(verb, error, kind, state, failures)
                    renewals += 1
                elif kind in (Reaction.RETRY, Reaction.SLOW_DOWN):
                    self._wait(verb, error, kind, state, failures)
                # RECONNECT repeats at once: its retry was taken from the budget when the reader gave up.
                elif kind is not Reaction.RECONNECT:
                    raise self._final_error(verb, error, kind) from error
            else:
                state.record_success()
                return answer

    def _wait(self, verb: str, error: Exception, kind: Reaction, state: BucketState, failures: int) -> None:
        """Sleeps before the next attempt, or raises the final error."""
        if failures >= self.policy.attempts or not state.take_retry():
            raise self._final_error(verb, error, kind) from error
        delay_s = self.policy.delay_s(failures, random.random())
        log.info("%s: %s failed (%s); again in %.1f s", self.address, verb, error_name(error), delay_s)
        time.sleep(delay_s)

    def _final_error(self, verb: str, error: Exception, kind: Reaction) -> Exception:
        return final_error(
            error, kind, verb=verb, address=self.address, bucket=self.bucket, endpoint=self.state.clients.endpoint
        )
