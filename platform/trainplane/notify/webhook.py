"""Signed webhooks, as Standard Webhooks 1.0 has them.

A receiver checks `webhook-signature`, refuses an old `webhook-timestamp`, and drops a `webhook-id` that it had before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

import urllib3

from trainplane.errors import UserError
from trainplane.notify.event import Event
from trainplane.notify.private_address import resolve_checked
from trainplane.notify.targets import Target

TIMEOUT_S = 15.0
_PREFIX = "whsec_"
_MIN_SECRET_BYTES = 16


class Undelivered(Exception):
    """The receiver did not take an event.

    Attributes:
        wait_s: Seconds that the receiver asked to wait, if it did.
        gone: The receiver wants no event any more.
    """

    def __init__(self, reason: str, *, wait_s: float | None = None, gone: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.gone = wait_s, gone


def signing_key(secret: str, what: str) -> bytes:
    """Bytes of a secret: `whsec_` and base64, or any text."""
    if secret.startswith(_PREFIX):
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except ValueError:
            raise UserError(
                f"secret of {what} begins with {_PREFIX} and goes on with no base64; copy it again"
            ) from None
    else:
        key = secret.encode()
    if len(key) < _MIN_SECRET_BYTES:
        raise UserError(f"secret of {what} has {len(key)} bytes; need {_MIN_SECRET_BYTES} at least")
    return key


def sign(key: bytes, *, message_id: str, timestamp: int, body: bytes) -> str:
    """Value of `webhook-signature`. Pure."""
    content = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()


def body_of(event: Event) -> bytes:
    """JSON that a receiver gets."""
    data = {"title": event.title, "text": event.text, "severity": event.severity, **event.data}
    return json.dumps({"type": event.kind, "timestamp": event.time, "data": data}, ensure_ascii=False).encode()


def post(event: Event, target: Target, *, timeout_s: float = TIMEOUT_S) -> None:
    """Sends one event; `target` has its secret resolved.

    Raises:
        Undelivered: No answer of 200 to 299; a redirect is none.
        NotPublic: The address leads into the cluster.
        OSError: The name is not known.
    """
    key = signing_key(target.secret, f"notify.{target.name}")
    parts = urlsplit(target.webhook)
    is_tls, host = parts.scheme == "https", str(parts.hostname)
    port = parts.port or (443 if is_tls else 80)
    # Connected to by number, so that a second look-up cannot lead elsewhere; the certificate is the name's.
    address = resolve_checked(host, port, allow_private=target.allow_private)
    body, now = body_of(event), int(time.time())
    headers = {
        "Host": parts.netloc,
        "Content-Type": "application/json",
        "User-Agent": "isnet-platform",
        "webhook-id": event.id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(key, message_id=event.id, timestamp=now, body=body),
    }
    timeout = urllib3.Timeout(timeout_s)
    pool: urllib3.HTTPConnectionPool
    if is_tls:
        pool = urllib3.HTTPSConnectionPool(address, port, timeout=timeout, server_hostname=host, assert_hostname=host)
    else:
        pool = urllib3.HTTPConnectionPool(address, port, timeout=timeout)
    with pool:
        try:
            answer = pool.request(
                "POST",
                parts.path or "/",
                body=body,
                headers=headers,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            # The answer's text is not read: it may be anything of any length.
            answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise Undelivered(f"{parts.netloc} does not answer ({type(error).__name__})") from error
    if not 200 <= answer.status < 300:
        wait = answer.headers.get("Retry-After", "")
        raise Undelivered(
            f"{parts.netloc} answered {answer.status}",
            wait_s=float(wait) if wait.isdecimal() else None,
            gone=answer.status == 410,
        )
