"""Client of MLflow that never blocks for minutes.

A dead server costs MLflow's own retry policy 246 s a call (mlflow 3.17.2: 7 retries, back-off 2). Here a call gives up
within seconds, and the caller decides; a user's own environment variables still win. MLflow is imported inside
functions because the import takes seconds. Records are sent by `spool.upload`.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from trainplane.collector import collector_off
from trainplane.command_line import command_line
from trainplane.environ import preserved_variables
from trainplane.errors import CLI, RunFailed, UserError, error_line
from trainplane.tracking.answer_limits import limit_answers
from trainplane.tracking.answers import NOT_MLFLOW, CheckedClient, SearchPages
from trainplane.tracking.local.database import SQLITE, database_path, make_database, with_lock_timeout
from trainplane.tracking.local.moved import follow_move
from trainplane.tracking.variables import without_values

_CONNECT_S = 5.0
_REASON_CHARACTERS = 300
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # It would print an address on standard output, where one JSON object is promised.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A busy server may ask for an hour; the uploader has its own rule for when to try again.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
# Answers that waiting does not change: a wrong address or password.
_REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND"}
# Answers of MLflow itself to a value that it will never accept, and the words by which its client tells a gateway's.
_VALUE_REFUSALS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
_BY_GATEWAY = "failed with error code"


class TrackingServer:
    """One MLflow server, or SQLite store, with its client.

    Creating one contacts nothing. Pickling keeps the address alone, and a forked process makes its own client.

    Attributes:
        address: `http(s)://…` or `sqlite:///…`; it may hold a password, so messages show `public_address`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._may_create = True
        self._client: Any = None
        self._client_pid = 0

    def __repr__(self) -> str:
        return f"TrackingServer({self.public_address!r})"

    def __reduce__(self) -> tuple[type[TrackingServer], tuple[str]]:
        return TrackingServer, (self.address,)

    @property
    def public_address(self) -> str:
        """The address without user, password and query."""
        return without_secrets(self.address)

    @property
    def exists(self) -> bool:
        """False for a SQLite database not made yet."""
        return not self.address.startswith(SQLITE) or database_path(self.address).exists()

    def only_read(self) -> None:
        """Makes no database from now on, for commands that read."""
        self._may_create = False

    @property
    def client(self) -> Any:
        """Client of runs and registry, one in each process.

        It outlives an outage of its server. A SQLite database that is damaged, or locked for too long, raises
        `MlflowException`; the next use tries again. One that is not there and may not be made raises `UserError`.
        """
        if not self._may_create and not self.exists:
            raise UserError(
                f"nothing is recorded here yet ({database_path(self.address)} is not there); "
                f"train a run first: {command_line('train', 'demo')}"
            )
        if self._client is None or self._client_pid != os.getpid():
            self._client, self._client_pid = _make_client(self.address), os.getpid()
        return self._client

    def knock(self, *, timeout_s: float = _CONNECT_S) -> None:
        """Raises `OSError` within seconds if no server listens.

        A silent host would cost the time limit of a whole request. SQLite and proxies are not checked.
        """
        parts = urlsplit(self.address)
        if parts.scheme in ("http", "https") and parts.hostname and not _goes_through_proxy(parts.scheme):
            port = parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection((parts.hostname, port), timeout=timeout_s).close()

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Makes this MLflow's default server during the block.

        For the few calls that ignore their client's address (mlflow 3.17.2: resolving `models:/…`). Not for two threads
        at once.
        """
        quiet_mlflow()
        import mlflow

        tracking_before, registry_before = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_REGISTRY_URI", "")
        # MLflow sets both variables for child processes, which would then use a registry that no user named.
        with preserved_variables("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
            mlflow.set_tracking_uri(self.address)
            mlflow.set_registry_uri(self.address)
            try:
                yield
            finally:
                mlflow.set_tracking_uri(tracking_before)
                mlflow.set_registry_uri(registry_before)

    def unreachable(self, error: Exception) -> UserError | RunFailed:
        """Error for an unanswered or refused request, without secrets."""
        where, why = self.public_address, reason(error)
        if is_value_refused(error):
            return RunFailed(
                f"MLflow at {where} answers, and refused a value of this record ({why}); neither the server nor its "
                f"address is at fault: it is a bug of {CLI}, please report this line"
            )
        is_login_refused = is_refusal(error) and NOT_MLFLOW not in str(error)
        if is_login_refused and getattr(error, "error_code", "") != "ENDPOINT_NOT_FOUND":
            return UserError(
                f"the tracking address {where} does not let us in ({why}); give MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, among the secrets of the context"
            )
        return UserError(
            f"the tracking address {where} does not answer as MLflow ({why}); "
            "start the server, or correct the tracking address of the context"
        )


def quiet_mlflow() -> None:
    """Sets MLflow's unset environment variables, before its first import."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@collector_off()
