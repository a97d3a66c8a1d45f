"""Classification of failed S3 requests. Pure: no I/O."""

from __future__ import annotations

import enum
import re
from http.client import HTTPException

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    RefreshWithMFAUnsupportedError,
    SSOError,
    TokenRetrievalError,
    UnknownCredentialError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.exceptions import ReadTimeoutError as BotoReadTimeoutError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError, ReadTimeoutError

# An answer damaged on the way: an invalid date or number, a missing field, an unknown encoding. Botocore lets all pass.
_GARBLED = (ResponseParserError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)
# A sign-in that a person must renew.
SIGN_IN_ERRORS = (SSOError, LoginError, NoAuthTokenError, TokenRetrievalError, RefreshWithMFAUnsupportedError)
_CREDENTIAL_ERRORS = (
    *SIGN_IN_ERRORS,
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    MetadataRetrievalError,
    UnknownCredentialError,
    ProfileNotFound,
)
# S3's error codes; a text of a gateway in their place says nothing.
_CODE = re.compile(r"[A-Za-z0-9_.]{1,64}")
# All errors of a request. Those of HTTP and of the system are raised below botocore while a body is read.
REQUEST_ERRORS = (ClientError, BotoCoreError, HTTPError, HTTPException, OSError, *_GARBLED)


class ShortBody(OSError):
    """The body is too short, or belongs to another range."""


class SlowBody(OSError):
    """The body comes too slowly: another connection may be better."""


class NotS3(OSError):
    """The answer is no S3 store's, but perhaps a web page."""


class ErrorKind(enum.Enum):
    """Reaction that a failed request needs."""

    RETRY = "retry"
    RECONNECT = "retry over another connection"
    SLOW_DOWN = "slow down"
    RENEW_SESSION = "renew session"
    NOT_FOUND = "not found"
    NO_BUCKET = "no bucket"
    PRECONDITION = "precondition failed"
    PAST_END = "past the end"
    FORBIDDEN = "forbidden"
    NO_CREDENTIALS = "no credentials"
    NOT_IMPLEMENTED = "not implemented"
    FATAL = "fatal"


_BY_CODE = {
    "SlowDown": ErrorKind.SLOW_DOWN,
    "TooManyRequests": ErrorKind.SLOW_DOWN,
    "RequestLimitExceeded": ErrorKind.SLOW_DOWN,
    "RequestTimeout": ErrorKind.RETRY,
    "InternalError": ErrorKind.RETRY,
    "BadDigest": ErrorKind.RETRY,  # damaged on the way to the store
    "IncompleteBody": ErrorKind.RETRY,
    "ConditionalRequestConflict": ErrorKind.RETRY,
    "OperationAborted": ErrorKind.RETRY,
    "ExpiredToken": ErrorKind.RENEW_SESSION,
    "ExpiredTokenException": ErrorKind.RENEW_SESSION,
    "TokenRefreshRequired": ErrorKind.RENEW_SESSION,
    "RequestExpired": ErrorKind.RENEW_SESSION,
    "NoSuchKey": ErrorKind.NOT_FOUND,
    "NoSuchUpload": ErrorKind.NOT_FOUND,
    "NoSuchBucket": ErrorKind.NO_BUCKET,
    "PreconditionFailed": ErrorKind.PRECONDITION,
    "InvalidRange": ErrorKind.PAST_END,
    "NotImplemented": ErrorKind.NOT_IMPLEMENTED,
}
# HEAD answers carry no code, only a status.
_BY_STATUS = {
    400: ErrorKind.FATAL,
    403: ErrorKind.FORBIDDEN,
    404: ErrorKind.NOT_FOUND,
    409: ErrorKind.RETRY,
    412: ErrorKind.PRECONDITION,
    416: ErrorKind.PAST_END,
    429: ErrorKind.SLOW_DOWN,
    501: ErrorKind.NOT_IMPLEMENTED,
    503: ErrorKind.SLOW_DOWN,
}


def classify(error: Exception) -> ErrorKind:
    """Kind of a failed request."""
    if isinstance(error, SlowBody):
        return ErrorKind.RECONNECT
    if isinstance(error, ClientError):
        code = code_of(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        # An expired token shows as a bare 400 in the answer to a HEAD.
        if code == "400":
            return ErrorKind.RENEW_SESSION
        if code in _BY_CODE:
            return _BY_CODE[code]
        return _BY_STATUS.get(status, ErrorKind.RETRY if status >= 500 else ErrorKind.FATAL)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return ErrorKind.NO_CREDENTIALS
    network_errors = (HTTPClientError, BotoConnectionError, IncompleteReadError, HTTPError, HTTPException, OSError)
    if isinstance(error, (*network_errors, *_GARBLED)):
        return ErrorKind.RETRY
    return ErrorKind.FATAL


def is_timeout(error: Exception) -> bool:
    """True where the store sent nothing in time."""
    return isinstance(error, (BotoReadTimeoutError, ReadTimeoutError, TimeoutError))


def error_name(error: Exception) -> str:
    """S3's error code, or the exception's type."""
    # Never the error's text, which may quote a request.
    return (code_of(error) or "unnamed error") if isinstance(error, ClientError) else type(error).__name__


def code_of(error: ClientError) -> str:
    """S3's error code, else the status, else an empty text."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    if _CODE.fullmatch(code):
        return code
    return str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
