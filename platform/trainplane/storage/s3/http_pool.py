"""GET over connections that are kept: Python's own HTTP client, its bodies read straight into the reader's memory.

urllib3 and what is above it copy a body two or three times, which for large ranges costs more processor time than
receiving it. Not covered: proxies, redirects, credentials (getting.py), trying again (requesting.py).
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
from collections.abc import Mapping
from functools import cached_property
from types import TracebackType
from typing import TypeAlias
from urllib.parse import SplitResult

_MOST_ERROR_BYTES = 64 * 1024

Place: TypeAlias = tuple[str, str]
"""Scheme and host with port."""


class Answer:
    """What came: a status, headers, and a body to be read or not.

    Use as a context manager: read to its end, the connection serves again; left early, it is closed.
    """

    def __init__(self, wire: Wire, place: Place, line: http.client.HTTPConnection, made: http.client.HTTPResponse):
        self._wire = wire
        self._place = place
        self._line = line
        self._made = made
        self.status = made.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in made.getheaders()}

    def __enter__(self) -> Answer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._made.isclosed() and not self._made.will_close:
            self._wire.put_back(self._place, self._line)
        else:
            self._made.close()
            self._line.close()

    def read1(self, amount: int) -> bytes:
        """What there is, `amount` bytes at most; empty at the end."""
        return self._made.read1(amount)

    def readinto(self, memory: memoryview) -> int:
        """Fill the memory; fewer bytes only at the end."""
        return self._made.readinto(memory)

    def error_body(self) -> bytes:
        """What a refusal says, as far as it is short."""
        return self._made.read(_MOST_ERROR_BYTES)


class Wire:
    """Connections of several threads. `connect_s` and `silence_s` are how long a server may take and be silent."""

    def __init__(self, *, connect_s: float, silence_s: float, most: int) -> None:
        self._connect_s = connect_s
        self._silence_s = silence_s
        self._most = most
        self._lock = threading.Lock()
        self._idle: dict[Place, list[http.client.HTTPConnection]] = {}

    def get(self, url: SplitResult, headers: Mapping[str, str]) -> Answer:
        """Ask for a URL. Raises `OSError` and `http.client.HTTPException`."""
        place = (url.scheme, url.netloc)
        kept = self._kept(place)
        if kept is not None:
            try:
                return self._ask(kept, place, url.path, headers)
            except (ConnectionError, http.client.BadStatusLine):
                # The server may end a connection that nobody uses at any time: that is no failure of the request.
                kept.close()
        line = self._connected(place)
        return self._ask(line, place, url.path, headers)

    def put_back(self, place: Place, line: http.client.HTTPConnection) -> None:
        """Keep a connection for another request."""
        with self._lock:
            idle = self._idle.setdefault(place, [])
            if len(idle) < self._most:
                idle.append(line)
                return
        line.close()

    def close(self) -> None:
        """End the connections that nobody uses."""
        with self._lock:
            idle = [line for lines in self._idle.values() for line in lines]
            self._idle.clear()
        for line in idle:
            line.close()

    def _kept(self, place: Place) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(place)
            # The last one that was used: it is the least likely to have been ended.
            return idle.pop() if idle else None

    def _ask(self, line: http.client.HTTPConnection, place: Place, path: str, headers: Mapping[str, str]) -> Answer:
        try:
            line.request("GET", path, headers=dict(headers))
            return Answer(self, place, line, line.getresponse())
        except BaseException:
            line.close()
            raise

    def _connected(self, place: Place) -> http.client.HTTPConnection:
        scheme, host = place
        line = (
            http.client.HTTPSConnection(host, timeout=self._connect_s, context=self._trust)
            if scheme == "https"
            else http.client.HTTPConnection(host, timeout=self._connect_s)
        )
        line.connect()
        line.sock.settimeout(self._silence_s)
        return line

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=os.environ.get("AWS_CA_BUNDLE"))