def _make_client(address: str) -> Any:
    # Creates the client. Errors of SQLAlchemy become `MlflowException`, like those of a server.
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # A new database logs each table; each retry against a dead server, and each odd answer, is a warning.
    for logger_name in ("alembic", "urllib3.connectionpool", "urllib3.connection", "mlflow.exceptions"):
        logging.getLogger(logger_name).setLevel(logging.ERROR)
    # It logs a screen of traceback on a full disk, and raises the same error, which the caller reports.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    patient_address = with_lock_timeout(address)
    try:
        make_database(address)
        if address.startswith(SQLITE):
            follow_move(database_path(address))
        client = MlflowClient(tracking_uri=patient_address, registry_uri=patient_address)
        # A database of this machine gives what MLflow stored there.
        if address.startswith(SQLITE):
            return client
        limit_answers()
        return CheckedClient(client)
    except SQLAlchemyError as error:
        raise MlflowException(reason(error)) from error


def _goes_through_proxy(scheme: str) -> bool:
    return any(os.environ.get(name) for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "ALL_PROXY"))


def is_refusal(error: Exception) -> bool:
    """Tells if the server refused for good."""
    # A wrong address, a wrong password, or no MLflow: waiting does not change these.
    return getattr(error, "error_code", None) in _REFUSALS or NOT_MLFLOW in str(error)


def is_value_refused(error: Exception) -> bool:
    """Tells if MLflow itself refused a value for good."""
    # Other kinds of its exceptions are about addresses, such as one of an unknown scheme.
    is_answer = type(error).__name__ in ("MlflowException", "RestException")
    is_gateway = any(words in str(error) for words in (_BY_GATEWAY, NOT_MLFLOW))
    return is_answer and not is_gateway and getattr(error, "error_code", None) in _VALUE_REFUSALS


def pyfunc() -> Any:
    """Imports `mlflow.pyfunc` without warnings about its types (mlflow 3.17.2)."""
    quiet_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
    return mlflow.pyfunc


def set_with_retry(setter: Callable[..., Any], *arguments: Any) -> None:
    """Calls a setter of the registry, twice if necessary."""
    # The second time if another process created the row first. MLflow looks for the row and then inserts it (3.17.2),
    # so of two first calls at once its database refuses one.
    from mlflow.exceptions import MlflowException

    try:
        setter(*arguments)
    except MlflowException as error:
        if not re.search("unique|duplicate", str(error), re.IGNORECASE):
            raise
        setter(*arguments)


def all_pages(search: Callable[..., Any], **arguments: Any) -> list[Any]:
    """Results of all pages of one of MLflow's searches."""
    results: list[Any] = []
    pages = SearchPages()
    token = None
    while True:
        page = search(page_token=token, **arguments)
        pages.check(page)
        results += page
        token = page.token
        if not token:
            return results


def without_secrets(address: str) -> str:
    """Removes user, password and query from an address."""
    return re.sub(r"//[^/@\s]*@", "//", address).partition("?")[0]


def reason(error: Exception) -> str:
    """First line of an error, without secrets."""
    return without_values(without_secrets(error_line(error)))[:_REASON_CHARACTERS]
