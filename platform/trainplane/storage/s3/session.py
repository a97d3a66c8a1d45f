"""boto3 clients of this process, and its state per bucket.

Clients belong to the environment variables under which they were created. Retry budget and concurrency limit belong to
a bucket, so that one in trouble takes nothing from another. A forked child starts with none of them, because sockets
and locks of the parent are of no use to it. boto3 finds the credentials; an expired session is replaced by a new one,
which reads files and environment again.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from trainplane.storage.s3.answers import check_answer
from trainplane.storage.s3.fast_get import DIRECT_CLIENTS, DirectClient
from trainplane.storage.s3.messages import AMAZON, VARIABLES, check_environment, endpoint_name, no_client
from trainplane.storage.s3.retry import RETRIES, ConcurrencyLimit, RetryBudget, RetryPolicy


class ClientCache:
    """boto3 clients of one environment, one per read timeout; thread-safe."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._lock = threading.Lock()
        self._session: Any = None
        # Host of the store, known with the first client: a profile may name it.
        self.endpoint = endpoint_name(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"))
        self._clients: dict[float, Any] = {}
        self.has_answered = False  # anything that only a store says

    def get(self, timeout_s: float) -> Any:
        """S3 client with this read timeout, created at first use."""
        with self._lock:
            if timeout_s not in self._clients:
                self._clients[timeout_s] = self._new_client(timeout_s)
            return self._clients[timeout_s]

    def discard(self, expired: Any) -> None:
        """Drops this client's session; the next reads credentials again."""
        with self._lock:
            # Many threads find the same session expired: only the first of them replaces it.
            if any(client is expired for client in self._clients.values()):
                self._session = None
                self._clients = {}

    def _new_client(self, timeout_s: float) -> Any:
        pool_size = int(ConcurrencyLimit().maximum)
        config = Config(
            connect_timeout=self._policy.connect_timeout_s,
            read_timeout=timeout_s,
            max_pool_connections=pool_size,
            # Retries are decided in retry.py alone: two layers would multiply.
            retries={"total_max_attempts": 1, "mode": "standard"},
            # Older gateways refuse the checksum trailers that are newer than they are; digests are checked by readers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        check_environment(os.environ)
        # They log tracebacks, of a sign-in that cannot be renewed and of damaged headers; their errors are told here.
        for name in ("botocore.credentials", "botocore.tokens", "urllib3.connection"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Stores behind a custom endpoint seldom have a DNS name for each bucket. A profile's endpoint shows later.
        by_path = config.merge(Config(s3={"addressing_style": "path"}))
        if self.endpoint != AMAZON:
            config = by_path
        # ValueError: an address of a server that is none.
        try:
            self._session = self._session or boto3.session.Session()
            client = self._session.client("s3", config=config)
            self.endpoint = endpoint_name(client.meta.endpoint_url)
            if self.endpoint != AMAZON and config is not by_path:
                client = self._session.client("s3", config=by_path)
            credentials = self._session.get_credentials()
        except (ValueError, BotoCoreError) as error:
            raise no_client(error, self.endpoint) from error
        client.meta.events.register("after-call.s3", _check_answer)
        # Ranges are read beside the boto3 client, over a pool that ends with it.
        direct = DirectClient(
            client,
            credentials,
            connect_s=self._policy.connect_timeout_s,
            timeout_s=timeout_s,
            pool_size=pool_size,
        )
        DIRECT_CLIENTS[client] = direct
        weakref.finalize(client, direct.close)
        return client


def _check_answer(http_response: Any, parsed: dict[str, Any], model: Any, **_: object) -> None:
    # Called by botocore with every answer.
    headers = {name.lower(): value for name, value in http_response.headers.items()}
    check_answer(model.name, http_response.status_code, headers, parsed)


class BucketState:
    """Shared clients, retry budget and concurrency limit of a bucket."""

    def __init__(self, clients: ClientCache) -> None:
        self.clients = clients
        self._lock = threading.Lock()
        self._slot_free = threading.Condition(self._lock)
        self._budget = RetryBudget()
        self._limit = ConcurrencyLimit()
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Waits for and holds a slot; gives the limit's `halvings`."""
        with self._slot_free:
            self._slot_free.wait_for(lambda: self._running < int(self._limit.allowed))
            self._running += 1
            started_at = self._limit.halvings
        try:
            yield started_at
        finally:
            with self._slot_free:
                self._running -= 1
                self._slot_free.notify()

    def record_success(self) -> None:
        """Refills the budget and raises the limit."""
        with self._slot_free:
            self.clients.has_answered = True
            self._budget = self._budget.after_success()
            self._limit = self._limit.after_success()
            # The raised limit may admit one more.
            self._slot_free.notify()

    def record_recovery(self) -> None:
        """Fills the budget again after an outage."""
        with self._lock:
            self._budget = RetryBudget()

    def slow_down(self, started_at: int) -> None:
        """Lowers the limit; `started_at` as in `ConcurrencyLimit.after_slow_down`."""
        with self._lock:
            self._limit = self._limit.after_slow_down(started_at)

    def take_retry(self, *, optional: bool = False) -> bool:
        """Takes one retry from the budget; False if none remains."""
        with self._lock:
            # Optional retries stop at half of the budget, to leave the other half for failures.
            if self._budget.exhausted or (optional and not self._budget.plentiful):
                return False
            self._budget = self._budget.after_retry()
            RETRIES.increment()
            return True


# The environment variables that select the service and the identity.
_ENVIRONMENT = (
    *VARIABLES,
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
_clients: dict[tuple[object, ...], ClientCache] = {}
_buckets: dict[tuple[object, ...], BucketState] = {}
_lock = threading.Lock()


def bucket_state(bucket: str, policy: RetryPolicy) -> BucketState:
    """State of a bucket under the current environment variables."""
    environment = (policy, *(os.environ.get(name) for name in _ENVIRONMENT))
    with _lock:
        if (bucket, *environment) not in _buckets:
            # Buckets of one environment share clients, hence connections.
            clients = _clients.setdefault(environment, ClientCache(policy))
            _buckets[(bucket, *environment)] = BucketState(clients)
        return _buckets[(bucket, *environment)]


def _reset_in_child() -> None:
    global _lock
    # The parent may have held the lock at the fork: the child's copy would never be released.
    _lock = threading.Lock()
    _clients.clear()
    _buckets.clear()


os.register_at_fork(after_in_child=_reset_in_child)
