"""S3, or whatever speaks its protocol, through boto3.

Bodies are counted against the range that was asked for, so a short answer is noticed whether or not its length
header admits it, and reading resumes at the offset reached. Uploads carry a Content-MD5. Not covered: clearing
multipart uploads that a killed process left; give the bucket a lifecycle rule that ends them after some days.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from trainplane.errors import UserError
from trainplane.storage.connection import (
    REQUEST_ERRORS,
    Connection,
    Meaning,
    connection,
    endpoint_in_words,
    meaning_of,
    name_of,
)
from trainplane.storage.retry import RetryPolicy
from trainplane.storage.store import Entry, NotFound, StorageError, Store, checked_key, checked_prefix, checked_range

log = logging.getLogger(__name__)

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_PART_BYTES = 8 * 1024 * 1024  # S3 wants at least 5 MiB in every part but the last
_FRESH_SESSIONS = 4  # per operation: credentials that stay expired are not ours to mend


class _ShortBody(OSError):
    """The body ended before the range that was asked for."""


class S3Store(Store):
    """Objects below `bucket/prefix`."""

    def __init__(self, bucket: str, prefix: str, policy: RetryPolicy) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._policy = policy

    def __repr__(self) -> str:
        return f"S3Store({self.address!r})"

    @property
    def address(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def child(self, prefix: str) -> S3Store:
        return S3Store(self._bucket, self._name(prefix), self._policy)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        checked_range(start, length)
        if length == 0:
            if self.size(key) is None:
                raise NotFound(f"{self.address}/{key}: no such object")
            return b""
        reading = _Reading(self._bucket, self._name(key), start, length)
        try:
            self._persist(f"read {key}", reading.attempt, progress=lambda: len(reading.got))
        except _PastEnd:
            return b""
        return bytes(reading.got)

    def write(self, key: str, data: bytes | Path) -> None:
        if isinstance(data, Path):
            with data.open("rb") as source, self.open_writer(key) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        elif len(data) > 8 * _PART_BYTES:
            with self.open_writer(key) as file:
                file.write(data)
        else:
            self._put(key, data)

    def create(self, key: str, data: bytes) -> bool:
        arguments = self._put_arguments(key, data) | {"IfNoneMatch": "*"}
        attempts = 0

        def put(client: Any) -> None:
            nonlocal attempts
            attempts += 1
            client.put_object(**arguments)

        try:
            self._persist(f"create {key}", put)
        except _ConditionFailed:
            # After a lost answer, what stands there may be what we wrote.
            return attempts > 1 and self._holds(key, data)
        return True

    def size(self, key: str) -> int | None:
        name = self._name(key)
        try:
            answer = self._persist(f"look at {key}", lambda client: client.head_object(Bucket=self._bucket, Key=name))
        except NotFound:
            return None
        return int(answer["ContentLength"])

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked_prefix(prefix)
        root = f"{self._prefix}/" if self._prefix else ""
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": root + prefix}
        while True:
            page = self._persist(f"list {prefix}", lambda client: client.list_objects_v2(**arguments))
            for found in page.get("Contents", ()):
                # Some tools store an empty object to stand for a folder.
                if not found["Key"].endswith("/"):
                    yield Entry(found["Key"].removeprefix(root), int(found["Size"]))
            if not page.get("IsTruncated"):
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        name = self._name(key)
        with suppress(NotFound):
            self._persist(f"delete {key}", lambda client: client.delete_object(Bucket=self._bucket, Key=name))

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        upload = _Upload(self, key)
        try:
            yield cast(BinaryIO, upload)
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        try:
            self._persist("look at the bucket", lambda client: client.head_bucket(Bucket=self._bucket))
        except NotFound:
            self._persist("make the bucket", self._create_bucket)

    def _create_bucket(self, client: Any) -> None:
        region = client.meta.region_name
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=self._bucket, **(elsewhere if region not in (None, "us-east-1") else {}))

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.read(key) == data
        except NotFound:
            return False

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}" if self._prefix else checked_key(key)

    def _put(self, key: str, data: bytes) -> None:
        arguments = self._put_arguments(key, data)
        self._persist(f"write {key}", lambda client: client.put_object(**arguments))

    def _put_arguments(self, key: str, data: bytes) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._name(key), "Body": data, "ContentMD5": _md5(data)}

    def _persist(self, verb: str, request: Callable[[Any], T], *, progress: Callable[[], int] = lambda: 0) -> T:
        """Make the request until it succeeds or the policy says to stop. `progress` counts bytes that arrived."""
        failures = fresh_sessions = 0
        while True:
            line = connection(self._policy)
            reached = progress()
            try:
                with line.turn():
                    answer = request(line.client())
            except REQUEST_ERRORS as error:
                meaning = meaning_of(error)
                failures = 1 if progress() > reached else failures + 1
                if meaning is Meaning.FRESH_SESSION and fresh_sessions < _FRESH_SESSIONS:
                    line.start_fresh_session()
                    if fresh_sessions:
                        self._wait(verb, error, meaning, line, failures)
                    fresh_sessions += 1
                elif meaning in (Meaning.AGAIN, Meaning.SLOW_DOWN):
                    self._wait(verb, error, meaning, line, failures)
                else:
                    raise self._sentence(verb, error, meaning) from error
            else:
                line.succeeded()
                return answer

    def _wait(self, verb: str, error: Exception, meaning: Meaning, line: Connection, failures: int) -> None:
        """Sleep before the next attempt, or raise where there shall be none."""
        if meaning is Meaning.SLOW_DOWN:
            line.slow_down()
        if failures >= self._policy.attempts or not line.take_retry():
            raise self._sentence(verb, error, meaning) from error
        delay_s = self._policy.delay_s(failures, random.random())
        log.info("%s: %s failed (%s); again in %.1f s", self.address, verb, name_of(error), delay_s)
        time.sleep(delay_s)

    def _sentence(self, verb: str, error: Exception, meaning: Meaning) -> Exception:
        name = name_of(error)
        if meaning is Meaning.ABSENT:
            return NotFound(f"{self.address}: cannot {verb}, there is no such object")
        if meaning is Meaning.NO_BUCKET:
            return NotFound(f"{self.address}: cannot {verb}, there is no bucket {self._bucket!r}; make it first")
        if meaning is Meaning.CONDITION:
            return _ConditionFailed(f"{self.address}: cannot {verb}, the object is there already")
        if meaning is Meaning.PAST_END:
            return _PastEnd(f"{self.address}: cannot {verb}, the object ends before the range")
        if meaning is Meaning.NO_CREDENTIALS:
            return UserError(
                f"{self.address}: no credentials for {endpoint_in_words()} ({name}); "
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
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


class _ConditionFailed(StorageError):
    """A conditional request met the condition that stops it."""


class _PastEnd(StorageError):
    """A range that begins at or after the end of its object."""


class _Reading:
    """One range of one object, gathered over as many connections as it takes."""

    def __init__(self, bucket: str, name: str, start: int, length: int | None) -> None:
        self.got = bytearray()
        self._start = start
        self._length = length
        self._object = {"Bucket": bucket, "Key": name}
        self._etag: str | None = None

    def attempt(self, client: Any) -> None:
        """Read on from where the last attempt came to; returns when the range is complete."""
        offset = self._start + len(self.got)
        end = "" if self._length is None else self._start + self._length - 1
        # Two halves of different objects must never be joined.
        same = {"IfMatch": self._etag} if self._etag else {}
        try:
            answer = client.get_object(**self._object, Range=f"bytes={offset}-{end}", **same)
        except client.exceptions.ClientError as error:
            if same and meaning_of(error) is Meaning.CONDITION:
                self.got.clear()
                self._etag = None
                raise _ShortBody("the object was replaced while it was read") from error
            raise
        self._etag = answer.get("ETag")
        wanted = self._goal(answer, offset) - len(self.got)
        with closing(answer["Body"]) as body:
            while wanted > 0:
                chunk = body.read(min(_CHUNK_BYTES, wanted))
                if not chunk:
                    raise _ShortBody(f"{wanted} bytes are missing")
                self.got += chunk
                wanted -= len(chunk)

    def _goal(self, answer: dict[str, Any], offset: int) -> int:
        """Bytes of the whole range, as far as the object reaches."""
        content_range = answer.get("ContentRange")
        if content_range is None:
            if offset:
                raise StorageError(f"{endpoint_in_words()} ignores byte ranges; need a store that serves them")
            total = int(answer["ContentLength"])
        else:
            total = int(content_range.rpartition("/")[2])
        reachable = total - self._start
        return reachable if self._length is None else min(self._length, reachable)


class _Upload(io.RawIOBase):
    """Bytes on their way into one object: a plain put when they are few, a multipart upload when not."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store = store
        self._key = key
        self._object = {"Bucket": store._bucket, "Key": store._name(key)}
        self._pending = bytearray()
        self._parts: list[dict[str, Any]] = []
        self._upload_id: str | None = None
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any) -> int:
        view = rest = memoryview(data).cast("B")
        while rest:
            # Parts grow with their number, so that the 10,000 that S3 allows reach beyond 400 GiB.
            room = _PART_BYTES * (1 + len(self._parts) // 1000) - len(self._pending)
            self._pending += rest[:room]
            if len(rest) >= room:
                self._send(bytes(self._pending))
                self._pending.clear()
            rest = rest[room:]
        self._written += len(view)
        return len(view)

    def finish(self) -> None:
        """Make the object appear."""
        if self._upload_id is None:
            self._store._put(self._key, bytes(self._pending))
            return
        if self._pending:
            self._send(bytes(self._pending))
        attempts = 0

        def complete(client: Any) -> None:
            nonlocal attempts
            attempts += 1
            client.complete_multipart_upload(
                **self._object, UploadId=self._upload_id, MultipartUpload={"Parts": self._parts}
            )

        try:
            self._store._persist(f"finish {self._key}", complete)
        except NotFound:
            # After a lost answer the upload is gone because it is complete.
            if attempts == 1 or self._store.size(self._key) != self._written:
                raise

    def abort(self) -> None:
        """Leave nothing behind, as far as the store still answers."""
        if self._upload_id is not None:
            with suppress(StorageError, NotFound):
                self._store._persist(
                    f"abort {self._key}",
                    lambda client: client.abort_multipart_upload(**self._object, UploadId=self._upload_id),
                )

    def _send(self, part: bytes) -> None:
        if self._upload_id is None:
            begun = self._store._persist(
                f"begin {self._key}", lambda client: client.create_multipart_upload(**self._object)
            )
            self._upload_id = begun["UploadId"]
        number = len(self._parts) + 1
        sent = self._store._persist(
            f"write part {number} of {self._key}",
            lambda client: client.upload_part(
                **self._object, UploadId=self._upload_id, PartNumber=number, Body=part, ContentMD5=_md5(part)
            ),
        )
        self._parts.append({"PartNumber": number, "ETag": sent["ETag"]})


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
