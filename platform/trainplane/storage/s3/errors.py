"""PURE: what a failed request asks of us, and what it is called in a sentence."""

from __future__ import annotations

import enum
from http.client import HTTPException

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import ReadTimeoutError as BotoReadTimeoutError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, ReadTimeoutError

# An answer with bytes spoilt on the way: a date that is none, or a field that is missing. Botocore lets both pass.
_GARBLED = (ResponseParserError, ValueError, KeyError)
# What a request can fail with. HTTP's and the system's are raised below botocore while a body is read.
REQUEST_ERRORS = (ClientError, BotoCoreError, HTTPError, HTTPException, OSError, *_GARBLED)


class ShortBody(OSError):
    """The body ended before the range that was asked for, or is not of that range."""


class SlowBody(OSError):
    """The body comes too slowly: another connection may be better."""


class Meaning(enum.Enum):
    """What a failed request asks of us."""

    AGAIN = "again"
    ELSEWHERE = "over another connection"
    SLOW_DOWN = "slow down"
    FRESH_SESSION = "fresh session"
    ABSENT = "absent"
    NO_BUCKET = "no bucket"
    CONDITION = "condition failed"
    PAST_END = "past the end"
    FORBIDDEN = "forbidden"
    NO_CREDENTIALS = "no credentials"
    HOPELESS = "hopeless"


_BY_CODE = {
    "SlowDown": Meaning.SLOW_DOWN,
    "TooManyRequests": Meaning.SLOW_DOWN,
    "RequestLimitExceeded": Meaning.SLOW_DOWN,
    "RequestTimeout": Meaning.AGAIN,
    "InternalError": Meaning.AGAIN,
    "BadDigest": Meaning.AGAIN,  # damaged on the way to the store
    "IncompleteBody": Meaning.AGAIN,
    "ConditionalRequestConflict": Meaning.AGAIN,
    "OperationAborted": Meaning.AGAIN,
    "ExpiredToken": Meaning.FRESH_SESSION,
    "ExpiredTokenException": Meaning.FRESH_SESSION,
    "TokenRefreshRequired": Meaning.FRESH_SESSION,
    "RequestExpired": Meaning.FRESH_SESSION,
    "NoSuchKey": Meaning.ABSENT,
    "NoSuchUpload": Meaning.ABSENT,
    "NoSuchBucket": Meaning.NO_BUCKET,
    "PreconditionFailed": Meaning.CONDITION,
    "InvalidRange": Meaning.PAST_END,
}
# HEAD answers carry no code, only a status; an expired token shows as a bare 400 there.
_BY_STATUS = {
    400: Meaning.HOPELESS,
    403: Meaning.FORBIDDEN,
    404: Meaning.ABSENT,
    409: Meaning.AGAIN,
    412: Meaning.CONDITION,
    416: Meaning.PAST_END,
    429: Meaning.SLOW_DOWN,
    503: Meaning.SLOW_DOWN,
}


def meaning_of(error: Exception) -> Meaning:
    """What this failure asks of us."""
    if isinstance(error, SlowBody):
        return Meaning.ELSEWHERE
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code == "400":
            return Meaning.FRESH_SESSION
        if code in _BY_CODE:
            return _BY_CODE[code]
        return _BY_STATUS.get(status, Meaning.AGAIN if status >= 500 else Meaning.HOPELESS)
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError)):
        return Meaning.NO_CREDENTIALS
    over_the_wire = (HTTPClientError, BotoConnectionError, IncompleteReadError, HTTPError, HTTPException, OSError)
    if isinstance(error, (*over_the_wire, *_GARBLED)):
        return Meaning.AGAIN
    return Meaning.HOPELESS


def is_silence(error: Exception) -> bool:
    """Whether the store was waited for in vain."""
    return isinstance(error, (BotoReadTimeoutError, ReadTimeoutError, TimeoutError))


def name_of(error: Exception) -> str:
    """The failure's short name: S3's code or the exception's type. Never its text, which may quote a request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or "unnamed error"
    return type(error).__name__
