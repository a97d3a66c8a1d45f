"""S3, or whatever speaks its protocol, through boto3: the verbs of a store as requests.

How a request is tried again stands in requesting.py, how a body is received in reading.py, how one is sent in
upload.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from trainplane.storage.s3.range_reader import Reading
from trainplane.storage.s3.request import ConditionFailed, PastEnd, Requests
from trainplane.storage.s3.retry import RetryPolicy
from trainplane.storage.s3.upload import PART_BYTES, Upload, abort_upload, md5
from trainplane.storage.store import Entry, NoBucket, NotFound, Store, checked_key, checked_prefix, checked_range


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

    @property
    def _requests(self) -> Requests:
        return Requests(self._bucket, self.address, self._policy)

    def child(self, prefix: str) -> S3Store:
        return S3Store(self._bucket, self._name(prefix), self._policy)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        return bytes(self.view(key, start=start, length=length))

    def view(self, key: str, *, start: int = 0, length: int | None = None) -> memoryview:
        checked_range(start, length)
        if length == 0:
            if self.size(key) is None:
                raise NotFound(f"{self.address}/{key}: no such object")
            return memoryview(b"")
        reading = Reading(self._bucket, self._name(key), start, length, self._policy)
        may_give_up = partial(self._requests.line.take_retry, by_choice=True)
        try:
            self._requests.make(
                f"read {key}",
                lambda client: reading.attempt(client, may_give_up),
                progress=lambda: reading.reached,
            )
        except PastEnd:
            return memoryview(b"")
        return reading.taken()

    def write(self, key: str, data: bytes | Path) -> None:
        if isinstance(data, Path):
            with data.open("rb") as source, self.open_writer(key) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        elif len(data) > 2 * PART_BYTES:
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
            self._requests.make(f"create {key}", put)
        except ConditionFailed:
            # After a lost answer, what stands there may be what we wrote.
            return attempts > 1 and self._holds(key, data)
        return True

    def size(self, key: str) -> int | None:
        name = self._name(key)
        try:
            return self._requests.make(
                f"look at {key}",
                lambda client: int(client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]),
            )
        except NotFound:
            return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        checked_prefix(prefix)
        root = f"{self._prefix}/" if self._prefix else ""
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": root + prefix}
        while True:
            entries, token = self._requests.make(
                f"list {prefix}".rstrip(), lambda client: _page(client.list_objects_v2(**arguments), root)
            )
            yield from entries
            if token is None:
                return
            arguments["ContinuationToken"] = token

    def delete(self, key: str) -> None:
        name = self._name(key)
        with suppress(NotFound):
            self._requests.make(f"delete {key}", lambda client: client.delete_object(Bucket=self._bucket, Key=name))

    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        root = f"{self._prefix}/" if self._prefix else ""
        found = []
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": root}
        while True:
            uploads, after = self._requests.make(
                "list unfinished uploads", lambda client: _unfinished(client.list_multipart_uploads(**arguments))
            )
            found += [upload for upload in uploads if is_ours(upload["Key"].removeprefix(root))]
            if after is None:
                break
            arguments.update(after)
        for upload in found:
            abort_upload(self._requests, upload["Key"], upload["UploadId"])
        return len(found)

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        upload = Upload(self._requests, key, self._name(key))
        try:
            yield cast(BinaryIO, upload)
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        try:
            self._requests.make("look at the bucket", lambda client: client.head_bucket(Bucket=self._bucket))
        except (NotFound, NoBucket):
            self._requests.make("make the bucket", self._create_bucket)

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
        self._requests.make(f"write {key}", lambda client: client.put_object(**arguments))

    def _put_arguments(self, key: str, data: bytes) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._name(key), "Body": data, "ContentMD5": md5(data)}


def _page(answer: Mapping[str, Any], root: str) -> tuple[list[Entry], str | None]:
    """A page of a listing, and what to ask for the next one with."""
    entries = [
        Entry(found["Key"].removeprefix(root), int(found["Size"]), str(found.get("ETag", "")))
        for found in answer.get("Contents", ())
        # Some tools store an empty object to stand for a folder.
        if not found["Key"].endswith("/")
    ]
    return entries, answer["NextContinuationToken"] if answer.get("IsTruncated") else None


def _unfinished(answer: Mapping[str, Any]) -> tuple[list[dict[str, str]], dict[str, str] | None]:
    """A page of unfinished uploads, and what to ask for the next one with."""
    found = [{"Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in answer.get("Uploads", ())]
    if not answer.get("IsTruncated"):
        return found, None
    return found, {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
