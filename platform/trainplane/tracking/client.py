"""The one door to MLflow: its client, with the settings under which it can neither block for minutes nor chatter.

A dead server costs MLflow's own retry policy 246 s a call (mlflow 3.17.2: 7 retries, back-off 2). Here a call gives
up within seconds and whoever called decides what to do next. A user's own environment variables still win. MLflow is
imported inside the function because the import takes seconds. Sending records is `drain`; this module sends nothing.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.environ import given_back
from trainplane.errors import UserError

_SQLITE_WAIT_S = 60
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # It would print an address on standard output, where one JSON object is promised.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    # A busy server may ask for an hour; when to try again is the sender's own rule.
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
_KNOCK_S = 5.0
# An answer that waiting does not change: a wrong address or password.
_REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED", "ENDPOINT_NOT_FOUND"}
_NOT_MLFLOW = "not in a valid JSON format"


def quiet_mlflow() -> None:
    """Environment that must stand before `mlflow` is first imported; values that are set already stay."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def client_for(tracking_uri: str) -> Any:
    """An `MlflowClient` whose runs and registry both live at `tracking_uri` (http(s)://… or sqlite:///…).

    A database that is locked for longer than we wait, or damaged, is an `MlflowException` like a server's own.
    """
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    # A new database announces itself table by table, and every retry of a dead server is a warning of its own.
    for chatty in ("alembic", "urllib3.connectionpool"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    # What it logs as an error, a screen of traceback on a full disk, it raises, too; whoever called tells it.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    uri = _patient(tracking_uri)
    try:
        _make_database(tracking_uri)
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except SQLAlchemyError as error:
        raise MlflowException(reason(error)) from error


def _patient(tracking_uri: str) -> str:
    """A SQLite address under which a writer waits for the others: Python's five seconds are too few for a search."""
    if tracking_uri.startswith("sqlite:///") and "?" not in tracking_uri:
        return f"{tracking_uri}?timeout={_SQLITE_WAIT_S}"
    return tracking_uri


def _make_database(tracking_uri: str) -> None:
    """Make a new SQLite store with its default experiment's artifacts beside it, not in the current folder."""
    path = Path(tracking_uri.removeprefix("sqlite:///").partition("?")[0])
    if not tracking_uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Two processes that make the tables at once fail both.
        with (path.parent / f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                SqlAlchemyStore(_patient(tracking_uri), str(path.parent.resolve() / "artifacts"))
    except OSError as error:
        raise UserError(f"{path}: cannot be made ({error.strerror}); set ISNET_HOME to a folder of yours") from error


def knock(tracking_uri: str, *, timeout_s: float = _KNOCK_S) -> None:
    """`OSError` within seconds where nobody listens; a host that is silent would cost a whole request's time."""
    parts = urlsplit(tracking_uri)
    if parts.scheme in ("http", "https") and parts.hostname and not _goes_through_proxy(parts.scheme):
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=timeout_s).close()


def _goes_through_proxy(scheme: str) -> bool:
    return any(os.environ.get(name) for name in (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "ALL_PROXY"))


def is_refusal(error: Exception) -> bool:
    """Whether somebody answered and waiting will not help: a wrong address, a wrong password, no MLflow at all."""
    return getattr(error, "error_code", None) in _REFUSALS or _NOT_MLFLOW in str(error)


def pyfunc() -> Any:
    """The module `mlflow.pyfunc`, imported without the warnings it gives about its own types (mlflow 3.17.2)."""
    quiet_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
    return mlflow.pyfunc


def set_anew(setter: Callable[..., Any], *arguments: Any) -> None:
    """Call a setter of the registry, and once more where another process made the same new row in between.

    MLflow looks for the row and then inserts it (3.17.2), so of two first ones at once its database refuses one.
    """
    from mlflow.exceptions import MlflowException

    try:
        setter(*arguments)
    except MlflowException as error:
        if not re.search("unique|duplicate", str(error), re.IGNORECASE):
            raise
        setter(*arguments)


@contextmanager
def as_default(tracking_uri: str) -> Iterator[None]:
    """Make `tracking_uri` MLflow's address of this process while the block runs.

    For the few calls that ignore their client's address and ask the process for one (mlflow 3.17.2: resolving
    `models:/…`). Not for use in two threads at once.
    """
    quiet_mlflow()
    import mlflow

    before, registry = mlflow.get_tracking_uri(), os.environ.get("MLFLOW_REGISTRY_URI", "")
    # MLflow sets both for child processes, which would then look into a registry that nobody named.
    with given_back("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
            mlflow.set_registry_uri(registry)


def all_pages(search: Any, **arguments: Any) -> list[Any]:
    """Everything that a paged search of MLflow finds."""
    found: list[Any] = []
    token = None
    while True:
        page = search(page_token=token, **arguments)
        found += page
        token = page.token
        if not token:
            return found


def without_secrets(tracking_uri: str) -> str:
    """The address as it may be shown: user, password and query are gone."""
    return re.sub(r"//[^/@\s]*@", "//", tracking_uri).partition("?")[0]


def unreachable(tracking_uri: str, error: Exception) -> UserError:
    """The sentence for a tracking address that does not answer; the reason is kept to one line without secrets."""
    where, why = without_secrets(tracking_uri), reason(error)
    if is_refusal(error) and _NOT_MLFLOW not in str(error) and getattr(error, "error_code", "") != "ENDPOINT_NOT_FOUND":
        return UserError(
            f"the tracking address {where} does not let us in ({why}); give MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, among the secrets of the context"
        )
    return UserError(
        f"the tracking address {where} does not answer as MLflow ({why}); "
        "start the server, or correct the tracking address of the context"
    )


def reason(error: Exception) -> str:
    """An error in one line, without secrets."""
    # SQLAlchemy says first what it was about to do, and then what went wrong.
    lines = [line for line in str(error).splitlines() if not line.startswith("(raised as a result of")]
    return without_secrets((lines or [type(error).__name__])[0])[:300]
