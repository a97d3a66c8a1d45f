"""Recognises a context whose local stack is down."""

from __future__ import annotations

from trainplane.cluster.context import Context
from trainplane.cluster.ports import HOST
from trainplane.cluster.stack import supervisor
from trainplane.cluster.stack.layout import StackLayout
from trainplane.command_line import command_line


def down_message(context: Context) -> str | None:
    """Sentence for a context whose stack is down, else None.

    Reads the stack's state alone: no server is asked, so it takes milliseconds.
    """
    state = StackLayout(context.home / "stack").load()
    # Another cluster may have the same name.
    if "mlflow" not in state.ports or context.tracking != f"http://{HOST}:{state.ports['mlflow']}":
        return None
    if any(supervisor.find(process) for process in state.processes.values()):
        return None
    return (
        f"context {context.name!r} is the stack of this machine, which is down; start it: {command_line('stack', 'up')}"
    )
