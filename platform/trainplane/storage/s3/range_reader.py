"""Reads one range of an S3 object, reconnecting as needed.

Bodies are counted against the requested range, so a short answer is noticed even where its length header agrees with
it; reading resumes at the offset reached. A slow connection is replaced while retries are plentiful. Not covered: the
digests of the bytes, which readers check.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from botocore.exceptions import ClientError

from trainplane.storage.s3.errors import ErrorKind, ShortBody, SlowBody, classify
from trainplane.storage.s3.fast_get import get_range
from trainplane.storage.s3.retry import RetryPolicy, ThroughputCheck
from trainplane.storage.s3.session import endpoint_name
from trainplane.storage.store import StorageError

_FIRST_BYTES = 64 * 1024  # limit of a call that does not block
# Bytes of one blocking call: a call costs the same processor time for a small piece as for a large one.
_MIN_PIECE_BYTES, _MAX_PIECE_BYTES = 128 * 1024, 1024 * 1024
_FAST_CALL_S, _SLOW_CALL_S = 0.05, 0.2


class RangeReader:
    """Reader of one range; `received` counts its bytes so far.

    `length` None reads from `start` to the end of the object.
    """

    def __init__(self, bucket: str, name: str, start: int, length: int | None, policy: RetryPolicy) -> None:
        self.received = 0
        self._memory: memoryview | None = None
        self._start = start
        self._length = length
        self._policy = policy
        self._bucket = bucket
        self._name = name
        self._etag: str | None = None
        self._reconnects = 0

    def attempt(self, client: Any, may_reconnect: Callable[[], bool]) -> None:
        """Resumes where the last attempt stopped; completes the range."""
        offset = self._start + self.received
        end = "" if self._length is None else self._start + self._length - 1
        # Two halves of different objects must never be joined.
        condition = {"If-Match": self._etag} if self._etag else {}
        try:
            headers, body = get_range(client, self._bucket, self._name, {"Range": f"bytes={offset}-{end}", **condition})
        except ClientError as error:
            if condition and classify(error) is ErrorKind.PRECONDITION:
                self._start_over()
                raise ShortBody("the object was replaced while it was read") from error
            raise
        with body:
            self._etag = headers.get("etag")
            # The first answer gives the size of the memory; later ones must agree with it.
            size = self._range_bytes(headers, offset)
            if self._memory is None:
                self._memory = np.empty(size, np.uint8).data
            elif len(self._memory) != size:
                self._start_over()
                raise ShortBody("the object changed its size while it was read")
            self._receive(body, self._memory, may_reconnect)

    def result(self) -> memoryview:
        """The range, when it is complete."""
        assert self._memory is not None
        return self._memory[: self.received].toreadonly()

    def _start_over(self) -> None:
        self._memory = None
        self._etag = None
        self.received = 0

    def _receive(self, body: Any, memory: memoryview, may_reconnect: Callable[[], bool]) -> None:
        """Receives the body until the memory is full."""
        check = ThroughputCheck(self._policy, (time.monotonic(), self.received), self._reconnects)
        piece = 0
        while (missing := len(memory) - self.received) > 0:
            started = time.monotonic()
            count = _read_piece(body, memory[self.received :], piece)
            # The body ended before the range did.
            if not count:
                raise ShortBody(f"{missing} bytes are missing")
            self.received += count
            # Larger pieces while the connection is fast; another connection when it is slow.
            piece = _next_piece(piece, count, time.monotonic() - started)
            check, is_slow = check.after(time.monotonic(), self.received)
            if is_slow and self.received < len(memory) and may_reconnect():
                self._reconnects += 1
                raise SlowBody("too few bytes a second")

    def _range_bytes(self, headers: Mapping[str, str], offset: int) -> int:
        """Size of the whole range, up to the object's end."""
        content_range = headers.get("content-range")
        if content_range is None:
            # An answer without a range is the whole object, which serves only from its start.
            if offset:
                raise StorageError(f"{endpoint_name()} ignores byte ranges; need a store that serves them")
            total = int(headers["content-length"])
        else:
            # "bytes 512-1023/4096": first, last, and the size of the object.
            span, _, size = content_range.removeprefix("bytes ").partition("/")
            if int(span.partition("-")[0]) != offset:
                raise ShortBody("the answer is of another range")
            total = int(size)
        available = total - self._start
        return available if self._length is None else min(self._length, available)


def _read_piece(body: Any, memory: memoryview, piece: int) -> int:
    """Receives the next `piece` bytes; for 0, the available ones."""
    if piece:
        return int(body.readinto(memory[:piece]))
    chunk = body.read1(min(len(memory), _FIRST_BYTES))
    memory[: len(chunk)] = chunk
    return len(chunk)


def _next_piece(piece: int, count: int, took_s: float) -> int:
    """Size of the next blocking read; 0 does not block.

    The last call received `count` bytes in `took_s`. A blocking call loses its bytes when the connection falls silent,
    and a slow connection shows only between calls. So only a fast connection is read in large pieces.
    """
    # A fast first call starts blocking reads; each fast read doubles them, and a slow one ends them.
    if took_s > _SLOW_CALL_S:
        return 0
    if piece:
        return min(2 * piece, _MAX_PIECE_BYTES) if took_s < _FAST_CALL_S else piece
    return _MIN_PIECE_BYTES if count >= _FIRST_BYTES // 4 and took_s < _FAST_CALL_S else 0
