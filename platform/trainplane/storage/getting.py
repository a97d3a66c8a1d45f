"""A GET of a range through a boto3 client's own parts: its endpoint, its signer, its HTTP session, and no more.

`get_object` takes two to three times the processor time: validation, serializing, hooks and parsing for each request,
which a reader of small samples pays every few pictures. What is not a plain answer is still boto3's matter: a bucket
of another region is asked for by `get_object`, which follows it. Not covered: receiving the body (reading.py), trying
again (requesting.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError

# Answers that name the region or the endpoint to ask instead.
_ELSEWHERE_STATUSES = (301, 302, 307, 308)
_ELSEWHERE_CODES = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")


def get_range(client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    """The headers, found by their names in small letters, and the body (urllib3's response) of an object's range.

    `wanted` are the request's headers: Range, and If-Match where there is a condition. Raises `ClientError` with the
    store's code and status, as boto3 does, and whatever boto3's HTTP session raises.
    """
    headers = {"User-Agent": client.meta.config.user_agent, **wanted}
    request = AWSRequest("GET", _bucket_url(client, bucket) + quote(name, safe="/~"), headers, stream_output=True)
    # Neither has a public name; the two are what every call of a client goes through (botocore/client.py).
    client._request_signer.sign("GetObject", request)
    answer = client._endpoint.http_session.send(request.prepare())
    if answer.status_code in (200, 206):
        return answer.headers, answer.raw
    code = _code_in(answer.content)
    if answer.status_code in _ELSEWHERE_STATUSES or code in _ELSEWHERE_CODES:
        return _by_boto3(client, bucket, name, wanted)
    status = {"HTTPStatusCode": answer.status_code}
    raise ClientError({"Error": {"Code": code or str(answer.status_code)}, "ResponseMetadata": status}, "GetObject")


@lru_cache(maxsize=32)
def _bucket_url(client: Any, bucket: str) -> str:
    """Where the client finds a bucket's objects, by host name or by path; ends in a slash."""
    signed: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    return signed.partition("?")[0].removesuffix("k")


def _by_boto3(client: Any, bucket: str, name: str, wanted: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
    arguments = {header.replace("-", ""): value for header, value in wanted.items()}
    answer = client.get_object(Bucket=bucket, Key=name, **arguments)
    return answer["ResponseMetadata"]["HTTPHeaders"], answer["Body"]._raw_stream


def _code_in(body: bytes) -> str:
    """S3's name for what is wrong; empty where the body does not say."""
    try:
        return ElementTree.fromstring(body).findtext("Code") or ""
    except ElementTree.ParseError:
        return ""
