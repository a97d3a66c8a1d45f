"""Range GET with cached signatures, beside boto3's `get_object`.

`get_object` takes four times the processor time: validation, signing, serializing, hooks and parsing for each request,
and copies of the body, which a reader pays every few samples. Here botocore's public signer signs once for minutes: a
signature covers the object's address and the time, not the range, so it serves every range of a shard until it grows
old. boto3 still handles every answer that is not plain, and every case where a plain request may not be enough: no
credentials, a proxy, a bucket named by an ARN, a certificate that is not trusted here. Not covered: receiving the body
(`range_reader.py`), retries (`request.py`).
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from weakref import WeakKeyDictionary
from xml.etree import ElementTree

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.utils import get_environ_proxies

from trainplane.storage.s3.answers import check_headers
from trainplane.storage.s3.http_pool import HttpPool, HttpResponse

# Answers that name another region or endpoint.
_REDIRECT_STATUSES = (301, 302, 307, 308)
_REDIRECT_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
# Refusals of the signature made here: boto3 may sign better.
_SIGNATURE_CODES = ("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidRequest", "MissingSecurityHeader")

_SIGNATURE_LIFETIME_S = 240.0  # S3 takes a signature for fifteen minutes
_MAX_SIGNATURES = 4096


class DirectClient:
    """Sends plain requests with a boto3 client's endpoint and credentials."""

    def __init__(self, client: Any, credentials: Any, *, connect_s: float, timeout_s: float, pool_size: int) -> None:
        self._region = client.meta.region_name
        self._agent = client.meta.config.user_agent
        self._credentials = credentials
        self._lock = threading.Lock()
        self._urls: dict[str, str | None] = {}
        self._signatures: dict[str, tuple[float, Any, dict[str, str]]] = {}
        self._pool = HttpPool(connect_s=connect_s, timeout_s=timeout_s, size=pool_size)

    def send(self, client: Any, bucket: str, name: str, headers: Mapping[str, str]) -> HttpResponse | None:
        """Sends a GET; None where boto3 must do it."""
        # No credentials, or an ARN instead of a bucket's name.
        if self._credentials is None or ":" in bucket:
            return None
        prefix = self._bucket_url(client, bucket)
        if prefix is None:
            return None
        url = prefix + quote(name, safe="/~")
        signed = {"User-Agent": self._agent, **self._signature(url), **headers}
        try:
            return self._pool.get(urlsplit(url), signed)
        except ssl.SSLCertVerificationError:
            # boto3 brings its own certificates and can be configured with others: leave it all later requests.
            self._credentials = None
            return None

    def close(self) -> None:
        """Closes the idle connections."""
        self._pool.close()

    def _bucket_url(self, client: Any, bucket: str) -> str | None:
        """URL prefix of the bucket's objects; None behind a proxy."""
        if bucket not in self._urls:
            # A presigned URL shows which addressing style the client has chosen.
            presigned: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
            url = presigned.partition("?")[0].removesuffix("k")
            parts = urlsplit(url)
            is_direct = parts.scheme not in get_environ_proxies(url) and parts.username is None
            self._urls[bucket] = url if is_direct else None
        return self._urls[bucket]

    def _signature(self, url: str) -> dict[str, str]:
        """Headers that authorize any range GET of this object."""
        credentials = self._credentials.get_frozen_credentials()
        now = time.monotonic()
        with self._lock:
            signed_at, signed_with, headers = self._signatures.get(url, (0.0, None, {}))
            if signed_with == credentials and now - signed_at < _SIGNATURE_LIFETIME_S:
                return headers
        # Signing takes processor time, so it happens outside the lock; two threads may do it twice.
        request = AWSRequest("GET", url)
        S3SigV4Auth(credentials, "s3", self._region).add_auth(request)
        headers = dict(request.headers.items())
        with self._lock:
            # A full cache is simply emptied: most of its signatures are old.
            if len(self._signatures) >= _MAX_SIGNATURES:
                self._signatures.clear()
            self._signatures[url] = (now, credentials, headers)
        return headers


DIRECT_CLIENTS: WeakKeyDictionary[Any, DirectClient] = WeakKeyDictionary()
"""Direct client beside each boto3 client."""


def get_range(client: Any, bucket: str, name: str, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], Any]:
    """Reads the status, headers and body of an object's range.

    Header names are in small letters. The body is a context manager with `read1` and `readinto`. `headers` of the
    request: Range, and If-Match where there is a condition. Raises `ClientError` with the store's code and status, as
    boto3 does, and the errors of `HttpPool.get` and of boto3.
    """
    direct = DIRECT_CLIENTS.get(client)
    response = direct.send(client, bucket, name, headers) if direct else None
    if response is None:
        return _get_with_boto3(client, bucket, name, headers)
    if response.status in (200, 206):
        return response.status, response.headers, response
    # An error: boto3 repeats what it may handle better; the others are raised as boto3 would.
    with response:
        if response.status < 500:
            check_headers(response.headers)
        code = _error_code(response.error_body())
    if response.status in _REDIRECT_STATUSES or code in _REDIRECT_CODES + _SIGNATURE_CODES:
        return _get_with_boto3(client, bucket, name, headers)
    status = {"HTTPStatusCode": response.status}
    raise ClientError({"Error": {"Code": code or str(response.status)}, "ResponseMetadata": status}, "GetObject")


class _Boto3Body:
    """boto3's stream with the interface of `HttpResponse`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> _Boto3Body:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read1(self, amount: int) -> bytes:
        # The stream waits for the whole amount, so the amount is small.
        return bytes(self._stream.read(min(amount, 16 * 1024)))

    def readinto(self, memory: memoryview, limit_s: float) -> int:
        # No limit here: pieces are small instead.
        data = self._stream.read(min(len(memory), 128 * 1024))
        memory[: len(data)] = data
        return len(data)


def _get_with_boto3(
    client: Any, bucket: str, name: str, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str], Any]:
    # boto3 names the same headers IfMatch and Range.
    arguments = {header.replace("-", ""): value for header, value in headers.items()}
    answer = client.get_object(Bucket=bucket, Key=name, **arguments)
    about = answer["ResponseMetadata"]
    return about["HTTPStatusCode"], about["HTTPHeaders"], _Boto3Body(answer["Body"])


def _error_code(body: bytes) -> str:
    """S3's error code in the body, or an empty text."""
    # Beside errors of XML there are encodings that Python does not know, or does not take here.
    try:
        return ElementTree.fromstring(body).findtext("Code") or ""
    except (ElementTree.ParseError, LookupError, ValueError):
        return ""
