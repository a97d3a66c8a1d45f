"""The boto3 clients of this process, and what its requests to one bucket share.

Clients belong to the environment that they were made in; retry budget and number of requests at once belong to a
bucket, so that one in trouble takes nothing from another. A forked child starts with none of them, because sockets
and locks of the parent are of no use to it. Credentials are boto3's matter; a session that expired is replaced by a
fresh one, which reads files and environment again.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from trainplane.errors import UserError
from trainplane.storage.s3.fast_get import DIRECT, Direct
from trainplane.storage.s3.retry import RETRIES, Budget, Concurrency, RetryPolicy


class Session:
    """boto3's clients under one environment, one for each time that a store may be silent; safe between threads."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._session: Any = None
        self._clients: dict[float, Any] = {}

    def client(self, silence_s: float) -> Any:
        """The S3 client that waits so long for a byte, made at first use."""
        with self._lock:
            if silence_s not in self._clients:
                self._clients[silence_s] = self._new_client(silence_s)
            return self._clients[silence_s]

    def renew(self, expired: Any) -> None:
        """Forget the session whose client is given; the next one reads credentials anew."""
        with self._lock:
            # Many threads find the same session expired: only the first of them replaces it.
            if any(client is expired for client in self._clients.values()):
                self._session = None
                self._clients = {}

    def _new_client(self, silence_s: float) -> Any:
        config = Config(
            connect_timeout=self._policy.connect_timeout_s,
            read_timeout=silence_s,
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
            self._session = self._session or boto3.session.Session()
            client = self._session.client("s3", config=config)
        except (ValueError, BotoCoreError) as error:
            raise UserError(
                f"no S3 client can be made for {endpoint_in_words()} ({type(error).__name__}); "
                "check AWS_ENDPOINT_URL, AWS_PROFILE and the region in the environment"
            ) from error
        direct = Direct(
            client,
            self._session.get_credentials(),
            connect_s=self._policy.connect_timeout_s,
            silence_s=silence_s,
            most=int(Concurrency().most),
        )
        DIRECT[client] = direct
        weakref.finalize(client, direct.close)
        return client


class Connection:
    """The way to one bucket: its session, its retry budget and its number of requests at once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._turn_free = threading.Condition(self._lock)
        self._budget = Budget()
        self._concurrency = Concurrency()
        self._under_way = 0

    @contextmanager
    def turn(self) -> Iterator[int]:
        """Wait until one more request may be under way, and count it while it is. Gives the round it began in."""
        with self._turn_free:
            self._turn_free.wait_for(lambda: self._under_way < int(self._concurrency.allowed))
            self._under_way += 1
            begun_in = self._concurrency.round
        try:
            yield begun_in
        finally:
            with self._turn_free:
                self._under_way -= 1
                self._turn_free.notify()

    def succeeded(self) -> None:
        with self._turn_free:
            self._budget = self._budget.after_success()
            self._concurrency = self._concurrency.after_success()
            self._turn_free.notify()

    def slow_down(self, begun_in: int) -> None:
        with self._lock:
            self._concurrency = self._concurrency.after_slow_down(begun_in)

    def take_retry(self, *, by_choice: bool = False) -> bool:
        """Whether the budget has a retry left, or plenty where it is no need; it is taken."""
        with self._lock:
            if self._budget.spent or (by_choice and not self._budget.plentiful):
                return False
            self._budget = self._budget.after_retry()
            RETRIES.add_one()
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
_sessions: dict[tuple[object, ...], Session] = {}
_connections: dict[tuple[object, ...], Connection] = {}
_lock = threading.Lock()


def connection(bucket: str, policy: RetryPolicy) -> Connection:
    """This process's connection to a bucket under the present environment."""
    environment = (policy, *(os.environ.get(name) for name in _ENVIRONMENT))
    with _lock:
        if (bucket, *environment) not in _connections:
            session = _sessions.setdefault(environment, Session(policy))
            _connections[(bucket, *environment)] = Connection(session)
        return _connections[(bucket, *environment)]


def _forget_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    _sessions.clear()
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
