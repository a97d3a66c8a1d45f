"""Connects to the job's Ray cluster, or a private one."""

from __future__ import annotations

import json
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from trainplane.cluster.ray_address import check_cluster, is_job, named_address
from trainplane.environ import MAX_TEMPORARY_BYTES, imports_from_current_folder, with_variables
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.observe.sinks import VARIABLE as METRICS
from trainplane.passive_waiting import passive_waiting
from trainplane.store_wait import VARIABLE as STORE_WAIT

STARTS = 3


# Ray takes 127.0.0.1 for a mistake and listens on all addresses instead, unless it is told that a cluster of several
# machines is impossible. The variable is named after the systems where this is the default.
LOOPBACK_VARIABLES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
RECONNECT_VARIABLE = "RAY_gcs_rpc_server_reconnect_timeout_s"


def in_ray_job() -> bool:
    """True if this process works on a cluster.

    It does as a job of Ray, or by RAY_ADDRESS. Raises `UserError` where the variable names none that answers.
    """
    if is_job(os.environ):
        return True
    address = named_address(os.environ)
    if address is not None:
        check_cluster(address)
    return address is not None


@cache
def own_token() -> str:
    """Token of this process's private clusters: Ray reads it once."""
    return secrets.token_hex(32)


@contextmanager
def ray_session(*, num_cpus: int | None = None) -> Iterator[Any]:
    """Yields the connected `ray` module.

    A private cluster, of `num_cpus` processors (None: all), is shut down in any case. It listens on loopback and asks
    for a token. Its dashboard stays on: without it Ray never releases the resources of an ended trial or trainer.
    """
    in_job, private = in_ray_job(), False
    try:
        # Ray's processes inherit them, and nothing is written to the user's home.
        with with_variables(ray_variables(in_job=in_job)):
            import ray

            if ray.is_initialized():
                yield ray
                return
            private = not in_job
            try:
                with keep_sigterm_handler():
                    if in_job:
                        connect_job(ray)
                    else:
                        with _block_hangups():
                            _start_private(ray, num_cpus)
                yield ray
            finally:
                ray.shutdown()
    finally:
        if private:
            _read_variables_again()


def connect_job(ray: Any) -> None:
    """Connects this job to its cluster, unless it is connected."""
    if not ray.is_initialized():
        # Workers on other nodes do not inherit this process's environment.
        ray.init(runtime_env={"env_vars": _worker_variables()}, log_to_driver=False, logging_level="ERROR")


def _worker_variables() -> dict[str, str]:
    # Ray refuses a variable that the job's own runtime environment has already.
    own = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")).get("runtime_env") or {}
    ours = passive_waiting(os.environ)
    ours |= {name: os.environ[name] for name in (STORE_WAIT, METRICS) if name in os.environ}
    return {name: value for name, value in ours.items() if name not in own.get("env_vars", {})}


def ray_variables(*, in_job: bool) -> dict[str, str]:
    """Environment variables for Ray."""
    # Values that the user has set stay, except those that keep a private cluster private.
    variables = {
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        # A minute is short for workers that import torch on a busy node, or for a node that is still starting.
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
        **passive_waiting(os.environ),
    }
    if not in_job:
        variables["RAY_USAGE_STATS_ENABLED"] = "0"
        # A minute after its cluster is gone Ray aborts the process, though another cluster may be starting by then; a
        # lost cluster is noticed by `dead_processes`. Not without limit: on a very busy machine `ray.shutdown` was seen
        # to wait for a gcs_server that is gone.
        variables[RECONNECT_VARIABLE] = "180"
    variables |= {name: os.environ[name] for name in variables if name in os.environ}
    if in_job:
        return variables
    return {**variables, **LOOPBACK_VARIABLES, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": own_token()}


@contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Restores the SIGTERM handler, which `ray.init` replaces.

    Ray's handler exits immediately, without saving. A SIGTERM while Ray connects raises `KeyboardInterrupt`.
    """
    if threading.current_thread() is not threading.main_thread():
        # Ray sets its handler in the main thread only.
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as exit_of_ray:
        raise KeyboardInterrupt from exit_of_ray
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _block_hangups() -> Iterator[None]:
    # Blocks SIGHUP during the block, for child processes for ever. A terminal that closes sends it to all processes of
    # the command at once, and Ray's would end before the ranks could save. Ray does the same for Ctrl-C. This process
    # gets the signal after the block.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def dead_processes() -> list[str]:
    """Essential processes of our private cluster that have ended."""
    from ray._private import worker

    node = worker._global_node
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return sorted(dead & {"gcs_server", "raylet"})


def _start_private(ray: Any, num_cpus: int | None) -> None:
    """Starts a cluster on this machine; `RunFailed` after three attempts."""
    _check_temporary_folder()
    _read_variables_again()
    # Ray would have its workers import from the current folder what the command itself does not. To Ray, a client's
    # job has no such folder on this machine; nothing else of its start differs (2.60.0).
    job_config = None if imports_from_current_folder() else ray.job_config.JobConfig(_client_job=True)
    for attempt in range(STARTS):
        try:
            ray.init(
                address="local",
                job_config=job_config,
                num_cpus=num_cpus,
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                _node_ip_address="127.0.0.1",
                log_to_driver=False,
                logging_level="ERROR",
            )
            return
        # Ray raises a bare Exception if its node is not up within half a minute, which can happen on a busy machine.
        except Exception as error:
            ray.shutdown()
            if attempt == STARTS - 1:
                raise RunFailed(
                    f"Ray did not start on this machine in {STARTS} attempts ({error_line(error, last=True)}); "
                    "see what keeps it busy and run the same command again, or set train.workers=1"
                ) from error


def _read_variables_again() -> None:
    """Has Ray read its variables again.

    It reads some of them once, at its import (2.60.0). A notebook may import Ray before us. Its driver
    would show no token to the cluster that asks for one, and the cluster would listen on all addresses. Afterwards the
    notebook may start a cluster of its own.
    """
    from ray._private import ray_constants
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    settings: dict[str, Any] = {"AUTH_MODE": os.environ.get("RAY_AUTH_MODE", "disabled")}
    if RECONNECT_VARIABLE in os.environ:
        settings[RECONNECT_VARIABLE.removeprefix("RAY_")] = int(os.environ[RECONNECT_VARIABLE])
    Config.initialize(json.dumps(settings))
    several_machines = not ray_constants.IS_WINDOWS_OR_OSX
    ray_constants.ENABLE_RAY_CLUSTER = ray_constants.env_bool(
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, several_machines
    )
    AuthenticationTokenLoader.instance().reset_cache()


def _check_temporary_folder() -> None:
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    if len(os.fsencode(os.environ.get(name, ""))) > MAX_TEMPORARY_BYTES:
        raise UserError(
            f"{name} has more than {MAX_TEMPORARY_BYTES} bytes, too many for Ray's sockets below it; set a shorter "
            f"one: export {name}=/tmp"
        )


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Temporary folder that only Ray Train and Tune read."""
    with tempfile.TemporaryDirectory(prefix="isnet-ray-") as folder:
        yield folder
