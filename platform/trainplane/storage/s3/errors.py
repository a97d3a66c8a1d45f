"""Classification of failed S3 requests. Pure: no I/O."""

from __future__ import annotations

import enum
import errno
import re
import socket
import ssl
from http.client import HTTPException

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
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
from botocore.exceptions import SSLError as BotoSSLError
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
    """The answer is none of an S3 store."""


class Reaction(enum.Enum):
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
    "SlowDown": Reaction.SLOW_DOWN,
    "TooManyRequests": Reaction.SLOW_DOWN,
    "RequestLimitExceeded": Reaction.SLOW_DOWN,
    "RequestTimeout": Reaction.RETRY,
    "InternalError": Reaction.RETRY,
    "BadDigest": Reaction.RETRY,  # damaged on the way to the store
    "IncompleteBody": Reaction.RETRY,
    "ConditionalRequestConflict": Reaction.RETRY,
    "OperationAborted": Reaction.RETRY,
    "ExpiredToken": Reaction.RENEW_SESSION,
    "ExpiredTokenException": Reaction.RENEW_SESSION,
    "TokenRefreshRequired": Reaction.RENEW_SESSION,
    "RequestExpired": Reaction.RENEW_SESSION,
    "NoSuchKey": Reaction.NOT_FOUND,
    "NoSuchUpload": Reaction.NOT_FOUND,
    "NoSuchBucket": Reaction.NO_BUCKET,
    "PreconditionFailed": Reaction.PRECONDITION,
    "InvalidRange": Reaction.PAST_END,
    "NotImplemented": Reaction.NOT_IMPLEMENTED,
}
# Statuses without which an answer does not say this, whatever its body says.
_STATUS_OF = {Reaction.NOT_FOUND: 404, Reaction.NO_BUCKET: 404, Reaction.PRECONDITION: 412, Reaction.PAST_END: 416}
# boto3 gives the status 500 to an upload's error that came with status 200.
_OF_UPLOADS = {"PreconditionFailed", "NoSuchUpload"}
# HEAD answers carry no code, only a status.
_BY_STATUS = {
    400: Reaction.FATAL,
    403: Reaction.FORBIDDEN,
    404: Reaction.NOT_FOUND,
    409: Reaction.RETRY,
    412: Reaction.PRECONDITION,
    416: Reaction.PAST_END,
    429: Reaction.SLOW_DOWN,
    501: Reaction.NOT_IMPLEMENTED,
    503: Reaction.SLOW_DOWN,
}


def classify(error: Exception) -> Reaction:
    """Kind of a failed request."""
    if isinstance(error, SlowBody):
        return Reaction.RECONNECT
    if isinstance(error, ClientError):
        code = code_of(error)
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        # An expired token shows as a bare 400 in the answer to a HEAD.
        if code == "400":
            return Reaction.RENEW_SESSION
        if code in _BY_CODE:
            kind = _BY_CODE[code]
            is_said = status in (0, _STATUS_OF.get(kind, status)) or (status == 500 and code in _OF_UPLOADS)
            return kind if is_said else Reaction.RETRY
        return _BY_STATUS.get(status, Reaction.RETRY if status >= 500 else Reaction.FATAL)
    if isinstance(error, _CREDENTIAL_ERRORS):
        return Reaction.NO_CREDENTIALS
    network_errors = (HTTPClientError, BotoConnectionError, IncompleteReadError, HTTPError, HTTPException, OSError)
    if isinstance(error, (*network_errors, *_GARBLED)):
        return Reaction.RETRY
    return Reaction.FATAL


# A route or port that is not there.
_NETWORK_ERRNOS = {
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EADDRNOTAVAIL,
}


def is_outage(error: Exception) -> bool:
    """True where the store is away.

    That is: it says that it is in trouble, it refuses or drops connections, does not answer in time, or has no address.
    """
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        kind = classify(error)
        return kind is Reaction.SLOW_DOWN or (kind is Reaction.RETRY and status >= 500)
    # A certificate or an answer that is wrong stays so.
    if isinstance(error, (ShortBody, SlowBody, NotS3, ssl.SSLError, BotoSSLError)):
        return False
    if isinstance(error, (BotoConnectionError, ConnectionClosedError, HTTPError)) or is_timeout(error):
        return True
    return isinstance(error, (ConnectionError, socket.gaierror)) or (
        isinstance(error, OSError) and error.errno in _NETWORK_ERRNOS
    )


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
