"""Bytes on their way into one S3 object, in bounded memory: it appears whole at the end or not at all.

Every piece carries a Content-MD5. Multipart uploads that a killed process left stay until somebody clears them: packing
does (`Store.clear_unfinished`), for what else writes give the bucket a lifecycle rule that ends them after some days.
"""

from __future__ import annotations

import base64
import hashlib
import io
from contextlib import suppress
from typing import Any

from trainplane.storage.s3.request import Requests
from trainplane.storage.store import NotFound, StorageError

PART_BYTES = 8 * 1024 * 1024  # S3 wants at least 5 MiB in every part but the last


class Upload(io.RawIOBase):
    """Bytes on their way into one object: a plain put when they are few, a multipart upload when not."""

    def __init__(self, requests: Requests, key: str, name: str) -> None:
        self._requests = requests
        self._key = key
        self._object = {"Bucket": requests.bucket, "Key": name}
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
            room = PART_BYTES * (1 + len(self._parts) // 1000) - len(self._pending)
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
            data = bytes(self._pending)
            arguments = {**self._object, "Body": data, "ContentMD5": md5(data)}
            self._requests.make(f"write {self._key}", lambda client: client.put_object(**arguments))
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
            self._requests.make(f"finish {self._key}", complete)
        except NotFound as error:
            # After a lost answer the upload is gone because it is complete.
            if attempts == 1 or self._size_there() != self._written:
                raise self._ended() from error

    def abort(self) -> None:
        """Leave nothing behind, as far as the store still answers."""
        if self._upload_id is not None:
            with suppress(StorageError):
                abort_upload(self._requests, self._object["Key"], self._upload_id)

    def _ended(self) -> StorageError:
        return StorageError(
            f"{self._requests.address}: cannot write {self._key}, its upload was ended by somebody else (a rule of the "
            "bucket, another program); run again"
        )

    def _size_there(self) -> int:
        return self._requests.make(
            f"look at {self._key}", lambda client: int(client.head_object(**self._object)["ContentLength"])
        )

    def _send(self, part: bytes) -> None:
        if self._upload_id is None:
            self._upload_id = self._requests.make(
                f"begin {self._key}", lambda client: str(client.create_multipart_upload(**self._object)["UploadId"])
            )
        number = len(self._parts) + 1
        try:
            etag = self._requests.make(
                f"write part {number} of {self._key}",
                lambda client: client.upload_part(
                    **self._object, UploadId=self._upload_id, PartNumber=number, Body=part, ContentMD5=md5(part)
                )["ETag"],
            )
        except NotFound as error:
            raise self._ended() from error
        self._parts.append({"PartNumber": number, "ETag": etag})


def abort_upload(requests: Requests, name: str, upload_id: str) -> None:
    """End a multipart upload and free what was sent; one that is over is fine."""
    with suppress(NotFound):
        requests.make(
            f"abort an upload of {name}",
            lambda client: client.abort_multipart_upload(Bucket=requests.bucket, Key=name, UploadId=upload_id),
        )


def md5(data: bytes) -> str:
    """The value of a Content-MD5 header."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
