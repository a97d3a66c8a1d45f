"""Whether a part of a cluster answers: `python -m trainplane.cluster.health URL…` exits with 0 where all of them do.

An address is `http://HOST:PORT/PATH` (any answer below 400 is one) or `tcp://HOST:PORT` (a connection is one). The same
checks stand in probes of Kubernetes, in the image's HEALTHCHECK (which reads them from ISNET_HEALTH) and in the local
stack, so that "up" means one thing. Standard library only: a probe must not cost seconds of imports. Not covered:
whether a part does its work well, which is `isnet doctor`'s.
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
    """A redirect is an answer; following it may lead away from the part that was asked."""

    def redirect_request(self, *_: object) -> None:
        return None


def complaint(address: str, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why the part at `address` does not answer, or None where it does."""
    parts = urlsplit(address)
    if parts.scheme == "tcp" and parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), timeout_s).close()
        except OSError as error:
            return f"{address}: {error.strerror or error}"
        return None
    if parts.scheme not in ("http", "https"):
        return f"{address}: no address to ask; need http://HOST:PORT/PATH or tcp://HOST:PORT"
    # No proxy: what is asked is at most one hop away.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    try:
        with opener.open(address, timeout=timeout_s):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code < 400 else f"{address}: HTTP {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        # The last one: something answers that does not speak HTTP.
        return f"{address}: {getattr(error, 'reason', error)}"


def main(argv: Sequence[str]) -> int:
    """All addresses of the call, or of ISNET_HEALTH; none at all is healthy (a driver serves nothing)."""
    addresses = list(argv) or os.environ.get("ISNET_HEALTH", "").split()
    complaints = [text for address in addresses if (text := complaint(address))]
    for text in complaints:
        print(text, file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
