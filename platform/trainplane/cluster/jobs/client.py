"""The way to a cluster: a connection to the dashboard of its head."""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster.context import Context
from trainplane.cluster.health import complaint
from trainplane.errors import UserError

ROUTE_TIMEOUT_S = 10.0
# Ray's own client waits for an answer for ever; a busy head takes seconds.
ANSWER_TIMEOUT_S = 30.0


def client(context: Context) -> Any:
    """A connection to the context's cluster; a `UserError` says what to do where there is none."""
    if context.ray is None:
        raise UserError(
            f'context {context.name!r} names no cluster; add ray = "http://HEAD:8265" to it in isnet.toml '
            "and choose it with --context"
        )
    has_token = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    os.environ.setdefault("RAY_AUTH_MODE", "token" if has_token else "disabled")
    if text := _no_route(context.ray):
        raise UserError(text)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # It reports every closed connection, which is no news.
    for noisy in ("modules.job.sdk", "modules.dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.{noisy}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        connection = JobSubmissionClient(context.ray)
        # The first call that the token is asked for.
        connection.list_jobs()
    # The last three: what answers is no head of Ray's (errors of its HTTP library are among OSError).
    except (RuntimeError, AuthenticationError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(_no_connection(context.ray, error)) from error
    return connection


def _no_route(address: str) -> str | None:
    """Why nothing listens at the address, or None: Ray's own client waits two minutes for a host that drops packets."""
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if complaint(f"tcp://{parts.hostname}:{port}", ROUTE_TIMEOUT_S) is not None:
        return _no_connection(address, ConnectionError("no connection"))
    # Any answer is one here, a refusal too.
    if (text := complaint(f"{address}/api/version", ANSWER_TIMEOUT_S)) and text.endswith("timed out"):
        return (
            f"something listens at {address} and says nothing within {ANSWER_TIMEOUT_S:.0f} s, as no Ray cluster does; "
            "look at its head, or correct `ray` of the context in isnet.toml"
        )
    return None


def _no_connection(address: str, error: Exception) -> str:
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


def is_loopback(address: str) -> bool:
    """Whether an address leads to this machine alone."""
    return urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1")


def last_line(error: Exception) -> str:
    """The last line of what Ray says, which tells more than those before it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
