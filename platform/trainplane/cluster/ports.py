"""Free TCP ports on loopback."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

from trainplane.errors import RunFailed, UserError

HOST = "127.0.0.1"
# Below the ports that Linux gives to outgoing connections (from 32768): Ray's processes take many of those at any
# time, and would have one before the server that it was chosen for.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 1000


def free_port(taken: Collection[int] = ()) -> int:
    """Picks a random free port that is not in `taken`."""
    # Not the seeded generator of the process: two processes with one seed would pick the same ports.
    chance = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = chance.choice(_RANGE)
        if port not in taken and is_free(port):
            return port
    raise RunFailed(
        f"no port between {_RANGE.start} and {_RANGE.stop} is free on {HOST}; end a program that listens there"
    )


def is_free(port: int) -> bool:
    """True if a server could bind the port now."""
    return _bind_error(port) is None


def check_port(port: int) -> int:
    """Checks the requested port; 0 picks a free one."""
    if not port:
        return free_port()
    if (error := _bind_error(port)) is not None:
        raise UserError(f"port {port} on {HOST} cannot be used ({error.strerror}); choose another with --port")
    return port


def _bind_error(port: int) -> OSError | None:
    with socket.socket() as probe:
        # A connection that has just ended keeps its port for a minute, which does not stop a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            return error
    return None
