"""HTTP GET over pooled connections, without copies of the body.

Bodies are read by Python's own HTTP client straight into the reader's memory. urllib3 and the layers above it copy a
body two or three times, which for large ranges costs more processor time than receiving it. Not covered: proxies,
redirects, credentials (`fast_get.py`), retries (`request.py`).
"""

from __future__ import annotations

import http.client
import io
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeAlias, cast
from urllib.parse import SplitResult

_MAX_ERROR_BYTES = 64 * 1024  # of an error's body; S3's have a few hundred

_HEADERS_S = 60.0  # for all headers together; the limit on silence is met by a byte a second

Origin: TypeAlias = tuple[str, str]
"""Scheme and host with port."""


class HttpResponse:
    """Status, headers (names in small letters) and unread body.

    Use as a context manager. A body read to its end returns the connection to the pool; otherwise it is closed.
    """

    def __init__(
        self, pool: HttpPool, origin: Origin, connection: http.client.HTTPConnection, raw: _TimedResponse
    ) -> None:
        self._pool = pool
        self._origin = origin
        self._connection = connection
        self._raw = raw
        self.status = raw.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in raw.getheaders()}

    def __enter__(self) -> HttpResponse:
        return self

    def __exit__(self, *_: object) -> None:
        # http.client marks a body as closed when its last byte was read.
        if self._raw.isclosed() and not self._raw.will_close:
            self._pool.put_back(self._origin, self._connection)
        else:
            self._raw.close()
            self._connection.close()

    def read1(self, amount: int) -> bytes:
        """Reads up to `amount` available bytes; empty at the end."""
        return self._raw.read1(amount)

    def readinto(self, memory: memoryview, limit_s: float) -> int:
        """Fills the memory; less at the end or time limit."""
        with self._raw.stream.limit(limit_s):
            return self._raw.readinto(memory)

    def error_body(self) -> bytes:
        """Body of an error answer, at most 64 KiB."""
        return self._raw.read(_MAX_ERROR_BYTES)


class _TimedStream(socket.SocketIO):
    """Stream of a socket, with a limit on time.

    A socket's own limit is on silence, which a byte a second never meets. This one looks at the clock whenever bytes
    have come.
    """

    headers_end_at = math.inf
    _ends_at = math.inf
    _has_received = False

    @contextmanager
    def limit(self, limit_s: float) -> Iterator[None]:
        """Ends a buffered read after this time, with what came."""
        self._ends_at, self._has_received = time.monotonic() + limit_s, False
        try:
            yield
        finally:
            self._ends_at = math.inf

    def readinto(self, buffer: Any) -> int | None:
        """Receives what is there; None when time is over."""
        now = time.monotonic()
        if now > self.headers_end_at:
            raise TimeoutError("headers without an end")
        if now > self._ends_at and self._has_received:
            return None
        self._has_received = True
        return super().readinto(buffer)


class _Lines(io.BufferedReader):
    """Reader that knows its last line."""

    last = b""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Reads one line."""
        self.last = super().readline(size)
        return self.last


class _TimedResponse(http.client.HTTPResponse):
    """Answer read through a `_TimedStream`."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self._timed_socket = sock
        # All that it asks of a socket is a file.
        super().__init__(cast(socket.socket, self), *args, **kwargs)

    def makefile(self, mode: str) -> io.BufferedReader:
        """Stands for the socket, and opens it through a `_TimedStream`."""
        self.stream = _TimedStream(self._timed_socket, "r")
        # As `socket.makefile` does: the socket stays open until its files are closed.
        self._timed_socket._io_refs += 1  # type: ignore[attr-defined]
        self._lines = _Lines(self.stream)
        return self._lines

    def begin(self) -> None:
        """Reads status and headers."""
        self.stream.headers_end_at = time.monotonic() + _HEADERS_S
        super().begin()
        self.stream.headers_end_at = math.inf
        # Python takes headers that a closed connection has cut off.
        if self._lines.last not in (b"\r\n", b"\n"):
            raise http.client.HTTPException("headers without their end")


class HttpPool:
    """Pool of connections; keeps `size` idle ones per origin."""

    def __init__(self, *, connect_s: float, timeout_s: float, size: int) -> None:
        self._connect_s = connect_s
        self._timeout_s = timeout_s
        self._size = size
        self._lock = threading.Lock()
        self._idle: dict[Origin, list[http.client.HTTPConnection]] = {}

    def get(self, url: SplitResult, headers: Mapping[str, str]) -> HttpResponse:
        """Sends a GET. Raises `OSError` and `http.client.HTTPException`."""
        # First over an idle connection; if that one is dead, over a new one.
        origin = (url.scheme, url.netloc)
        idle = self._take_idle(origin)
        if idle is not None:
            try:
                return self._send(idle, origin, url.path, headers)
            except (ConnectionError, http.client.BadStatusLine):
                # The server may close an idle connection at any time: that is no failure of the request.
                idle.close()
        return self._send(self._connect(origin), origin, url.path, headers)

    def put_back(self, origin: Origin, connection: http.client.HTTPConnection) -> None:
        """Keeps a connection, or closes it in a full pool."""
        with self._lock:
            idle = self._idle.setdefault(origin, [])
            if len(idle) < self._size:
                idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        """Closes the idle connections."""
        with self._lock:
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def _take_idle(self, origin: Origin) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(origin)
            # The most recently used one is the least likely to have been closed by the server.
            return idle.pop() if idle else None

    def _send(
        self, connection: http.client.HTTPConnection, origin: Origin, path: str, headers: Mapping[str, str]
    ) -> HttpResponse:
        try:
            connection.request("GET", path, headers=dict(headers))
            return HttpResponse(self, origin, connection, cast(_TimedResponse, connection.getresponse()))
        except BaseException:
            connection.close()
            raise

    def _connect(self, origin: Origin) -> http.client.HTTPConnection:
        scheme, host = origin
        connection = (
            http.client.HTTPSConnection(host, timeout=self._connect_s, context=self._ssl_context)
            if scheme == "https"
            else http.client.HTTPConnection(host, timeout=self._connect_s)
        )
        connection.response_class = _TimedResponse
        connection.connect()
        # Connected: from here on the limit is on silence.
        connection.sock.settimeout(self._timeout_s)
        return connection

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
