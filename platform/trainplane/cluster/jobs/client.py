"""Connection to a cluster, through the dashboard of its head."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster.context import Context
from trainplane.cluster.health import health_error
from trainplane.errors import UserError

ROUTE_TIMEOUT_S = 10.0
# Ray's own client waits for an answer without limit; a busy head takes seconds.
ANSWER_TIMEOUT_S = 30.0


def connect(context: Context) -> Any:
    """Ray's `JobSubmissionClient` of the context's cluster.

    Raises `UserError`, with the remedy, where none is named, none answers, or it refuses our token.
    """
    if context.ray is None:
        raise UserError(
            f'context {context.name!r} names no cluster; add ray = "http://HEAD:8265" to it in isnet.toml '
            "and choose it with --context"
        )
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")
    if message := _route_error(context.ray):
        raise UserError(message)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # They log every closed connection.
    for noisy in ("modules.job.sdk", "modules.dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.{noisy}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        connection = JobSubmissionClient(context.ray)
        # The first call that checks the token.
        connection.list_jobs()
    # The last three: another program than Ray's head answers. Errors of its HTTP library are among OSError.
    except (RuntimeError, AuthenticationError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(connection_error(context.ray, error)) from error
    return connection


def is_loopback(address: str) -> bool:
    """True for an address of this machine alone."""
    return urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")


def _route_error(address: str) -> str | None:
    # Message if no HTTP server answers at the address. Ray's own client waits two minutes for a host that drops
    # packets.
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if health_error(f"tcp://{parts.hostname}:{port}", ROUTE_TIMEOUT_S) is not None:
        return connection_error(address, ConnectionError("no connection"))
    # Any answer will do here, a refusal too.
    if (text := health_error(f"{address}/api/version", ANSWER_TIMEOUT_S)) and text.endswith("timed out"):
        return (
            f"a server at {address} accepts connections and does not answer within {ANSWER_TIMEOUT_S:.0f} s; "
            "check the cluster's head, or correct `ray` of the context in isnet.toml"
        )
    return None


def connection_error(address: str, error: Exception) -> str:
    """Message for a failed connection, or a refused token."""
    # Without the address, whose port may be 40312.
    text = str(error).replace(address, "")
    if "401" in text or "403" in text or "auth" in text.lower():
        return (
            f"the Ray cluster at {address} refused our token; give the right one as secret RAY_AUTH_TOKEN "
            "of the context in isnet.toml"
        )
    return (
        f"no Ray cluster answers at {address}; start its head (ray start --head), open the route, "
        "or correct `ray` of the context in isnet.toml"
    )
