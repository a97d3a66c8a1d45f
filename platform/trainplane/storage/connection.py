"""The boto3 client of this process, and what an answer of S3 means for the next attempt.

One connection per process and environment: it holds the client, the retry budget and the number of requests allowed
at once. A forked child starts with none, because sockets and locks of the parent are of no use to it. Credentials
are boto3's matter; a session that expired is replaced by a fresh one, which reads files and environment again.
"""

from __future__ import annotations

import enum
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
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
from botocore.parsers import ResponseParserError

from trainplane.errors import UserError
from trainplane.storage.retry import Budget, Concurrency, RetryPolicy

# What a request can fail with. `OSError` is what a socket raises below botocore while a body is read.
REQUEST_ERRORS = (ClientError, BotoCoreError, ResponseParserError, OSError)


class Meaning(enum.Enum):
    """What a failed request asks of us."""

    AGAIN = "again"
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
    """PURE: what this failure asks of us."""
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
    if isinstance(error, (HTTPClientError, BotoConnectionError, IncompleteReadError, ResponseParserError, OSError)):
        return Meaning.AGAIN
    return Meaning.HOPELESS


def name_of(error: Exception) -> str:
    """The failure's short name: S3's code or the exception's type. Never its text, which may quote a request."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "")) or "unnamed error"
    return type(error).__name__


class Connection:
    """A client with its budget and its number of requests at once; safe between threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._turn_free = threading.Condition(self._lock)
        self._client: Any = None
        self._budget = Budget()
        self._concurrency = Concurrency()
        self._under_way = 0

    def client(self) -> Any:
        """boto3's S3 client, made at first use."""
        with self._lock:
            if self._client is None:
                self._client = _new_client(self._policy)
            return self._client

    def start_fresh_session(self) -> None:
        """Forget the client with its credentials; the next one reads them anew."""
        with self._lock:
            self._client = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until one more request may be under way, and count it while it is."""
        with self._turn_free:
            self._turn_free.wait_for(lambda: self._under_way < int(self._concurrency.allowed))
            self._under_way += 1
        try:
            yield
        finally:
            with self._turn_free:
                self._under_way -= 1
                self._turn_free.notify()

    def succeeded(self) -> None:
        with self._turn_free:
            self._budget = self._budget.after_success()
            self._concurrency = self._concurrency.after_success()
            self._turn_free.notify()

    def slow_down(self) -> None:
        with self._lock:
            self._concurrency = self._concurrency.after_slow_down()

    def take_retry(self) -> bool:
        """Whether the budget has a retry left; it is taken."""
        with self._lock:
            if self._budget.spent:
                return False
            self._budget = self._budget.after_retry()
            return True


# Everything outside the store's address that decides which service is spoken to and as whom.
_ENVIRONMENT = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_PROFILE",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
_connections: dict[tuple[object, ...], Connection] = {}
_connections_lock = threading.Lock()


def connection(policy: RetryPolicy) -> Connection:
    """This process's connection under the present environment."""
    key = (policy, *(os.environ.get(name) for name in _ENVIRONMENT))
    with _connections_lock:
        if key not in _connections:
            _connections[key] = Connection(policy)
        return _connections[key]


def _forget_in_child() -> None:
    global _connections_lock
    _connections_lock = threading.Lock()
    _connections.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def endpoint_in_words() -> str:
    """Host and port of the endpoint, without a user or password that its URL may carry."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if not url:
        return "Amazon S3"
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname or 'an unreadable AWS_ENDPOINT_URL'}" + (f":{port}" if port else "")


def _new_client(policy: RetryPolicy) -> Any:
    config = Config(
        connect_timeout=policy.connect_timeout_s,
        read_timeout=policy.read_timeout_s,
        max_pool_connections=int(Concurrency().most),
        # Retries are decided in retry.py alone: two layers would multiply.
        retries={"total_max_attempts": 1, "mode": "standard"},
        # Older gateways refuse the checksum trailers that are newer than they are; digests are checked by readers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Stores behind an endpoint of their own seldom have a DNS name for each bucket.
        s3={"addressing_style": "path"} if endpoint_in_words() != "Amazon S3" else {},
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except (ValueError, BotoCoreError) as error:
        raise UserError(
            f"no S3 client can be made for {endpoint_in_words()} ({type(error).__name__}); "
            "check AWS_ENDPOINT_URL, AWS_PROFILE and the region in the environment"
        ) from error
