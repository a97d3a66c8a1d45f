"""An S3 server of its own for the tests, and a proxy in front of it that fails on request."""

from __future__ import annotations

import http.client
import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainplane.storage import ensure_bucket

# Processes that a loader starts import the tests' own helpers from here.
sys.path.insert(0, str(Path(__file__).parent))

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a moto server in a process of its own; the environment points to it for the session."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        pytest.skip("moto_server is not installed; install the 'dev' extra")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [str(program), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    environment = pytest.MonkeyPatch()
    try:
        _wait_for(port, server)
        endpoint = f"http://127.0.0.1:{port}"
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
            environment.delenv(name, raising=False)
        yield endpoint
    finally:
        environment.undo()
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def s3_address(s3_server: str) -> str:
    """An `s3://` address in a bucket that no other test uses."""
    address = f"s3://test-{os.getpid()}-{next(_numbers)}/some/prefix"
    ensure_bucket(address)
    return address


class FaultyProxy:
    """Passes requests on to an S3 server and spoils the answers that `fault` names.

    `fault(method, path, number)` returns None, or one of "500", "503", "expired", "reset", "short", "lying",
    "stall", "flip". `requests` counts what came in.
    """

    def __init__(self, endpoint: str) -> None:
        self.fault: Callable[[str, str, int], str | None] = lambda method, path, number: None
        self.requests = 0
        self._upstream = endpoint.removeprefix("http://")
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that hang up are what the tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += 1
            number = self.requests
        sent = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self.fault(handler.command, handler.path, number)
        if fault in ("500", "503", "expired"):
            return self._refuse(handler, fault)
        upstream = http.client.HTTPConnection(self._upstream, timeout=30)
        try:
            upstream.request(handler.command, handler.path, sent, dict(handler.headers))
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        half = len(body) // 2
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                handler.send_header(name, value)
        length = int(answer.getheader("Content-Length") or len(body)) if handler.command == "HEAD" else len(body)
        handler.send_header("Content-Length", str(half if fault == "lying" else length))
        handler.end_headers()
        if fault == "flip" and body:
            body = body[:half] + bytes([body[half] ^ 0x40]) + body[half + 1 :]
        handler.wfile.write(body[:half] if fault in ("reset", "short", "lying", "stall") else body)
        handler.wfile.flush()
        if fault == "stall":
            time.sleep(2)
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("reset", "short", "stall"):
            handler.close_connection = True
            handler.connection.close()
        return None

    def _refuse(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        status, code = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "expired": (400, "ExpiredToken")}[
            fault
        ]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>spoilt</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)


@pytest.fixture
def faulty_s3(s3_server: str, s3_address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy before the S3 server; the environment points to the proxy."""
    proxy = FaultyProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    try:
        yield proxy
    finally:
        proxy.close()


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("moto_server did not start")
