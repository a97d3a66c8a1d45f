"""A GET of a range, signed once for minutes by botocore's public signer and sent over connections of our own.

`get_object` takes four times the processor time: validation, signing, serializing, hooks and parsing for each request,
and copies of the body, which a reader pays every few pictures. A signature covers the object's address and the time,
not the range, so it serves every range of a shard until it grows old. What is not a plain answer is still boto3's
matter, and so is everything where a plain request may not be enough: no credentials, a proxy, a bucket named by an ARN,
a certificate that is not trusted here. Not covered: receiving the body (reading.py), trying again (requesting.py).
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

from trainplane.storage.s3.http_pool import Answer, Wire

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
        self._urls: dict[str, str | None] = {}
        self._signed: dict[str, tuple[float, Any, dict[str, str]]] = {}
        self._wire = Wire(connect_s=connect_s, silence_s=silence_s, most=most)

    def send(self, client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> Answer | None:
        """The answer, its body not yet read; None where this is boto3's matter."""
        if self._credentials is None or ":" in bucket:
            return None
        prefix = self._bucket_url(client, bucket)
        if prefix is None:
            return None
        url = prefix + quote(name, safe="/~")
        headers = {"User-Agent": self._agent, **self._signature(url), **wanted}
        try:
            return self._wire.get(urlsplit(url), headers)
        except ssl.SSLCertVerificationError:
            # boto3 has certificates of its own, and may be told of others.
            self._credentials = None
            return None

    def close(self) -> None:
        """End the connections that nobody uses."""
        self._wire.close()

    def _bucket_url(self, client: Any, bucket: str) -> str | None:
        """Where the client finds a bucket's objects, by host name or by path; None where boto3 goes another way."""
        if bucket not in self._urls:
            signed: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
            url = signed.partition("?")[0].removesuffix("k")
            parts = urlsplit(url)
            ours = parts.scheme not in get_environ_proxies(url) and parts.username is None
            self._urls[bucket] = url if ours else None
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

    The body is a context manager with `read1` and `readinto`. `wanted` are the request's headers: Range, and If-Match
    where there is a condition. Raises `ClientError` with the store's code and status, as boto3 does, and whatever
    `Wire.get` and boto3 raise.
    """
    direct = DIRECT.get(client)
    answer = direct.send(client, bucket, name, wanted) if direct else None
    if answer is None:
        return _by_boto3(client, bucket, name, wanted)
    if answer.status in (200, 206):
        return answer.headers, answer
    with answer:
        code = _code_in(answer.error_body())
    if answer.status in _ELSEWHERE_STATUSES or code in _ELSEWHERE_CODES + _SIGNATURE_CODES:
        return _by_boto3(client, bucket, name, wanted)
    status = {"HTTPStatusCode": answer.status}
    raise ClientError({"Error": {"Code": code or str(answer.status)}, "ResponseMetadata": status}, "GetObject")


class _Streamed:
    """boto3's stream as a body."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __enter__(self) -> _Streamed:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read1(self, amount: int) -> bytes:
        # It waits for as much as it is asked for.
        return bytes(self._stream.read(min(amount, 16 * 1024)))

    def readinto(self, memory: memoryview) -> int:
        data = self._stream.read(len(memory))
        memory[: len(data)] = data
        return len(data)


def _by_boto3(client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    arguments = {header.replace("-", ""): value for header, value in wanted.items()}
    answer = client.get_object(Bucket=bucket, Key=name, **arguments)
    return answer["ResponseMetadata"]["HTTPHeaders"], _Streamed(answer["Body"])


def _code_in(body: bytes) -> str:
    """S3's name for what is wrong; empty where the body does not say."""
    try:
        return ElementTree.fromstring(body).findtext("Code") or ""
    except ElementTree.ParseError:
        return ""
