"""A proxy before an S3 server that fails on request: what networks and stores do on bad days, seeded.

    with FaultProxy(endpoint) as proxy:             # then AWS_ENDPOINT_URL=proxy.endpoint
        proxy.fault = seeded_faults(0.1, seed=1)

For tests and for `isnet bench faults`; it passes on plain HTTP from loopback only. Not covered: faults of the server
itself, such as wrong bytes that it has stored.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TypeAlias

Fault: TypeAlias = Callable[[str, str, int], str | None]
"""(method, path, number of the request) -> the name of a fault, or None."""

REFUSALS = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "expired": (400, "ExpiredToken")}
FINAL_REFUSALS = {"denied": (403, "AccessDenied")}  # no fault that comes and goes, and not among FAULTS
SPOILT_BODIES = {
    "reset": "half of the body, then a reset connection",
    "short": "half of the body under the whole length",
    "lying": "half of the body under half of the length",
    "stall": "half of the body, then silence",
    "slow": "10 kB/s",
    "flip": "a flipped bit somewhere in the body",
    "elsewhere": "the right answer to another range",
}
FAULTS = (*REFUSALS, *SPOILT_BODIES)

_SLOW_BYTES_PER_S = 10_000
_PIECE_BYTES = 1 << 16
_NOT_PASSED_ON = ("content-length", "connection", "transfer-encoding", "date", "server")


def no_fault(method: str, path: str, number: int) -> str | None:
    """Everything passes."""
    return None


def seeded_faults(rate: float, *, seed: int, kinds: Sequence[str] = FAULTS) -> Fault:
    """Spoils a share `rate` of the requests, each kind as often; the same ones whenever the seed is the same."""

    def fault(method: str, path: str, number: int) -> str | None:
        chance = random.Random(f"{seed} {number}")
        return chance.choice(kinds) if chance.random() < rate else None

    return fault


class FaultProxy:
    """Passes requests on to the S3 server at `endpoint` and spoils the answers that `fault` names.

    `requests` counts what came in, `faults` what was spoilt, by name. `stall_s` is how long silence lasts. All that is
    sent up together takes its time by `upload_bytes_per_s`. `port` 0 takes a free one.
    """

    def __init__(
        self, endpoint: str, *, port: int = 0, stall_s: float = 60.0, upload_bytes_per_s: float | None = None
    ) -> None:
        self.fault: Fault = no_fault
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self._upstream = endpoint.removeprefix("http://")
        self._stall_s = stall_s
        self._upload_bytes_per_s = upload_bytes_per_s
        self._received_until = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two packets; the second must not wait for the first one's acknowledgement.
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that hang up are what this is about."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += 1
            number = self.requests
        sent = b"".join(self._received(handler))
        fault = self.fault(handler.command, handler.path, number)
        if fault:
            with self._lock:
                self.faults[fault] += 1
        if fault in REFUSALS or fault in FINAL_REFUSALS:
            self._refuse(handler, fault)
        else:
            self._pass_on(handler, sent, fault, number)

    def _received(self, handler: BaseHTTPRequestHandler) -> Iterator[bytes]:
        """The request's body, no faster than all uploads together may be."""
        left, rate = int(handler.headers.get("Content-Length") or 0), self._upload_bytes_per_s
        while left and (piece := handler.rfile.read(min(left, _PIECE_BYTES) if rate else left)):
            left -= len(piece)
            yield piece
            if rate:
                with self._lock:
                    self._received_until = max(time.monotonic(), self._received_until) + len(piece) / rate
                    pause = self._received_until - time.monotonic()
                self._closed.wait(max(0.0, pause))

    def _pass_on(self, handler: BaseHTTPRequestHandler, sent: bytes, fault: str | None, number: int) -> None:
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
            if fault == "elsewhere" and name.lower() == "content-range":
                value = f"bytes 0-{len(body) - 1}/{value.rpartition('/')[2]}"
            if name.lower() not in _NOT_PASSED_ON:
                handler.send_header(name, value)
        length = int(answer.getheader("Content-Length") or len(body)) if handler.command == "HEAD" else len(body)
        handler.send_header("Content-Length", str(half if fault == "lying" else length))
        handler.end_headers()
        if fault == "flip" and body:
            chance = random.Random(number)
            at = chance.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1 << chance.randrange(8)]) + body[at + 1 :]
        if fault == "slow":
            return self._trickle(handler, body)
        handler.wfile.write(body[:half] if fault in ("reset", "short", "lying", "stall") else body)
        handler.wfile.flush()
        if fault == "stall":
            self._closed.wait(self._stall_s)
        if fault == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("reset", "short", "stall"):
            handler.close_connection = True
            handler.connection.close()
        return None

    def _trickle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        piece = _SLOW_BYTES_PER_S // 10
        for start in range(0, len(body), piece):
            if self._closed.is_set():
                return
            handler.wfile.write(body[start : start + piece])
            time.sleep(0.1)

    def _refuse(self, handler: BaseHTTPRequestHandler, fault: str) -> None:
        status, code = (REFUSALS | FINAL_REFUSALS)[fault]
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>spoilt</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)
