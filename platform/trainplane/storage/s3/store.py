"""Store over S3 or a compatible server, through boto3.

`request.py` retries the requests, `range_reader.py` receives bodies, `upload.py` sends them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from trainplane.storage.s3.answers import ListedPages, uploads_of
from trainplane.storage.s3.messages import ConditionFailed, PastEnd
from trainplane.storage.s3.range_reader import RangeReader
from trainplane.storage.s3.request import RetryingClient
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
        """Address without a trailing slash."""
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def _client(self) -> RetryingClient:
        return RetryingClient(self._bucket, self.address, self._policy)

    def child(self, prefix: str) -> S3Store:
        """Store below this one, with the same retry policy."""
        return S3Store(self._bucket, self._name(prefix), self._policy)

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """Copies the bytes of `view`."""
        return bytes(self.view(key, start=start, length=length))

    def view(self, key: str, *, start: int = 0, length: int | None = None) -> memoryview:
        """Reads over as many connections as needed, without a copy."""
        checked_range(start, length)
        # HTTP has no range of zero bytes.
        if length == 0:
            if self.size(key) is None:
                raise NotFound(f"{self.address}/{key}: no such object")
            return memoryview(b"")
        reader = RangeReader(self._bucket, self._name(key), start, length, self._policy)
        # Replacing a slow connection is optional: it must leave retries for real failures.
        may_reconnect = partial(self._client.state.take_retry, optional=True)
        try:
            self._client.call(
                f"read {key}",
                lambda client: reader.attempt(client, may_reconnect),
                progress=lambda: reader.received,
            )
        except PastEnd:
            return memoryview(b"")
        return reader.result()

    def write(self, key: str, data: bytes | Path) -> None:
        """Puts small data in one request, the rest in parts."""
        if isinstance(data, Path):
            with data.open("rb") as source, self.open_writer(key) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        # Up to the size of two parts, one put costs fewer requests.
        elif len(data) > 2 * PART_BYTES:
            with self.open_writer(key) as file:
                file.write(data)
        else:
            arguments = self._put_arguments(key, data)
            self._client.call(f"write {key}", lambda client: client.put_object(**arguments))

    def create(self, key: str, data: bytes) -> bool:
        """Puts with the condition If-None-Match, which the store checks atomically."""
        if len(data) > 2 * PART_BYTES:
            return self._create_in_parts(key, data)
        return self._put_if(f"create {key}", key, data, {"IfNoneMatch": "*"})

    def replace(self, key: str, data: bytes, *, stamp: str) -> bool:
        """Puts with the condition If-Match, which the store checks atomically."""
        # Without its quotation marks all stores know an ETag.
        return self._put_if(f"replace {key}", key, data, {"IfMatch": stamp.strip('"')})

    def _put_if(self, verb: str, key: str, data: bytes, condition: Mapping[str, str]) -> bool:
        arguments = {**self._put_arguments(key, data), **condition}
        attempts = 0

        def put(client: Any) -> None:
            nonlocal attempts
            attempts += 1
            client.put_object(**arguments)

        try:
            self._client.call(verb, put)
        except (ConditionFailed, NotFound):
            # The answer to the first attempt may be lost: then the stored object may be ours.
            with suppress(NotFound):
                return attempts > 1 and self.read(key) == data
            return False
        return True

    def _create_in_parts(self, key: str, data: bytes) -> bool:
        upload = Upload(self._client, key, self._name(key), only_new=True)
        try:
            upload.write(data)
            upload.finish()
        except ConditionFailed:
            upload.abort()
            # As in `_put_if`: the answer to the first attempt may be lost.
            with suppress(NotFound):
                return upload.attempts > 1 and self.read(key) == data
            return False
        except BaseException:
            upload.abort()
            raise
        return True

    def size(self, key: str) -> int | None:
        """Sends a HEAD request."""
        name = self._name(key)
        try:
            return self._client.call(
                f"look at {key}",
                lambda client: int(client.head_object(Bucket=self._bucket, Key=name)["ContentLength"]),
            )
        except NotFound:
            return None

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Requests one page after the other, as the caller iterates."""
        checked_prefix(prefix)
        root = f"{self._prefix}/" if self._prefix else ""
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": root + prefix}
        pages = ListedPages(self._bucket, root, prefix)
        # Pages of up to 1000 keys, already in order.
        while True:
            entries, token = self._client.call(
                f"list {prefix}".rstrip(), lambda client: pages.entries(client.list_objects_v2(**arguments))
            )
            yield from entries
            if token is None:
                return
            arguments["ContinuationToken"] = token

    def delete(self, key: str) -> None:
        """Sends a DELETE request."""
        name = self._name(key)
        # S3 itself answers success for an absent object; some compatible servers do not.
        with suppress(NotFound):
            self._client.call(f"delete {key}", lambda client: client.delete_object(Bucket=self._bucket, Key=name))

    def clear_unfinished(self, is_ours: Callable[[str], bool]) -> int:
        """Aborts multipart uploads below the prefix."""
        root = f"{self._prefix}/" if self._prefix else ""
        unfinished = []
        arguments: dict[str, Any] = {"Bucket": self._bucket, "Prefix": root}
        while True:
            uploads, markers = self._client.call(
                "list unfinished uploads",
                lambda client: uploads_of(client.list_multipart_uploads(**arguments), arguments),
            )
            unfinished += [upload for upload in uploads if is_ours(upload["Key"].removeprefix(root))]
            if not markers:
                break
            arguments.update(markers)
        # Aborted after the listing: its markers refer to uploads that must still exist.
        for upload in unfinished:
            abort_upload(self._client, upload["Key"], upload["UploadId"])
        return len(unfinished)

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        """Opens a multipart upload; small content needs one put."""
        upload = Upload(self._client, key, self._name(key))
        try:
            yield cast(BinaryIO, upload)
            upload.finish()
        # Also on KeyboardInterrupt: parts that stay cost money.
        except BaseException:
            upload.abort()
            raise

    def ensure_bucket(self) -> None:
        """Creates the bucket if it does not exist."""
        try:
            self._client.call("look at the bucket", lambda client: client.head_bucket(Bucket=self._bucket))
        except (NotFound, NoBucket):
            self._client.call("make the bucket", self._create_bucket)

    def _create_bucket(self, client: Any) -> None:
        region = client.meta.region_name
        # S3 refuses a constraint that names its default region.
        location = {"CreateBucketConfiguration": {"LocationConstraint": region}}
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=self._bucket, **(location if region not in (None, "us-east-1") else {}))

    def _name(self, key: str) -> str:
        return f"{self._prefix}/{checked_key(key)}" if self._prefix else checked_key(key)

    def _put_arguments(self, key: str, data: bytes) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._name(key), "Body": data, "ContentMD5": md5(data)}
