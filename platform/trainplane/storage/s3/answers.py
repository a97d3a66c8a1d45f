"""Checks that an answer is one of an S3 store.

A captive portal, a proxy, a console's port or a gateway in trouble also answers, often with success and a web page.
Taken for the store's, it would be an empty listing, an absent object, or a write that never happened. Pure: no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from trainplane.storage.s3.errors import NotS3
from trainplane.storage.store import Entry

# Fields without which a successful answer is none.
_REQUIRED = {
    "PutObject": ("ETag",),
    "GetObject": ("ETag",),
    "HeadObject": ("ETag", "ContentLength"),
    "UploadPart": ("ETag",),
    "CreateMultipartUpload": ("UploadId",),
    "CompleteMultipartUpload": ("ETag",),
    "ListObjectsV2": ("Name", "IsTruncated"),
    "ListMultipartUploads": ("Bucket", "IsTruncated"),
}
# S3 may give empty pages in a row where many versions were deleted, a thousand of them a page, but not without end.
MAX_EMPTY_PAGES = 100


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises `NotS3` for a web page; `headers` in small letters."""
    is_page = headers.get("content-type", "").lower().startswith("text/html")
    # Stores send this type also with no content at all, and some objects are web pages.
    is_stores = headers.get("content-length") == "0" or any(name.startswith("x-amz") for name in headers)
    if is_page and not is_stores:
        raise NotS3("a web page")


def check_object_headers(status: int, headers: Mapping[str, str]) -> None:
    """Raises `NotS3` where a GET's answer is no object."""
    check_headers(headers)
    if not headers.get("etag"):
        raise NotS3("an answer without ETag")
    if (status == 206) != ("content-range" in headers):
        raise NotS3("an answer that is and is not a part of an object")


def check_answer(operation: str, status: int, headers: Mapping[str, str], answer: Mapping[str, Any]) -> None:
    """Checks an answer as boto3 has parsed it.

    Args:
        operation: S3's name of the request, such as "PutObject".
        status: HTTP status.
        headers: names in small letters.
        answer: parsed fields.
    """
    # A gateway in trouble has pages, too; it is asked again anyway. 500 is botocore's for a body that is not S3's.
    if status <= 500:
        check_headers(headers)
    if status < 300:
        for field in _REQUIRED.get(operation, ()):
            if answer.get(field) in (None, ""):
                raise NotS3(f"an answer without {field}")


class ListedPages:
    """Reads the pages of one listing.

    It must go on and end: keys must begin with the prefix and ascend, so no page counts twice. Anything else raises
    `NotS3`.
    """

    def __init__(self, bucket: str, root: str, prefix: str) -> None:
        self._bucket = bucket
        self._root = root
        self._prefix = root + prefix
        self._last_key = ""
        self._empty_pages = 0
        self._last_token: str | None = None

    def entries(self, answer: Mapping[str, Any]) -> tuple[list[Entry], str | None]:
        """Entries of the next page, and the next token."""
        items = list(answer.get("Contents", ()))
        # Some stores repeat the prefix with its escapes, others without.
        prefix = str(answer.get("Prefix", self._prefix))
        if answer["Name"] != self._bucket or unquote_plus(prefix) != unquote_plus(self._prefix):
            raise NotS3("a listing of another place")
        if int(answer.get("KeyCount", 0)) > len(items):
            raise NotS3("a listing that lacks keys it has counted")
        # The same answer is read again after a fault, so nothing changes before all is checked.
        last_key = self._last_key
        for item in items:
            key = item["Key"]
            if not key.startswith(self._prefix) or key <= last_key or int(item["Size"]) < 0:
                raise NotS3("a listing of other keys, or not in their order")
            last_key = key
        token = answer.get("NextContinuationToken")
        if bool(token) != bool(answer["IsTruncated"]):
            raise NotS3("a listing that says both that it goes on and that it ends")
        # A token that comes twice leads to the same page again, for ever.
        if token and token == self._last_token:
            raise NotS3("a listing that goes on with the same page")
        empty_pages = 0 if items else self._empty_pages + 1
        if token and empty_pages > MAX_EMPTY_PAGES:
            raise NotS3("a listing of empty pages without end")
        self._last_key, self._empty_pages, self._last_token = last_key, empty_pages, token
        entries = [
            Entry(item["Key"].removeprefix(self._root), int(item["Size"]), str(item.get("ETag", "")), _written_s(item))
            for item in items
            # Some tools store an empty object to stand for a folder.
            if not item["Key"].endswith("/")
        ]
        return entries, token


def uploads_of(answer: Mapping[str, Any], asked: Mapping[str, Any]) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Unfinished uploads of one page, and the next markers.

    Raises `NotS3` where the markers are those that were `asked` for.
    """
    uploads = [{"Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in answer.get("Uploads", ())]
    if not answer["IsTruncated"]:
        return uploads, {}
    markers = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
    if markers.items() <= asked.items():
        raise NotS3("a listing of the same page again")
    return uploads, markers


def _written_s(item: Mapping[str, Any]) -> float:
    """Time of an object; infinite where the store tells none."""
    modified = item.get("LastModified")
    return modified.timestamp() if isinstance(modified, datetime) else math.inf
