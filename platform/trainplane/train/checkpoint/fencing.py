"""Fencing token: only the newest attempt writes checkpoints.

A rank can outlive its attempt: its node was cut off but not lost, its controller died, or a user started the run on
another machine. Such a rank would write beside its successor and delete what that has half written. So every attempt
stores a new token in `RUN/attempt.json`, and reads it before it writes or deletes; another token there stops it.

Not covered: two processes of one machine (`run_key.exclusive`), and a successor that starts between comparison and
write. Then both write the same bytes, because a step has the same result in every attempt.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime

from trainplane.config.canonical import canonical_json
from trainplane.storage import NotFound, Store
from trainplane.train.errors import Superseded

KEY = "attempt.json"


@dataclass(frozen=True)
class FencingToken:
    """Right of one attempt to write to a run's folder."""

    store: Store
    token: str

    @staticmethod
    def acquire(store: Store) -> FencingToken:
        """Stores a new token, which revokes all earlier ones."""
        token = secrets.token_hex(16)
        store.write(KEY, _about(token))
        return FencingToken(store, token)

    @staticmethod
    def acquire_idle(store: Store, stamp: str) -> FencingToken | None:
        """Stores a token only if no attempt has begun since.

        Args:
            store: The run's folder.
            stamp: Of the last attempt's token; empty: there was none.
        """
        token = secrets.token_hex(16)
        data = _about(token)
        is_ours = store.replace(KEY, data, stamp=stamp) if stamp else store.create(KEY, data)
        return FencingToken(store, token) if is_ours else None

    def check(self) -> None:
        """Raises `Superseded` where another attempt holds the token."""
        # A missing or unreadable token names no other attempt.
        try:
            data = self.store.read(KEY)
        except NotFound:
            return
        try:
            current = json.loads(data)
        except (ValueError, RecursionError):
            return
        if isinstance(current, dict) and current.get("token") != self.token:
            raise Superseded(
                f"another attempt ({current.get('by')}) has continued the run in {self.store.address} since "
                f"{current.get('since')}, so this one stops; wait for that one, or end it and run the command again"
            )


def _about(token: str) -> bytes:
    about = {"token": token, "by": f"{socket.gethostname()}:{os.getpid()}", "since": datetime.now(UTC).isoformat()}
    return canonical_json(about)
