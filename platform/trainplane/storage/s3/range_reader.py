"""One range of one S3 object, gathered over as many connections as it takes.

Bodies are counted against the range that was asked for, so a short answer is noticed whether or not its length header
admits it; reading goes on at the offset reached. A connection that brings too little is given up while retries are
plentiful. Not covered: whether the bytes are right (their digests are the readers' matter).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from botocore.exceptions import ClientError

from trainplane.storage.s3.errors import Meaning, ShortBody, SlowBody, meaning_of
from trainplane.storage.s3.fast_get import get_range
from trainplane.storage.s3.retry import Pace, RetryPolicy
from trainplane.storage.s3.session import endpoint_in_words
from trainplane.storage.store import StorageError

_FIRST_BYTES = 64 * 1024
# Bytes that one call waits for, when it waits at all: a call costs the same for little as for much.
_LEAST_PIECE_BYTES, _MOST_PIECE_BYTES = 128 * 1024, 1024 * 1024
_QUICK_S, _SLOW_S = 0.05, 0.2


class Reading:
    """`length` bytes of an object from `start`, or all that follow. `reached` counts those that have come."""

    def __init__(self, bucket: str, name: str, start: int, length: int | None, policy: RetryPolicy) -> None:
        self.reached = 0
        self._memory: memoryview | None = None
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
                self._start_over()
                raise ShortBody("the object was replaced while it was read") from error
            raise
        with body:
            self._etag = headers.get("etag")
            goal = self._goal(headers, offset)
            if self._memory is None:
                self._memory = np.empty(goal, np.uint8).data
            elif len(self._memory) != goal:
                self._start_over()
                raise ShortBody("the object changed its size while it was read")
            self._receive(body, self._memory, may_give_up)

    def taken(self) -> memoryview:
        """The range, when it is complete."""
        assert self._memory is not None
        return self._memory[: self.reached].toreadonly()

    def _start_over(self) -> None:
        self._memory = None
        self._etag = None
        self.reached = 0

    def _receive(self, body: Any, memory: memoryview, may_give_up: Callable[[], bool]) -> None:
        """Take in the body until the memory is full."""
        pace = Pace(self._policy, (time.monotonic(), self.reached), self._given_up)
        piece = 0
        while (wanted := len(memory) - self.reached) > 0:
            begun = time.monotonic()
            came = self._take_in(body, memory[self.reached :], piece)
            if not came:
                raise ShortBody(f"{wanted} bytes are missing")
            self.reached += came
            piece = _next_piece(piece, came, time.monotonic() - begun)
            pace, slow = pace.after(time.monotonic(), self.reached)
            if slow and self.reached < len(memory) and may_give_up():
                self._given_up += 1
                raise SlowBody("too few bytes a second")

    def _take_in(self, body: Any, memory: memoryview, piece: int) -> int:
        """Receive the next bytes: as many as `piece`, or what there is where that is 0."""
        if piece:
            return int(body.readinto(memory[:piece]))
        chunk = body.read1(min(len(memory), _FIRST_BYTES))
        memory[: len(chunk)] = chunk
        return len(chunk)

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


def _next_piece(piece: int, came: int, took_s: float) -> int:
    """What to wait for next, in bytes, after `came` bytes took so long; 0 for whatever there is.

    What a call has is lost when the connection falls silent, and a slow connection shows only between calls: only a
    quick one is waited for.
    """
    if took_s > _SLOW_S:
        return 0
    if piece:
        return min(2 * piece, _MOST_PIECE_BYTES) if took_s < _QUICK_S else piece
    return _LEAST_PIECE_BYTES if came >= _FIRST_BYTES // 4 and took_s < _QUICK_S else 0
