"""A GET of a range, signed once for minutes and sent by urllib3: botocore's public signer, and no more of it.

`get_object` takes four times the processor time: validation, signing, serializing, hooks and parsing for each request,
which a reader pays every few pictures. A signature covers the object's address and the time, not the range, so it
serves every range of a shard until it grows old. What is not a plain answer is still boto3's matter, and so is
everything where a plain request may not be enough: no credentials, a proxy, a bucket named by an ARN, a certificate
that is not trusted here. Not covered: receiving the body (reading.py), trying again (requesting.py).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from weakref import WeakKeyDictionary
from xml.etree import ElementTree

import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError
from botocore.utils import get_environ_proxies

# Answers that name the region or the endpoint to ask instead.
_ELSEWHERE_STATUSES = (301, 302, 307, 308)
_ELSEWHERE_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
# Refusals of what is our own here, the signature: boto3 may know better.
_SIGNATURE_CODES = ("SignatureDoesNotMatch", "RequestTimeTooSkewed", "InvalidRequest", "MissingSecurityHeader")

_SIGNED_FOR_S = 240.0  # S3 takes a signature for fifteen minutes
_MOST_SIGNATURES = 4096


class Direct:
    """Requests beside a boto3 client, with its endpoint, region and credentials."""

    def __init__(self, client: Any, credentials: Any, *, connect_s: float, silence_s: float, most: int) -> None:
        self._region = client.meta.region_name
        self._agent = client.meta.config.user_agent
        self._credentials = credentials
        self._lock = threading.Lock()
        self._urls: dict[str, str] = {}
        self._signed: dict[str, tuple[float, Any, dict[str, str]]] = {}
        self._pool = urllib3.PoolManager(
            maxsize=most,
            timeout=urllib3.Timeout(connect=connect_s, read=silence_s),
            retries=False,
            ca_certs=os.environ.get("AWS_CA_BUNDLE"),
        )

    def send(self, client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> Any:
        """urllib3's response, its body not yet read; None where this is boto3's matter."""
        if self._credentials is None or ":" in bucket:
            return None
        url = self._bucket_url(client, bucket) + quote(name, safe="/~")
        if url.startswith("/"):
            return None
        headers = {"User-Agent": self._agent, **self._signature(url), **wanted}
        try:
            return self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        except urllib3.exceptions.SSLError:
            # boto3 has certificates of its own, and may be told of others.
            self._credentials = None
            return None

    def _bucket_url(self, client: Any, bucket: str) -> str:
        """Where the client finds a bucket's objects, by host name or by path; "/" where a proxy stands before it."""
        if bucket not in self._urls:
            signed: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
            url = signed.partition("?")[0].removesuffix("k")
            scheme = urlsplit(url).scheme
            self._urls[bucket] = "/" if scheme in get_environ_proxies(url) else url
        return self._urls[bucket]

    def _signature(self, url: str) -> dict[str, str]:
        """The headers that make a GET of this object, or any range of it, ours."""
        credentials = self._credentials.get_frozen_credentials()
        now = time.monotonic()
        with self._lock:
            made, made_with, headers = self._signed.get(url, (0.0, None, {}))
            if made_with == credentials and now - made < _SIGNED_FOR_S:
                return headers
        request = AWSRequest("GET", url)
        S3SigV4Auth(credentials, "s3", self._region).add_auth(request)
        headers = dict(request.headers.items())
        with self._lock:
            if len(self._signed) >= _MOST_SIGNATURES:
                self._signed.clear()
            self._signed[url] = (now, credentials, headers)
        return headers


DIRECT: WeakKeyDictionary[Any, Direct] = WeakKeyDictionary()
"""Beside which boto3 client requests may be sent without it."""


def get_range(client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    """The headers, found by their names in small letters, and the body of an object's range.

    The body is a context manager with `read1`. `wanted` are the request's headers: Range, and If-Match where there is
    a condition. Raises `ClientError` with the store's code and status, as boto3 does, and what urllib3 raises.
    """
    direct = DIRECT.get(client)
    answer = direct.send(client, bucket, name, wanted) if direct else None
    if answer is None:
        return _by_boto3(client, bucket, name, wanted)
    if answer.status in (200, 206):
        return answer.headers, Body(answer)
    code = _code_in(answer.data)
    if answer.status in _ELSEWHERE_STATUSES or code in _ELSEWHERE_CODES + _SIGNATURE_CODES:
        return _by_boto3(client, bucket, name, wanted)
    status = {"HTTPStatusCode": answer.status}
    raise ClientError({"Error": {"Code": code or str(answer.status)}, "ResponseMetadata": status}, "GetObject")


class Body:
    """An answer's bytes as they come. Read to its end the connection serves again; left early it is closed."""

    def __init__(self, answer: urllib3.BaseHTTPResponse) -> None:
        self._answer = answer
        self._ended = False

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None:
        if self._answer.length_remaining == 0 or self._ended:
            self._answer.release_conn()
        else:
            self._answer.close()

    def read1(self, amount: int) -> bytes:
        """What there is, `amount` bytes at most; empty at the end."""
        chunk = self._answer.read1(amount)
        self._ended = not chunk
        return chunk


class StreamedBody:
    """The same of boto3's stream, which waits for as much as it is asked for: so little at a time."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> StreamedBody:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read1(self, amount: int) -> bytes:
        return bytes(self._stream.read(min(amount, 16 * 1024)))


def _by_boto3(client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    arguments = {header.replace("-", ""): value for header, value in wanted.items()}
    answer = client.get_object(Bucket=bucket, Key=name, **arguments)
    return answer["ResponseMetadata"]["HTTPHeaders"], StreamedBody(answer["Body"])


def _code_in(body: bytes) -> str:
    """S3's name for what is wrong; empty where the body does not say."""
    try:
        return ElementTree.fromstring(body).findtext("Code") or ""
    except ElementTree.ParseError:
        return ""
