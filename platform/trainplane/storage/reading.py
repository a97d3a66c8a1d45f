"""One range of one S3 object, gathered over as many connections as it takes.

Bodies are counted against the range that was asked for, so a short answer is noticed whether or not its length header
admits it; reading goes on at the offset reached. A connection that brings too little is given up while retries are
plentiful. Not covered: whether the bytes are right (their digests are the readers' matter).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from trainplane.storage.connection import endpoint_in_words
from trainplane.storage.getting import get_range
from trainplane.storage.meaning import Meaning, ShortBody, SlowBody, meaning_of
from trainplane.storage.retry import Pace, RetryPolicy
from trainplane.storage.store import StorageError

_CHUNK_BYTES = 256 * 1024


class Reading:
    """`length` bytes of an object from `start`, or all that follow. `reached` counts those that have come."""

    def __init__(self, bucket: str, name: str, start: int, length: int | None, policy: RetryPolicy) -> None:
        self.reached = 0
        self._got: list[bytes] = []
        self._start = start
        self._length = length
        self._policy = policy
        self._bucket = bucket
        self._name = name
        self._etag: str | None = None
        self._given_up = 0

    def attempt(self, client: Any, may_give_up: Callable[[], bool]) -> None:
        """Read on from where the last attempt came to; returns when the range is complete."""
        offset = self._start + self.reached
        end = "" if self._length is None else self._start + self._length - 1
        # Two halves of different objects must never be joined.
        same = {"If-Match": self._etag} if self._etag else {}
        try:
            headers, body = get_range(client, self._bucket, self._name, {"Range": f"bytes={offset}-{end}", **same})
        except ClientError as error:
            if same and meaning_of(error) is Meaning.CONDITION:
                self._got.clear()
                self.reached = 0
                self._etag = None
                raise ShortBody("the object was replaced while it was read") from error
            raise
        with body:
            self._etag = headers.get("etag")
            self._receive(body, self._goal(headers, offset), may_give_up)

    def taken(self) -> bytes:
        """The range, when it is complete."""
        return b"".join(self._got)

    def _receive(self, body: Any, goal: int, may_give_up: Callable[[], bool]) -> None:
        """Take in the body until `goal` bytes of the range are here."""
        pace = Pace(self._policy, (time.monotonic(), self.reached), self._given_up)
        while (wanted := goal - self.reached) > 0:
            # What there is, not as much as was asked for: a read that waits for more loses it when the connection
            # falls silent, and a slow connection would not show.
            chunk = body.read1(min(wanted, _CHUNK_BYTES))
            if not chunk:
                raise ShortBody(f"{wanted} bytes are missing")
            self._got.append(chunk)
            self.reached += len(chunk)
            pace, slow = pace.after(time.monotonic(), self.reached)
            if slow and self.reached < goal and may_give_up():
                self._given_up += 1
                raise SlowBody("too few bytes a second")

    def _goal(self, headers: Mapping[str, str], offset: int) -> int:
        """Bytes of the whole range, as far as the object reaches."""
        content_range = headers.get("content-range")
        if content_range is None:
            if offset:
                raise StorageError(f"{endpoint_in_words()} ignores byte ranges; need a store that serves them")
            total = int(headers["content-length"])
        else:
            # "bytes 512-1023/4096": first, last, and the size of the object.
            span, _, size = content_range.removeprefix("bytes ").partition("/")
            if int(span.partition("-")[0]) != offset:
                raise ShortBody("the answer is of another range")
            total = int(size)
        reachable = total - self._start
        return reachable if self._length is None else min(self._length, reachable)
