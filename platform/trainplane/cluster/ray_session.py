"""A Ray cluster to run on: the one we are a job of, or a private one on this machine that ends with the command."""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from trainplane.environ import with_variables
from trainplane.errors import RunFailed

STARTS = 3


# Ray takes 127.0.0.1 for a mistake and listens on all addresses instead, unless it is told that there is no cluster of
# several machines; the variable's name is that of the systems where this is so by default.
ON_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def in_ray_job() -> bool:
    """Whether this process was started as a job of a Ray cluster."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"))


@cache
def own_token() -> str:
    """One token for all clusters that this process starts: Ray reads it once and keeps it."""
    return secrets.token_hex(32)


@contextmanager
def ray_session(*, num_cpus: int | None = None) -> Iterator[Any]:
    """The connected `ray` module; a private cluster is shut down at the end, whatever happened.

    The private cluster listens on loopback only and asks for a token made for this one process. Its dashboard stays
    on, because without it Ray never releases the resources of an ended trial or trainer.
    """
    outside = in_ray_job()
    # Set before Ray is imported: its processes inherit them, and nothing is written to the user's home.
    with with_variables(_settings(outside=outside)):
        import ray

        if ray.is_initialized():
            yield ray
            return
        try:
            with _own_sigterm():
                if outside:
                    ray.init(log_to_driver=False, logging_level="ERROR")
                else:
                    with _spared_hangups():
                        _start_private(ray, num_cpus)
            yield ray
        finally:
            ray.shutdown()


def _settings(*, outside: bool) -> dict[str, str]:
    """Environment for Ray; what the user has set himself stays, but for what keeps a private cluster private."""
    wanted = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # A minute is short for workers that import torch on a busy node, or for a node that is still on its way.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    }
    if not outside:
        wanted["RAY_USAGE_STATS_ENABLED"] = "0"
        # A minute after its cluster is gone Ray aborts the process, though another cluster may be starting by then;
        # that one is gone is noticed by `ended_parts`. Not for ever: on a very busy machine `ray.shutdown` was seen to
        # wait for a gcs_server that is gone.
        wanted["RAY_gcs_rpc_server_reconnect_timeout_s"] = "180"
    wanted |= {name: os.environ[name] for name in wanted if name in os.environ}
    if outside:
        return wanted
    return {**wanted, **ON_LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": own_token()}


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Who called keeps his answer to SIGTERM: Ray's, set as it connects, ends the process wherever it is.

    Raises `KeyboardInterrupt` where SIGTERM came while Ray still connected.
    """
    if threading.current_thread() is not threading.main_thread():
        # Ray sets its own in the main thread only.
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as end:
        raise KeyboardInterrupt from end
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _spared_hangups() -> Iterator[None]:
    """What is started meanwhile never hears SIGHUP; it reaches this process afterwards.

    A terminal that closes sends it to all processes of the command at once, and Ray's would be gone before the ranks
    could save. Ray does the same for Ctrl-C.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ended_parts() -> list[str]:
    """Processes that a private cluster of ours cannot be without and that have ended; empty where all is well."""
    from ray._private import worker

    node = worker._global_node
    gone = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return sorted(gone & {"gcs_server", "raylet"})


def _start_private(ray: Any, num_cpus: int | None) -> None:
    """A cluster of our own on this machine. Raises `RunFailed` where it does not come up."""
    for attempt in range(STARTS):
        try:
            ray.init(
                address="local",
                num_cpus=num_cpus,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        # Ray raises a bare Exception where its node is not up within half a minute, which a busy machine can take.
        except Exception as error:
            ray.shutdown()
            if attempt == STARTS - 1:
                reason = str(error).strip().splitlines()
                raise RunFailed(
                    f"Ray did not start on this machine in {STARTS} attempts ({reason[-1] if reason else error!r}); "
                    "see what keeps it busy and run the same command again, or set train.workers=1"
                ) from error


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Where Ray Train and Tune may keep their own notes; ours are elsewhere, so these go with the command."""
    with tempfile.TemporaryDirectory(prefix="isnet-ray-") as folder:
        yield folder
