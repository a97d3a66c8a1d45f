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

from trainplane.storage.s3.answers import check_object_headers
from trainplane.storage.s3.errors import Reaction, ShortBody, SlowBody, classify
from trainplane.storage.s3.fast_get import get_range
from trainplane.storage.s3.messages import endpoint_name
from trainplane.storage.s3.retry import RetryPolicy, ThroughputCheck
from trainplane.storage.store import StorageError

_FIRST_BYTES = 64 * 1024  # limit of a call that does not block
# Bytes of one blocking call: a call costs the same processor time for a small piece as for a large one.
_MIN_PIECE_BYTES, _MAX_PIECE_BYTES = 128 * 1024, 1024 * 1024
_MAX_UNSEEN_BYTES = 256 * 1024 * 1024  # memory for bytes that were promised and did not come yet
_FAST_CALL_S, _SLOW_CALL_S = 0.05, 0.2


class RangeReader:
    """Reader of one range; `received` counts its bytes so far.

    `length` None reads from `start` to the end of the object.
    """

    def __init__(self, bucket: str, name: str, start: int, length: int | None, policy: RetryPolicy) -> None:
        self.received = 0
        self._memory = memoryview(b"")
        self._size: int | None = None  # Bytes of the whole range
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
            request_headers = {"Range": f"bytes={offset}-{end}", **condition}
            status, headers, body = get_range(client, self._bucket, self._name, request_headers)
        except ClientError as error:
            if condition and classify(error) is Reaction.PRECONDITION:
                self._start_over()
                raise ShortBody("the object was replaced while it was read") from error
            # The first answer promised more bytes than the object has.
            if self.received and classify(error) is Reaction.PAST_END:
                self._start_over()
                raise ShortBody("the object ends before its promised size") from error
            raise
        with body:
            check_object_headers(status, headers)
            self._etag = headers.get("etag")
            # The first answer gives the size; later ones must agree with it.
            size = self._range_bytes(headers, offset, client)
            if self._size is None:
                self._size = size
            elif self._size != size:
                self._start_over()
                raise ShortBody("the object changed its size while it was read")
            self._receive(body, size, may_reconnect)

    def result(self) -> memoryview:
        """The range, when it is complete."""
        return self._memory[: self.received].toreadonly()

    def _start_over(self) -> None:
        self._size = None
        self._etag = None
        self.received = 0

    def _receive(self, body: Any, size: int, may_reconnect: Callable[[], bool]) -> None:
        """Receives the body until the range is complete."""
        check = ThroughputCheck(self._policy, (time.monotonic(), self.received), self._reconnects)
        piece = 0
        while (missing := size - self.received) > 0:
            self._provide_memory(size)
            started = time.monotonic()
            count = _read_piece(body, self._memory[self.received : size], piece)
            # The body ended before the range did.
            if not count:
                raise ShortBody(f"{missing} bytes are missing")
            self.received += count
            # Larger pieces while the connection is fast; another connection when it is slow.
            piece = _next_piece(piece, count, time.monotonic() - started)
            check, is_slow = check.after(time.monotonic(), self.received)
            if is_slow and self.received < size and may_reconnect():
                self._reconnects += 1
                raise SlowBody("too few bytes a second")

    def _provide_memory(self, size: int) -> None:
        # Not all at once: the size is what an answer claims, and one wrong digit of it would claim all memory.
        if self.received < len(self._memory):
            return
        memory = np.empty(min(size, max(_MAX_UNSEEN_BYTES, 4 * self.received)), np.uint8)
        memory[: self.received] = np.frombuffer(self._memory[: self.received], np.uint8)
        self._memory = memory.data

    def _range_bytes(self, headers: Mapping[str, str], offset: int, client: Any) -> int:
        """Size of the whole range, up to the object's end."""
        content_range = headers.get("content-range")
        if content_range is None:
            # An answer without a range is the whole object, which serves only from its start.
            if offset:
                store = endpoint_name(client.meta.endpoint_url)
                raise StorageError(f"{store} ignores byte ranges; need a store that serves them")
            total = int(headers["content-length"])
        else:
            # "bytes 512-1023/4096": first, last, and the size of the object.
            span, _, size = content_range.removeprefix("bytes ").partition("/")
            first, _, last = span.partition("-")
            if int(first) != offset:
                raise ShortBody("the answer is of another range")
            # Bytes of an answer that contradicts itself are not taken.
            if int(headers.get("content-length", int(last) - offset + 1)) != int(last) - offset + 1:
                raise ShortBody("the answer's length is not that of its range")
            total = int(size)
        available = total - self._start
        if available < self.received:
            raise ShortBody("the answer's size is less than what was received")
        return available if self._length is None else min(self._length, available)


def _read_piece(body: Any, memory: memoryview, piece: int) -> int:
    """Receives the next `piece` bytes; for 0, the available ones."""
    if piece:
        return int(body.readinto(memory[:piece], _SLOW_CALL_S))
    chunk = body.read1(min(len(memory), _FIRST_BYTES))
    memory[: len(chunk)] = chunk
    return len(chunk)


def _next_piece(piece: int, count: int, took_s: float) -> int:
    """Size of the next blocking read; 0 does not block.

    The last call received `count` bytes in `took_s`. A blocking call loses its bytes when the connection falls silent,
    and a slow connection shows only between calls. So only a fast connection is read in large pieces, and one that
    becomes slow meanwhile ends the call.
    """
    # A fast first call starts blocking reads; each fast read doubles them, and a slow one ends them.
    if took_s > _SLOW_CALL_S:
        return 0
    if piece:
        return min(2 * piece, _MAX_PIECE_BYTES) if took_s < _FAST_CALL_S else piece
    return _MIN_PIECE_BYTES if count >= _FIRST_BYTES // 4 and took_s < _FAST_CALL_S else 0
