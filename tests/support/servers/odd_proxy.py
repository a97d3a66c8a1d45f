"""Before a server, what stands there in the field: gateways with answers of their own."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PAGE = b"<!DOCTYPE html><html><body>we will be back soon</body></html>"
_OWN = ("connection", "transfer-encoding", "date", "server", "content-length")
# Mood -> status, type, further headers, body.
ANSWERS: dict[str, tuple[int, str, dict[str, str], bytes]] = {
    "page": (200, "text/html", {}, _PAGE),
    "nothing": (200, "text/plain", {}, b""),
    "an empty object": (200, "application/json", {}, b"{}"),
    "noise": (200, "application/json", {}, bytes(range(256))),
    "400 of a gateway": (400, "text/html", {}, _PAGE),
    "401": (401, "text/plain", {}, b"who are you?"),
    "403": (403, "application/json", {}, b'{"error_code": "PERMISSION_DENIED", "message": "no"}'),
    "404 of a gateway": (404, "text/html", {}, _PAGE),
    "429": (429, "text/plain", {"Retry-After": "3600"}, b"slow down"),
    "502": (502, "text/html", {}, _PAGE),
    "503": (503, "text/plain", {"Retry-After": "3600"}, b""),
}


class OddProxy:
    """Passes plain HTTP on to a server on loopback, or answers in a mood.

    largest -- bytes of a body beyond which it answers 413; token -- what it asks for as a bearer token, if anything
    """

    def __init__(self, server: str) -> None:
        self.mood: str | None = None
        self.largest = 10**9
        self.token: str | None = None
        self._server = server.removeprefix("http://")
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Tests have their own report."""

        self._listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._listener.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._listener.server_address[1]}"
        threading.Thread(target=self._listener.serve_forever, daemon=True).start()

    def __enter__(self) -> OddProxy:
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.mood is not None:
            self._say(request, *ANSWERS[self.mood])
        elif self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            self._say(request, *ANSWERS["401"])
        elif len(body) > self.largest:
            self._say(request, 413, "text/html", {}, _PAGE)
        else:
            self._pass_on(request, body)

    def _pass_on(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        server = http.client.HTTPConnection(self._server, timeout=60)
        try:
            server.request(request.command, request.path, body, dict(request.headers.items()))
            answer = server.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in _OWN}
            data, kind = answer.read(), kept.pop("Content-Type", kept.pop("content-type", "application/json"))
            self._say(request, answer.status, kind, kept, data)
        finally:
            server.close()

    def _say(
        self, request: BaseHTTPRequestHandler, status: int, kind: str, headers: dict[str, str], data: bytes
    ) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": kind, **headers, "Content-Length": str(len(data))}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)
