"""A receiver of webhooks on loopback: checks signatures, and drops an id that it had before, as receivers should."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Received:
    """What came: each request's id, and each event once."""

    requests: list[str] = field(default_factory=list)
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    forged: int = 0
    port: int = 0


@contextmanager
def webhook_receiver(
    port: int = 0, *, answer: Callable[[int], int | None] = lambda number: 204, is_signed: bool = True
) -> Iterator[Received]:
    """Serves during the block; `answer` gives the status of request N, None cuts the connection after reading it."""
    received = Received()
    key = base64.b64decode(SECRET.removeprefix("whsec_"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            message, stamp = self.headers["webhook-id"] or str(len(body)), self.headers["webhook-timestamp"]
            digest = hmac.new(key, f"{message}.{stamp}.".encode() + body, hashlib.sha256).digest()
            received.requests.append(message)
            if is_signed and self.headers["webhook-signature"] != "v1," + base64.b64encode(digest).decode():
                received.forged += 1
                self.send_error(401)
                return
            status = answer(len(received.requests))
            if status is None or 200 <= status < 300:
                received.events.setdefault(message, json.loads(body))
            if status is None:
                self.connection.close()
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", "http://169.254.169.254/")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    received.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
