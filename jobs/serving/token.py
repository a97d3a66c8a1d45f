"""Token of a server, and the cookie made from it.

The token stands in the address that the command prints. A browser that opens the address gets a cookie made from it,
so that the token is in no further address, history or log.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import UserError

_SHORTEST = 16
COOKIE = "isnet_token"
RATER_COOKIE = "isnet_rater"
# Of requests by cookie that change something: another site's page cannot send it.
CROSS_SITE_HEADER = ("x-requested-with", "isnet")


def new_token() -> str:
    """Makes the token of one start of a server."""
    return secrets.token_urlsafe(24)


def checked_token(token: str) -> str:
    """Checks a token of the user's own; raises `UserError`."""
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{SERVE_TOKEN_VARIABLE} has {len(token)} characters; need at least {_SHORTEST} letters and digits without "
            "spaces; choose another one, or leave it out, and the command makes one"
        )
    return token


def cookie_of(token: str) -> str:
    """Value of the cookie; it does not tell the token."""
    return hmac.new(token.encode(), b"cookie of isnet serve", hashlib.sha256).hexdigest()


def is_token(offered: str | None, token: str) -> bool:
    """Compares in constant time."""
    return offered is not None and hmac.compare_digest(offered.encode("utf-8", "replace"), token.encode())


def bearer(authorization: str | None) -> str | None:
    """The token of an `Authorization` header, if it has one."""
    kind, _, value = (authorization or "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else None


def new_rater() -> str:
    """Makes the name of a browser that votes."""
    return f"browser-{secrets.token_hex(8)}"
