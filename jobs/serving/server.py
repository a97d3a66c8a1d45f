"""Runs the application in this process until it is interrupted."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from trainplane.errors import RunFailed

# Seconds for what is being filled, and for connections where nothing is: a browser that sends half a request.
_GRACE_S = 20
_IDLE_GRACE_S = 2
# Connections that wait to be accepted; more than any queue of ours.
_BACKLOG = 2048


class AnnouncingServer(uvicorn.Server):
    """Tells when it answers; at its end fills may end."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts to listen, and tells."""
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._announce()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends open connections; fills get time to end."""
        service = getattr(getattr(self.config.app, "state", None), "service", None)
        is_filling = service is not None and service.queue.running > 0
        self.config.timeout_graceful_shutdown = _GRACE_S if is_filling else _IDLE_GRACE_S
        await super().shutdown(sockets)


def run_server(app: FastAPI, *, host: str, port: int, announce: Callable[[], None]) -> None:
    """Serves until SIGINT or SIGTERM.

    Fills under way get 20 s, other open connections 2.

    Args:
        app: The application.
        host: Address to listen on.
        port: A free port.
        announce: Called when it answers.

    Raises:
        RunFailed: It could not start.
    """
    # No access log: addresses of the page carry the token once.
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        ws="none",
    )
    server = AnnouncingServer(config, announce)
    try:
        server.run()
    except KeyboardInterrupt:
        # Raised again by uvicorn once all is closed.
        return
    except SystemExit as error:
        raise RunFailed(f"{host}:{port} cannot be served; choose another port with --port, or see the log") from error
    finally:
        # The interpreter looks at every object of torch and MLflow at its end, for seconds, unless they are frozen.
        gc.freeze()
    if not server.started:
        raise RunFailed("the server did not start; the lines above say why")
