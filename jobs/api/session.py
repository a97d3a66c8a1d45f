"""Prepares a process for calls of the API.

A call names its context: None for the default, a name of `isnet.toml`, or a `Context` that is open and activated.
What a call sets in the environment is taken back when it ends. Commands are prepared by the same functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from trainplane.cluster.context import Context, resolve
from trainplane.command_line import CONTEXT_VARIABLE
from trainplane.environ import child_environment, preserved_variables
from trainplane.passive_waiting import wait_passively
from trainplane.store_wait import VARIABLE, patience

# The context that `isnet stack up` writes.
STACK = "stack"
# Libraries read these at their import.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's own handler makes an interrupted search look finished.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    # MLflow reports its successes at level INFO.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


def prepare_process() -> None:
    """Sets what libraries of this process read at their import."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    wait_passively()


def open_context(name: str | None, *, is_recording: bool, checks_stack: bool = True) -> Context:
    """Resolves and activates a context.

    Args:
        name: As in `isnet.toml`; None for the default.
        is_recording: The call may make the database of a local context.
        checks_stack: Refuse the local stack where it is down.

    Raises:
        UserError: The context is unknown, or its stack is down.
    """
    context = resolve(name)
    context.activate()
    if context.name == STACK and checks_stack:
        from trainplane.cluster.stack.down import down_message
        from trainplane.errors import UserError

        if (message := down_message(context)) is not None:
            raise UserError(message)
    # Lines in messages name the context that was named here.
    if name is not None:
        os.environ[CONTEXT_VARIABLE] = context.name
    if not is_recording:
        context.tracking_server.only_read()
    return context


@contextmanager
def session(context: Context | str | None, *, is_recording: bool = False, is_long: bool = False) -> Iterator[Context]:
    """Opens the context of a call, for the block.

    Args:
        context: Name, or None for the default. An open `Context` is handed through as it is.
        is_recording: The call may make the database of a local context.
        is_long: The call waits for a store that is away, as long as the context says.
    """
    if isinstance(context, Context):
        yield context
        return
    prepare_process()
    variables = resolve(context).environment
    with preserved_variables(CONTEXT_VARIABLE, VARIABLE, *variables), child_environment():
        opened = open_context(context, is_recording=is_recording)
        with patience(is_long=is_long):
            yield opened
