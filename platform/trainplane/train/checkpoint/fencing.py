"""Who may write a run's checkpoints: the attempt that began last.

A rank may outlive its attempt: its node was cut off and not lost, its controller died and Ray takes a while to end its
ranks, or somebody started the same run on another machine. It would go on writing beside its successor, and tidy away
what that one has half written. So every attempt leaves a token in `RUN/attempt.json` as it begins; whoever finds
another one there, before it writes or removes anything, has been succeeded and stops. Not covered: two processes of
one machine (`identity.exclusive` refuses the second), and a successor that begins between looking and writing, who
then writes the same bytes: what a step leads to is the same in every attempt.
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
class Tenure:
    """The right of one attempt to write to a run's folder."""

    store: Store
    token: str

    @staticmethod
    def begin(store: Store) -> Tenure:
        """Take over from whoever wrote here before. Raises `StorageError` where the store cannot be written."""
        token = secrets.token_hex(16)
        about = {"token": token, "by": f"{socket.gethostname()}:{os.getpid()}", "since": datetime.now(UTC).isoformat()}
        store.write(KEY, canonical_json(about))
        return Tenure(store, token)

    def check(self) -> None:
        """Raises `Superseded` where another attempt has begun since, `StorageError` where that cannot be learnt."""
        try:
            found = json.loads(self.store.read(KEY))
        except (NotFound, ValueError):
            # Nobody else claims it.
            return
        if isinstance(found, dict) and found.get("token") != self.token:
            raise Superseded(
                f"another attempt ({found.get('by')}) goes on with the run in {self.store.address} since "
                f"{found.get('since')}, so this one stops; wait for that one, or end it and run the command again"
            )
