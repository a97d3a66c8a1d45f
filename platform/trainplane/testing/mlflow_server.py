"""An MLflow server process, and before it a proxy that makes it healthy, slow, failing or absent on demand.

For `isnet bench tracking` and for tests. The proxy passes on plain HTTP over loopback only.
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

State = Literal["healthy", "slow", "failing", "down"]
STATES: tuple[State, ...] = ("healthy", "slow", "failing", "down")
SLOW_S = 5.0
_NOT_PASSED_ON = ("connection", "transfer-encoding", "date", "server", "content-length")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A server over a new SQLite database in `folder`; gives its port."""
    port = free_port()
    with tracking_server(f"sqlite:///{folder}/mlflow.db", port=port, artifacts=str(folder / "art")):
        yield port


@contextmanager
def tracking_server(
    store: str, *, port: int, artifacts: str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serves the tracking store at the address `store`; gives its own. Everything it started ends with the block.

    options -- more words of its command line; environment -- more variables.
    Raises `RunFailed` where it does not come up within three minutes.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1", *options]
    command += ["--default-artifact-root", artifacts]
    variables = {
        **os.environ,
        # Not on the command line, which shows passwords.
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **(environment or {}),
    }
    with tempfile.TemporaryFile() as log:
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
    """Passes requests on to a server on loopback, in whatever state it is put; always at the same address."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._state: State = "healthy"
        self._listener = self._listen(0)
        self.port = int(self._listener.server_address[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def put(self, state: State) -> None:
        """Down: connections are refused, and those under way get no answer."""
        was, self._state = self._state, state
        if state == "down" and was != "down":
            self._silence()
        if was == "down" and state != "down":
            self._listener = self._listen(self.port)

    def close(self) -> None:
        if self._state != "down":
            self._silence()

    def _silence(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _listen(self, port: int) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._pass_on(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """The bench has its own report."""

        class Listener(ThreadingHTTPServer):
            # Waiting for the threads of slow answers would hold up the next state.
            daemon_threads, block_on_close, allow_reuse_address = True, False, True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that was killed while it was answered is what the bench is about."""

        listener = Listener(("127.0.0.1", port), Handler)
        threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return listener

    def _pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self._state == "slow":
            time.sleep(SLOW_S)
        if self._state == "down":
            request.close_connection = True
            return
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
            if name.lower() not in _NOT_PASSED_ON:
                request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)
