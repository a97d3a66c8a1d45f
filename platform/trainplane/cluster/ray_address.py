"""Cluster that RAY_ADDRESS names, if any.

Ray sets the variable in its jobs. A user may have it for other programs, as `auto`, as a dashboard's address, or from a
cluster that is gone; then Ray itself would wait for minutes, or end with its own traceback.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from functools import cache

from trainplane.command_line import command_line
from trainplane.errors import UserError

VARIABLE = "RAY_ADDRESS"
# Set by Ray in the driver of a job, and in its workers.
_JOB_VARIABLES = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_JOB_ID")
_HOST_AND_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(\d{1,5})")
_TIMEOUT_S = 5.0
# A client of HTTP/2, which Ray's servers speak, begins with this; the server with a frame of settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_REMEDY = f"correct {VARIABLE}, or unset it to work on this machine alone"


def is_job(environment: Mapping[str, str]) -> bool:
    """True in a job of Ray."""
    return any(environment.get(name) for name in _JOB_VARIABLES)


def named_address(environment: Mapping[str, str]) -> str | None:
    """`HOST:PORT` or `auto`; None without a cluster.

    Anything else is a `UserError`.
    """
    address = environment.get(VARIABLE, "").strip()
    if address in ("", "local"):
        return None
    if address == "auto" or _HOST_AND_PORT.fullmatch(address):
        return address
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"{VARIABLE} is {address.partition('?')[0]}, the address of a dashboard; need HOST:PORT of the cluster's "
            f"head, such as head:6379; {_REMEDY}, or name it in a context (ray = …) and use "
            f"`{command_line('submit', 'COMMAND')}`"
        )
    raise UserError(f"{VARIABLE} is {address!r}; need HOST:PORT of the cluster's head, such as head:6379; {_REMEDY}")


@cache
def check_cluster(address: str) -> None:
    """Raises `UserError` within seconds if no cluster answers."""
    if address == "auto":
        address = _found_here()
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S) as connection:
            # Behind TLS a server says nothing to this.
            if os.environ.get("RAY_USE_TLS", "0") in ("0", ""):
                connection.settimeout(_TIMEOUT_S)
                connection.sendall(_PREFACE)
                _check_settings(connection, address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"no Ray cluster answers at {address}, which {VARIABLE} names ({reason}); {_REMEDY}") from error


def _check_settings(connection: socket.socket, address: str) -> None:
    # Length (3 bytes), then the kind: 4 is settings.
    begin = b""
    while len(begin) < 4 and (data := connection.recv(4 - len(begin))):
        begin += data
    if begin[3:] != b"\x04":
        raise UserError(f"what answers at {address}, which {VARIABLE} names, is no Ray cluster; {_REMEDY}")


def _found_here() -> str:
    """Address of this machine's cluster."""
    from ray._private import services

    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except ConnectionError:
        raise UserError(f"{VARIABLE} is 'auto', and no Ray cluster runs on this machine; {_REMEDY}") from None
