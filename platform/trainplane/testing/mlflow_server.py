"""MLflow server process, and a proxy that simulates its outages.

For `isnet bench tracking` and for tests. The proxy forwards plain HTTP over loopback only.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal

from trainplane.cluster.ports import free_port
from trainplane.errors import RunFailed

ServerState = Literal["healthy", "slow", "failing", "down"]
STATES: tuple[ServerState, ...] = ("healthy", "slow", "failing", "down")
SLOW_S = 5.0
# Headers that the proxy's own HTTP layer writes.
_NOT_FORWARDED = ("connection", "transfer-encoding", "date", "server", "content-length")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """Runs a server over a new database; yields its port."""
    port = free_port()
    with tracking_server(f"sqlite:///{folder}/mlflow.db", port=port, artifacts=str(folder / "art")):
        yield port


@contextmanager
def tracking_server(
    store: str, *, port: int, artifacts: str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serves the tracking store at `store`; gives the server's address.

    `options` and `environment` extend its command line and variables. The block's end kills its process group. Raises
    `RunFailed` if it does not start within three minutes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    command += ["--default-artifact-root", artifacts]
    variables = {
        **os.environ,
        # Not on the command line, where every user of the machine could read a password.
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **(environment or {}),
    }
    with tempfile.TemporaryFile() as log:
        # A session of its own, so that its worker processes can be killed with it.
        server = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 180
            while not _is_healthy(port):
                if server.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RunFailed(f"the MLflow server did not start: {log.read().decode(errors='replace')[-500:]}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


class StateProxy:
    """Proxy at a fixed address that simulates a server's state."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._state: ServerState = "healthy"
        self._listener = self._listen(0)
        self.port = int(self._listener.server_address[1])

    @property
    def address(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def set_state(self, state: ServerState) -> None:
        """Changes the simulated state.

        Down means that connections are refused, and that requests in progress get no answer.
        """
        previous, self._state = self._state, state
        if state == "down" and previous != "down":
            self._stop_listening()
        if previous == "down" and state != "down":
            self._listener = self._listen(self.port)

    def close(self) -> None:
        """Stops the proxy."""
        # Down, it has stopped already.
        if self._state != "down":
            self._stop_listening()

    def _stop_listening(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class _Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._forward(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Logs nothing: the benchmark has its own report."""

        class _Listener(ThreadingHTTPServer):
            # Waiting for the threads of slow answers would delay the next state.
            daemon_threads, block_on_close, allow_reuse_address = True, False, True

            def handle_error(self, request: object, client_address: object) -> None:
                """Ignores killed clients, which the benchmark causes."""

        listener = _Listener(("127.0.0.1", port), _Handler)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return listener

    def _forward(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self._state == "slow":
            time.sleep(SLOW_S)
        # The state may have changed during the pause.
        if self._state == "down":
            request.close_connection = True
            return
        # The answer is a failure, or that of the server.
        status, headers, data = 500, [("Content-Type", "text/plain")], b"made to fail"
        if self._state != "failing":
            server = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=60)
            try:
                server.request(request.command, request.path, body, dict(request.headers.items()))
                answer = server.getresponse()
                status, headers, data = answer.status, answer.getheaders(), answer.read()
            finally:
                server.close()
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in _NOT_FORWARDED:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
