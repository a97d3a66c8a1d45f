"""Checks that servers of a cluster answer.

    python -m trainplane.cluster.health URL…    # exits with 0 if all of them answer

An address is `http://HOST:PORT/PATH` (healthy below 400) or `tcp://HOST:PORT` (a connection is healthy). The checks are
probes of Kubernetes, the image's HEALTHCHECK (addresses in ISNET_HEALTH), and part of the local stack. Standard library
only: a probe must not cost seconds of imports.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from urllib.parse import urlsplit

TIMEOUT_S = 3.0


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats a redirect, perhaps to another server, as an answer."""

    def redirect_request(self, *_: object) -> None:
        return None


def health_error(address: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Explains why a server does not answer, else None."""
    parts = urlsplit(address)
    # Servers without HTTP, such as PostgreSQL: a connection is all that can be asked of them.
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), timeout_s).close()
        except OSError as error:
            return f"{address}: {error.strerror or error}"
        return None
    if parts.scheme not in ("http", "https"):
        return f"{address}: not an address to check; need http://HOST:PORT/PATH or tcp://HOST:PORT"
    # No proxy: the server is at most one hop away.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(address, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 400 else f"{address}: HTTP {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The last one: a server that does not speak HTTP.
        return f"{address}: {getattr(error, 'reason', error)}"


def main(argv: Sequence[str]) -> int:
    """Checks all addresses of the command line, or of ISNET_HEALTH."""
    # Without any address it succeeds: a driver serves nothing.
    addresses = list(argv) or os.environ.get("ISNET_HEALTH", "").split()
    errors = [text for address in addresses if (text := health_error(address))]
    for text in errors:
        print(text, file=sys.stderr)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
