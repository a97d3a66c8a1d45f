"""Multipart upload of one S3 object in bounded memory.

The object appears whole at the end or not at all. Every part carries a Content-MD5, and a few are sent at once.
Multipart uploads of a killed process stay until they are cleared: packing does so (`Store.clear_unfinished`); for other
writers give the bucket a lifecycle rule that ends such uploads after some days.
"""

from __future__ import annotations

import base64
import hashlib
import io
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from trainplane.storage.s3.request import RetryingClient
from trainplane.storage.store import NotFound, StorageError
from trainplane.store_wait import STORE_WAITS

PART_BYTES = 8 * 1024 * 1024  # S3 requires at least 5 MiB in every part but the last
PARTS_AT_ONCE = 4  # each of them is in memory


class Upload(io.RawIOBase):
    """Writable file that is uploaded in parts if large.

    With `only_new` an existing object is not replaced: `finish` raises `ConditionFailed`.
    """

    def __init__(self, client: RetryingClient, key: str, name: str, *, only_new: bool = False) -> None:
        self._condition = {"IfNoneMatch": "*"} if only_new else {}
        self.attempts = 0  # to complete the object
        self._client = client
        self._key = key
        self._object = {"Bucket": client.bucket, "Key": name}
        self._pending = bytearray()
        self._parts: list[Future[dict[str, Any]]] = []
        self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="upload")
        self._is_aborted = False
        # Threads that wait for a store obey what this one does.
        self._is_cancelled = STORE_WAITS.cancelled
        self._upload_id: str | None = None
        self._written = 0

    def writable(self) -> bool:
        """Always true."""
        return True

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    def write(self, data: Any) -> int:
        """Buffers the bytes, and sends every full part."""
        view = remaining = memoryview(data).cast("B")
        while remaining:
            # Parts grow with their number, so that the 10,000 that S3 allows reach beyond 400 GiB.
            capacity = PART_BYTES * (1 + len(self._parts) // 1000) - len(self._pending)
            self._pending += remaining[:capacity]
            if len(remaining) >= capacity:
                self._send(bytes(self._pending))
                self._pending.clear()
            remaining = remaining[capacity:]
        self._written += len(view)
        return len(view)

    def finish(self) -> None:
        """Completes the object."""
        # No part was sent: one put is enough.
        if self._upload_id is None:
            data = bytes(self._pending)
            arguments = {**self._object, **self._condition, "Body": data, "ContentMD5": md5(data)}
            self._client.call(f"write {self._key}", lambda client: client.put_object(**arguments))
            return
        if self._pending:
            self._send(bytes(self._pending))
        parts = [part.result() for part in self._parts]
        self._threads.shutdown()

        def complete(client: Any) -> None:
            self.attempts += 1
            client.complete_multipart_upload(
                **self._object, **self._condition, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
            )

        # The object appears with this request.
        try:
            self._client.call(f"finish {self._key}", complete)
        except NotFound as error:
            # The answer to the first attempt may be lost: then the upload is absent because it is complete.
            if self.attempts == 1 or self._stored_size() != self._written:
                raise self._aborted_error() from error

    def abort(self) -> None:
        """Frees the parts, if the store still answers."""
        # First let those under way end: one that arrived later would stay.
        self._is_aborted = True
        self._threads.shutdown(cancel_futures=True)
        if self._upload_id is not None:
            with suppress(StorageError):
                abort_upload(self._client, self._object["Key"], self._upload_id)

    def _aborted_error(self) -> StorageError:
        return StorageError(
            f"{self._client.address}: cannot write {self._key}, its upload was ended from outside (by a rule of the "
            "bucket or another program); run again"
        )

    def _stored_size(self) -> int:
        return self._client.call(
            f"look at {self._key}", lambda client: int(client.head_object(**self._object)["ContentLength"])
        )

    def _send(self, part: bytes) -> None:
        # The upload starts with the first full part.
        if self._upload_id is None:
            self._upload_id = self._client.call(
                f"begin {self._key}", lambda client: str(client.create_multipart_upload(**self._object)["UploadId"])
            )
        # So many parts are on their way; a failure of one is raised here, or at the end.
        if len(self._parts) >= PARTS_AT_ONCE:
            self._parts[-PARTS_AT_ONCE].result()
        # Part numbers start at 1.
        self._parts.append(self._threads.submit(self._put_part, len(self._parts) + 1, part))

    def _put_part(self, number: int, part: bytes) -> dict[str, Any]:
        with STORE_WAITS.obeying(lambda: self._is_aborted or self._is_cancelled()):
            try:
                etag = self._client.call(
                    f"write part {number} of {self._key}",
                    lambda client: client.upload_part(
                        **self._object, UploadId=self._upload_id, PartNumber=number, Body=part, ContentMD5=md5(part)
                    )["ETag"],
                )
            except NotFound as error:
                raise self._aborted_error() from error
        return {"PartNumber": number, "ETag": etag}


def abort_upload(client: RetryingClient, name: str, upload_id: str) -> None:
    """Aborts a multipart upload if it exists; frees its parts."""
    with suppress(NotFound):
        client.call(
            f"abort an upload of {name}",
            lambda s3: s3.abort_multipart_upload(Bucket=client.bucket, Key=name, UploadId=upload_id),
        )


def md5(data: bytes) -> str:
    """Value of a Content-MD5 header."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
