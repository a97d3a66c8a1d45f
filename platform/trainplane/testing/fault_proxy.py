"""Proxy before an S3 server that injects seeded faults.

    with FaultProxy(endpoint) as proxy:             # then AWS_ENDPOINT_URL=proxy.endpoint
        proxy.fault = seeded_faults(0.1, seed=1)
        proxy.go_away("refused", 60.0)              # and comes back by itself

For tests and for `isnet bench faults`; it forwards plain HTTP from loopback only. Not covered: faults of the server
itself, such as wrong stored bytes.
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
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

Fault: TypeAlias = Callable[[str, str, int], str | None]
"""(method, path, number of the request) -> name of a fault, or None."""

REFUSALS = {"500": (500, "InternalError"), "503": (503, "SlowDown"), "expired": (400, "ExpiredToken")}
FINAL_REFUSALS = {"denied": (403, "AccessDenied")}  # not transient, hence not among FAULTS
BODY_FAULTS = {
    "reset": "half of the body, then a reset connection",
    "short": "half of the body under the whole length",
    "lying": "half of the body under half of the length",
    "stall": "half of the body, then silence",
    "slow": "10 kB/s",
    "flip": "a flipped bit somewhere in the body",
    "elsewhere": "the correct answer to another range",
}
FAULTS = (*REFUSALS, *BODY_FAULTS)
OUTAGES = {
    "503": "every request gets 503",
    "500": "every request gets 500",
    "refused": "connections break, and new ones are refused",
    "silent": "no request is answered",
}

_SLOW_BYTES_PER_S = 10_000
_PIECE_BYTES = 1 << 16
# Headers that the proxy's own HTTP layer writes.
_NOT_FORWARDED = ("content-length", "connection", "transfer-encoding", "date", "server")


def no_fault(method: str, path: str, number: int) -> str | None:
    """Forwards every request unchanged."""
    return None


def seeded_faults(rate: float, *, seed: int, kinds: Sequence[str] = FAULTS) -> Fault:
    """Injects faults, evenly by kind, into a share of requests."""

    def fault(method: str, path: str, number: int) -> str | None:
        # A generator per request: threads that overtake each other do not change its fault.
        rng = random.Random(f"{seed} {number}")
        return rng.choice(kinds) if rng.random() < rate else None

    return fault


class FaultProxy:
    """Forwards requests to an S3 server and injects `fault`.

    `upstream` is the server, `requests` counts all requests, `faults` the injected faults by name. A stall lasts
    `stall_s`. All uploads together are limited to `upload_bytes_per_s`. `port` 0 takes a free one.
    """

    def __init__(
        self, endpoint: str, *, port: int = 0, stall_s: float = 60.0, upload_bytes_per_s: float | None = None
    ) -> None:
        self.fault: Fault = no_fault
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.upstream = endpoint
        self._stall_s = stall_s
        self._upload_bytes_per_s = upload_bytes_per_s
        # Time at which the limited uplink becomes free.
        self._uplink_free_at = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._outage: str | None = None
        self._back = threading.Event()
        self._back.set()
        self._connections: set[socket.socket] = set()
        proxy = self

        class _Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Headers and body are two packets; the second must not wait for the first one's acknowledgement.
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                proxy._serve(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

            def setup(self) -> None:
                super().setup()
                proxy._connections.add(self.connection)

            def finish(self) -> None:
                proxy._connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def log_message(self, format: str, *args: object) -> None:
                """Logs nothing."""

        class _Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Ignores clients that hang up, which these faults cause."""

        self._new_server: Callable[[int], ThreadingHTTPServer] = lambda port: _Server(("127.0.0.1", port), _Handler)
        self._serve_on(port)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def _serve_on(self, port: int) -> None:
        self._server = self._new_server(port)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def go_away(self, kind: str, seconds: float) -> None:
        """Begins an outage, unless there is one.

        `kind` is one of `OUTAGES`; the store comes back by itself.
        """
        with self._lock:
            if self._outage is not None:
                return
            self._outage = kind
            self._back.clear()
        if kind == "refused":
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self._connections):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        timer = threading.Timer(seconds, self.come_back)
        timer.daemon = True
        timer.start()

    def come_back(self) -> None:
        """Ends an outage, if there is one."""
        with self._lock:
            kind, self._outage = self._outage, None
        if kind == "refused" and not self._closed.is_set():
            self._serve_on(int(self.endpoint.rpartition(":")[2]))
        self._back.set()

    def wait_until_back(self) -> None:
        """Waits for the end of an outage."""
        self._back.wait()

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the proxy and ends its stalls."""
        self._closed.set()
        self._back.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += 1
            number = self.requests
        body = b"".join(self._receive(handler))
        fault = self.fault(handler.command, handler.path, number)
        if self._outage in REFUSALS:
            fault = self._outage
        elif self._outage == "silent":
            self._back.wait()
        if fault:
            with self._lock:
                self.faults[fault] += 1
        if fault in REFUSALS or fault in FINAL_REFUSALS:
            self._refuse(handler, fault)
        else:
            self._forward(handler, body, fault, number)

    def _receive(self, handler: BaseHTTPRequestHandler) -> Iterator[bytes]:
        """Receives the request's body within the limit on uploads."""
        remaining, rate = int(handler.headers.get("Content-Length") or 0), self._upload_bytes_per_s
        while remaining and (piece := handler.rfile.read(min(remaining, _PIECE_BYTES) if rate else remaining)):
            remaining -= len(piece)
            yield piece
            if rate:
                # Each piece reserves its time on the shared uplink, then waits for it.
                with self._lock:
                    self._uplink_free_at = max(time.monotonic(), self._uplink_free_at) + len(piece) / rate
                    pause = self._uplink_free_at - time.monotonic()
                self._closed.wait(max(0.0, pause))

    def _forward(self, handler: BaseHTTPRequestHandler, sent: bytes, fault: str | None, number: int) -> None:
        # Get the server's answer.
        upstream = http.client.HTTPConnection(self.upstream.removeprefix("http://"), timeout=30)
        try:
            upstream.request(handler.command, handler.path, sent, dict(handler.headers))
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        # Send the headers, with a false range or length where the fault is one.
        half = len(body) // 2
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if fault == "elsewhere" and name.lower() == "content-range":
                value = f"bytes 0-{len(body) - 1}/{value.rpartition('/')[2]}"
            if name.lower() not in _NOT_FORWARDED:
                handler.send_header(name, value)
        length = int(answer.getheader("Content-Length") or len(body)) if handler.command == "HEAD" else len(body)
        handler.send_header("Content-Length", str(half if fault == "lying" else length))
        handler.end_headers()
        # Send the body, whole or damaged.
        if fault == "flip" and body:
            rng = random.Random(number)
            at = rng.randrange(len(body))
            body = body[:at] + bytes([body[at] ^ 1 << rng.randrange(8)]) + body[at + 1 :]
        if fault == "slow":
            return self._trickle(handler, body)
        handler.wfile.write(body[:half] if fault in ("reset", "short", "lying", "stall") else body)
        handler.wfile.flush()
        # End the connection as the fault requires.
        if fault == "stall":
            self._closed.wait(self._stall_s)
        if fault == "reset":
            # Closing with a linger of 0 s sends RST instead of FIN.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if fault in ("reset", "short", "stall"):
            handler.close_connection = True
            handler.connection.close()
        return None

    def _trickle(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        # Ten pieces a second.
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
        # The answer to a HEAD has headers only.
        if handler.command != "HEAD":
            handler.wfile.write(body)
