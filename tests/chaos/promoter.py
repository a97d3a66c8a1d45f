"""Promotes on command: `python promoter.py TRACKING STORE`.

It may be killed on the way. Each line of standard input is one command, {"version", "expected", "kill_at"}; each line
of standard output its answer: won, lost, or killed. A fork of this process runs a command, so that Python's imports are
paid for once and a kill is a real one: SIGKILL before or after call number `kill_at` of the store or of MLflow, null
for none.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

NAME = "isnet"
LOST = 3
FAILED = 4
_STORE_VERBS = ("read", "create", "list")
_CLIENT_VERBS = (
    "get_registered_model",
    "search_model_versions",
    "set_model_version_tag",
    "update_model_version",
    "set_registered_model_alias",
    "set_registered_model_tag",
)


def main() -> None:
    """Serve commands until standard input ends."""
    tracking, address = sys.argv[1:]
    # Everything is imported before the forks; no connection is opened before them.
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    import trainplane.registry.promote  # noqa: F401

    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_promote(tracking, address, **command))
        _, status = os.waitpid(child, 0)
        print(_answer(status), flush=True)


def _answer(status: int) -> str:
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else f"signal {os.WTERMSIG(status)}"
    return {0: "won", LOST: "lost"}.get(os.WEXITSTATUS(status), f"failed {os.WEXITSTATUS(status)}")


def _promote(tracking: str, address: str, *, version: str, expected: str | None, kill_at: int | None) -> int:
    """One promotion in this process; its exit status."""
    from trainplane.registry.audit import Conflict
    from trainplane.registry.gates import GateVerdict
    from trainplane.registry.promote import AuditedModel
    from trainplane.storage import open_store
    from trainplane.tracking.client import TrackingServer

    calls = watched(kill_at)
    audited = AuditedModel(TrackingServer(tracking), NAME, open_store(address))
    verdict = GateVerdict("gate", True, "fine", {})
    try:
        audited.promote(audited.model.version(version), verdicts=[verdict], expected=expected)
    except Conflict:
        return LOST
    except Exception as error:  # the bench counts whatever else goes wrong, and the process must end with a status
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return FAILED
    if os.environ.get("ISNET_COUNT_CALLS"):
        print(f"calls {calls[0]}", file=sys.stderr, flush=True)
    return 0


def watched(kill_at: int | None) -> list[int]:
    """Counts calls of store and MLflow; dies at `kill_at`.

    An even place is before a call, an odd one after it.
    """
    import mlflow

    from trainplane.storage.folder import FolderStore

    places = [0]

    def wrapped(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            _die_at(places, kill_at)
            answer = function(*arguments, **options)
            _die_at(places, kill_at)
            return answer

        return call

    for owner, verbs in ((FolderStore, _STORE_VERBS), (mlflow.MlflowClient, _CLIENT_VERBS)):
        for verb in verbs:
            setattr(owner, verb, wrapped(getattr(owner, verb)))
    return places


def _die_at(places: list[int], kill_at: int | None) -> None:
    if places[0] == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    places[0] += 1


if __name__ == "__main__":
    main()
