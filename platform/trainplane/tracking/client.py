"""The one door to MLflow: its client, with the settings under which it can neither block for minutes nor chatter.

A dead server costs MLflow's own retry policy 246 s a call (mlflow 3.17.2: 7 retries, back-off 2). Here a call gives
up within seconds and whoever called decides what to do next. A user's own environment variables still win. MLflow is
imported inside the function because the import takes seconds. Sending records is `drain`; this module sends nothing.
"""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trainplane.errors import UserError

_SQLITE_WAIT_S = 60
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


def quiet_mlflow() -> None:
    """Environment that must stand before `mlflow` is first imported; values that are set already stay."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def client_for(tracking_uri: str) -> Any:
    """An `MlflowClient` whose runs and registry both live at `tracking_uri` (http(s)://… or sqlite:///…)."""
    quiet_mlflow()
    from mlflow import MlflowClient

    # A new database announces itself table by table, and every retry of a dead server is a warning of its own.
    for chatty in ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    uri = _patient(tracking_uri)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _patient(tracking_uri: str) -> str:
    """A SQLite address under which a writer waits for the others: Python's five seconds are too few for a search."""
    if tracking_uri.startswith("sqlite:///") and "?" not in tracking_uri:
        return f"{tracking_uri}?timeout={_SQLITE_WAIT_S}"
    return tracking_uri


def pyfunc() -> Any:
    """The module `mlflow.pyfunc`, imported without the warnings it gives about its own types (mlflow 3.17.2)."""
    quiet_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.pyfunc
    return mlflow.pyfunc


@contextmanager
def as_default(tracking_uri: str) -> Iterator[None]:
    """Make `tracking_uri` MLflow's address of this process while the block runs.

    For the few calls that ignore their client's address and ask the process for one (mlflow 3.17.2: resolving
    `models:/…`). Not for use in two threads at once.
    """
    quiet_mlflow()
    import mlflow

    before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_registry_uri(tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before[0])
        mlflow.set_registry_uri(before[1])


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
    reason = without_secrets((str(error).splitlines() or [type(error).__name__])[0])
    return UserError(
        f"the tracking address {without_secrets(tracking_uri)} does not answer as MLflow ({reason[:300]}); "
        "start the server, or correct the tracking address of the context"
    )
