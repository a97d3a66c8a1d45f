"""The one place where a request to S3 is made, and made again; and the sentence when it is given up.

retry.py says when, meaning.py why, connection.py holds what the requests of a process share.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from trainplane.errors import UserError
from trainplane.storage.s3.errors import REQUEST_ERRORS, Meaning, is_silence, meaning_of, name_of
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.s3.session import Connection, connection, endpoint_in_words
from trainplane.storage.store import NoBucket, NotFound, StorageError

log = logging.getLogger(__name__)

T = TypeVar("T")

_FRESH_SESSIONS = 4  # per operation: credentials that stay expired are not ours to mend


class ConditionFailed(StorageError):
    """A conditional request met the condition that stops it."""


class PastEnd(StorageError):
    """A range that begins at or after the end of its object."""


@dataclass(frozen=True)
class Requests:
    """Requests to one bucket. `address` is what sentences call it; pickles, for it holds no connection."""

    bucket: str
    address: str
    policy: RetryPolicy

    @property
    def line(self) -> Connection:
        return connection(self.bucket, self.policy)

    def make(self, verb: str, request: Callable[[Any], T], *, progress: Callable[[], int] | None = None) -> T:
        """Make the request until it succeeds or the policy says to stop.

        The request takes out of the answer what is wanted of it: an answer that lacks it was spoilt on the way.
        `progress`, given by reads, counts bytes that arrived: an attempt that brought some is no failure.
        """
        failures = silences = fresh_sessions = 0
        while True:
            line = self.line
            reached = progress() if progress else 0
            client = line.session.client(self.policy.silence_s(silences, is_read=progress is not None))
            begun_in = 0
            try:
                with line.turn() as begun_in:
                    answer = request(client)
            except UserError:
                raise
            except REQUEST_ERRORS as error:
                meaning = meaning_of(error)
                brought_some = progress is not None and progress() > reached
                failures = 0 if brought_some else failures + 1
                silences = 0 if brought_some else silences + is_silence(error)
                if meaning is Meaning.SLOW_DOWN:
                    line.slow_down(begun_in)
                if meaning is Meaning.FRESH_SESSION and fresh_sessions < _FRESH_SESSIONS:
                    line.session.renew(client)
                    if fresh_sessions:
                        self._wait(verb, error, meaning, line, failures)
                    fresh_sessions += 1
                elif meaning in (Meaning.AGAIN, Meaning.SLOW_DOWN):
                    self._wait(verb, error, meaning, line, failures)
                elif meaning is not Meaning.ELSEWHERE:
                    raise self._sentence(verb, error, meaning) from error
            else:
                line.succeeded()
                return answer

    def _wait(self, verb: str, error: Exception, meaning: Meaning, line: Connection, failures: int) -> None:
        """Sleep before the next attempt, or raise where there shall be none."""
        if failures >= self.policy.attempts or not line.take_retry():
            raise self._sentence(verb, error, meaning) from error
        delay_s = self.policy.delay_s(failures, random.random())
        log.info("%s: %s failed (%s); again in %.1f s", self.address, verb, name_of(error), delay_s)
        time.sleep(delay_s)

    def _sentence(self, verb: str, error: Exception, meaning: Meaning) -> Exception:
        name = name_of(error)
        if meaning is Meaning.ABSENT:
            return NotFound(f"{self.address}: cannot {verb}, there is no such object")
        if meaning is Meaning.NO_BUCKET:
            return NoBucket(f"{self.address}: cannot {verb}, there is no bucket {self.bucket!r}; make it first")
        if meaning is Meaning.CONDITION:
            return ConditionFailed(f"{self.address}: cannot {verb}, the object is there already")
        if meaning is Meaning.PAST_END:
            return PastEnd(f"{self.address}: cannot {verb}, the object ends before the range")
        if meaning is Meaning.NO_CREDENTIALS:
            return UserError(
                f"{self.address}: no credentials for {endpoint_in_words()} ({name}); "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if name == "RequestTimeTooSkewed":
            return StorageError(
                f"{self.address}: {endpoint_in_words()} refuses to {verb}, the clock of this machine and the store's "
                "differ by more than it allows; set the clock (NTP)"
            )
        if meaning in (Meaning.FORBIDDEN, Meaning.FRESH_SESSION):
            return StorageError(
                f"{self.address}: {endpoint_in_words()} refuses to {verb} ({name}); "
                "check the credentials in the environment and what they may do"
            )
        if meaning is Meaning.HOPELESS:
            return StorageError(
                f"{self.address}: cannot {verb} ({name}); check the address and the store at {endpoint_in_words()}"
            )
        return StorageError(
            f"{self.address}: cannot {verb}, {endpoint_in_words()} keeps failing ({name}); "
            "check AWS_ENDPOINT_URL, the network and the store's health, then run again"
        )
